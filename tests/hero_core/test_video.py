# SPDX-License-Identifier: GPL-3.0-or-later
"""Sampling and resize against the official program's numbers; files of every kind, exact to the frame."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from movies import number_of, numbered, turn_metadata, write_movie, write_sound

from hero_core.errors import Cancelled, HeroError
from hero_core.video import VideoClip, prepare_frames, read_video, resize, sample_indices


def numbers(clip: VideoClip) -> list[int]:
    return [number_of(image) for image in clip.frames]


def test_sampling_is_the_official_rule(shared: Path) -> None:
    golden = np.load(shared / "golden/video_preprocess.npz")
    for total, sixteen, eight in zip(
        golden["in.total_frames"], golden["out.indices16"], golden["out.indices8"], strict=True
    ):
        np.testing.assert_array_equal(sample_indices(int(total)), sixteen)
        np.testing.assert_array_equal(sample_indices(int(total), 8), eight)


def test_sampling_known_case() -> None:
    assert sample_indices(141).tolist() == [4, 13, 22, 30, 39, 48, 57, 66, 74, 83, 92, 101, 110, 118, 127, 136]
    assert sample_indices(1).tolist() == [0] * 16
    with pytest.raises(HeroError, match="no frames"):
        sample_indices(0)


@pytest.mark.parametrize("case", range(5))
def test_resize_is_that_of_cv2(shared: Path, case: int) -> None:
    golden = np.load(shared / "golden/video_preprocess.npz")
    expected = golden[f"out.resized{case}"]
    image = resize(golden[f"in.img{case}"], *expected.shape[:2])
    assert np.abs(image.astype(int) - expected).max() <= 1
    assert (image == expected).mean() > 0.99


def test_resize_keeps_a_picture_of_the_right_size_and_a_flat_one() -> None:
    image = numbered(5, 224, 224)
    np.testing.assert_array_equal(resize(image), image)
    for size in ((1, 1), (3, 500), (1080, 1920)):
        assert (resize(np.full((*size, 3), 137, np.uint8)) == 137).all()


def test_real_clip_as_the_official_program_sees_it(shared: Path) -> None:
    golden = np.load(shared / "golden/lion_frames.npz")
    clip = read_video(shared / "videos/lion_approaching.mp4")
    np.testing.assert_array_equal(clip.indices, golden["frame_indices"])
    assert clip.total_frames == int(golden["total_frames"])
    difference = np.abs(clip.frames.astype(int) - golden["resized_uint8"])
    assert difference.mean() <= 0.1
    assert difference.max() <= 3
    assert clip.fps == pytest.approx(25)
    assert clip.duration == pytest.approx(141 / 25)


def test_prepare_frames_takes_arrays_of_any_length() -> None:
    images = np.stack([numbered(i) for i in range(50)])
    ready = prepare_frames(images)
    assert ready.shape == (16, 224, 224, 3)
    assert ready.dtype == np.uint8
    assert [number_of(image) for image in ready] == sample_indices(50).tolist()
    assert (prepare_frames(images[:1]) == prepare_frames(images[:1])[0]).all()
    assert prepare_frames(images, num=4, size=32).shape == (4, 32, 32, 3)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((4, 8, 8, 4), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((4, 0, 8, 3), np.uint8),
    ],
)
def test_prepare_frames_refuses_what_is_no_clip(frames: np.ndarray) -> None:
    with pytest.raises(HeroError, match=r"\(T, height, width, 3\)|at least one"):
        prepare_frames(frames)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "3", "g": "250"}),
        ("b.mp4", "libx264", {"bf": "2", "g": "12", "x264-params": "open-gop=1"}),
        ("c.mp4", "libx265", {"x265-params": "log-level=error:bframes=3"}),
        ("d.mkv", "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
        ("e.avi", "mpeg4", {}),
        ("f.mov", "mpeg4", {"bf": "2"}),
        ("g.webm", "libvpx", {"cpu-used": "8", "deadline": "realtime"}),
        ("h.mpg", "mpeg2video", {"bf": "2"}),
        ("i.ts", "libx264", {"bf": "3"}),
        ("j.h264", "libx264", {"bf": "0"}),
        ("k.gif", "gif", None),
    ],
)
def test_exact_frames_of_every_container(tmp_path: Path, name: str, codec: str, options: dict[str, str] | None) -> None:
    if codec == "gif":
        pytest.importorskip("av")
        path = write_gif(tmp_path / name, 100)
    else:
        path = write_movie(tmp_path / name, 100, codec=codec, options=options)
    clip = read_video(path)
    assert clip.total_frames == 100
    assert numbers(clip) == sample_indices(100).tolist()
    assert not clip.damaged
    assert clip.duration == pytest.approx(4, rel=0.02)


def write_gif(path: Path, count: int) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "rgb8"
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(i), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="rgb8")))
        container.mux(stream.encode(None))
    return path


def test_seeking_shows_the_same_pixels_as_decoding_all(shared: Path) -> None:
    from hero_core import video

    for path in sorted((shared / "videos").iterdir()):
        clip = read_video(path)
        through = video._decode_through(path, sorted(set(clip.indices.tolist())), 224, lambda done: None)
        np.testing.assert_array_equal(clip.frames, np.stack([through[i] for i in clip.indices]), err_msg=path.name)
        assert video._count_frames(path, lambda done: None) == clip.total_frames


def test_one_frame(tmp_path: Path) -> None:
    clip = read_video(write_movie(tmp_path / "one.mp4", [numbered(77)]))
    assert clip.total_frames == 1
    assert numbers(clip) == [77] * 16
    assert clip.duration == pytest.approx(1 / 25)


def test_fewer_frames_than_sampled(tmp_path: Path) -> None:
    clip = read_video(write_movie(tmp_path / "five.mp4", 5))
    assert numbers(clip) == sample_indices(5).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_variable_rate_counts_frames(tmp_path: Path) -> None:
    times = np.cumsum([40] * 50 + [80] * 50).tolist()
    clip = read_video(write_movie(tmp_path / "vfr.mkv", 100, times=times))
    assert numbers(clip) == sample_indices(100).tolist()
    assert clip.duration == pytest.approx(6, rel=0.02)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_by_metadata_comes_upright(tmp_path: Path, degrees: int) -> None:
    upright = numbered(1234, 240, 320)
    # A phone writes the picture as its sensor lies and says by how much to turn it clockwise.
    lying = np.ascontiguousarray(np.rot90(upright, degrees // 90))
    path = turn_metadata(write_movie(tmp_path / "turned.mp4", [lying] * 20), degrees)
    clip = read_video(path)
    assert numbers(clip) == [1234] * 16
    assert np.abs(clip.frames[0].astype(int) - resize(upright)).mean() < 6


def test_4k(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "4k.mp4", 20, size=(3840, 2160), options={"preset": "ultrafast"})
    assert numbers(read_video(path)) == sample_indices(20).tolist()


def test_ten_minutes_long_is_read_by_seeking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hero_core import video

    path = write_movie(tmp_path / "long.mp4", 15000, options={"preset": "ultrafast", "g": "250"}, size=(160, 96))
    decoded, seek = [0], video._decoded

    def counted(*args: Any) -> Iterator[Any]:
        for frame in seek(*args):
            decoded[0] += 1
            yield frame

    monkeypatch.setattr(video, "_decoded", counted)
    clip = read_video(path)
    assert clip.total_frames == 15000
    assert clip.duration == pytest.approx(600)
    assert numbers(clip) == sample_indices(15000).tolist()
    assert 16 <= decoded[0] <= 16 * 250, "each frame costs the group of pictures that it lies in at most"


def test_sound_beside_the_picture_does_no_harm(tmp_path: Path) -> None:
    assert numbers(read_video(write_movie(tmp_path / "sound.mp4", 40, sound=True))) == sample_indices(40).tolist()


def test_missing_empty_folder_and_no_video(tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="There is no video file"):
        read_video(tmp_path / "absent.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(HeroError, match="is empty"):
        read_video(tmp_path / "empty.mp4")
    with pytest.raises(HeroError, match="is a folder"):
        read_video(tmp_path)
    (tmp_path / "text.mp4").write_text("this is no video at all, it only says so\n" * 100)
    with pytest.raises(HeroError, match="is not a video that can be read"):
        read_video(tmp_path / "text.mp4")
    with pytest.raises(HeroError, match="no video in it, only sound"):
        read_video(write_sound(tmp_path / "sound.m4a"))


def test_cut_file_whose_header_is_at_the_end_is_refused(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "cut.mp4", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(HeroError, match="is not a video that can be read"):
        read_video(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("name", "options"), [("cut.mp4", {"movflags": "faststart"}), ("cut.mkv", {}), ("cut.avi", {})]
)
def test_cut_file_counts_as_what_is_left_of_it(
    tmp_path: Path, name: str, options: dict[str, str], share: float
) -> None:
    import av

    path = tmp_path / name
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=25, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for i in range(100):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(i), format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    clip = read_video(path)
    assert 0.5 * share * 100 < clip.total_frames < 100
    if name == "cut.mp4":
        assert clip.damaged
    found, expected = numbers(clip), sample_indices(clip.total_frames).tolist()
    assert found == expected


def test_nothing_decodable_left(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "hollow.mkv", 30)
    data = path.read_bytes()
    path.write_bytes(data[:600])
    with pytest.raises(HeroError, match=r"can be decoded|can be read"):
        read_video(path)


def test_cancel_stops_at_every_point(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "cancel.mp4", 60)
    calls: list[tuple[int, int]] = []
    read_video(path, on_progress=lambda done, total: calls.append((done, total)) is None)
    assert calls[-1] == (16, 16)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    for stop in range(0, len(calls), 7):
        seen = 0

        def progress(done: int, total: int, stop: int = stop) -> bool:
            nonlocal seen
            seen += 1
            return seen <= stop

        with pytest.raises(Cancelled):
            read_video(path, on_progress=progress)
        assert seen == stop + 1


def test_needs_neither_torch_nor_av_to_be_imported() -> None:
    code = "import sys, hero_core.video; assert not {'torch', 'av', 'scipy', 'bpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
