# SPDX-License-Identifier: GPL-3.0-or-later
"""The frames of a strip are those that the sequencer shows, whatever was done to it; the file stays as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from movies import number_of, numbered, turn_metadata, write_movie, write_sound

from hero_core.errors import Cancelled, HeroError
from hero_core.video import read_video, sample_indices

bpy = pytest.importorskip("bpy")
pytest.importorskip("av", reason="needs PyAV to make test movies")

from hero_blender import compat  # noqa: E402
from hero_blender.strip import StripReading, picture_key, plain_movie, read_strip  # noqa: E402

# 5.2 warns of names that go in 6.0; the tests use those that all versions have.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

COUNT = 64


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movie(tmp_path_factory.mktemp("movie") / "numbers.mp4", COUNT)


@pytest.fixture
def scene(blend: Any) -> Any:
    scene = blend.context.scene
    scene.render.resolution_x, scene.render.resolution_y = 320, 240
    scene.render.fps = 25
    return scene


@pytest.fixture
def strip(scene: Any, movie: Path) -> Any:
    return compat.new_movie_strip(scene, "numbers", str(movie), 2, 11)


def numbers(clip: Any) -> list[int]:
    return [number_of(image) for image in clip.frames]


def state(scene: Any) -> dict[str, Any]:
    """Everything that may show a trace: data-blocks, settings of the scene, of its render and of its strips."""
    bpy.context.view_layer.update()
    found: dict[str, Any] = {
        name: sorted(item.name for item in items)
        for name in dir(bpy.data)
        if isinstance(items := getattr(bpy.data, name), bpy.types.bpy_prop_collection)
    }
    found["users"] = sorted((type(item).__name__, item.name, item.users) for item in bpy.data.user_map())

    def settings(of: Any, prefix: str) -> None:
        for prop in of.bl_rna.properties:
            value = getattr(of, prop.identifier, None)
            if isinstance(value, (bool, int, float, str, set)):
                found[f"{prefix}.{prop.identifier}"] = value

    for each in bpy.data.scenes:
        settings(each, each.name)
        settings(each.render, f"{each.name}.render")
        settings(each.render.image_settings, f"{each.name}.image")
        settings(each.view_settings, f"{each.name}.view")
        settings(each.display_settings, f"{each.name}.display")
        for item in compat.all_strips_of(each):
            settings(item, f"{each.name}.{item.name}")
        if each.sequence_editor:
            for channel in each.sequence_editor.channels:
                settings(channel, f"{each.name}.{channel.name}")
    found["handlers"] = {
        name: list(functions)
        for name in dir(bpy.app.handlers)
        if isinstance(functions := getattr(bpy.app.handlers, name), list)
    }
    found["window"] = (bpy.context.window.scene.name, bpy.context.scene.name) if bpy.context.window else None
    return found


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Around each call of read_strip in this module: the file is the same before and after."""
    original = read_strip

    def watched(scene: Any, *args: Any, **kwargs: Any) -> Any:
        before = state(scene)
        try:
            return original(scene, *args, **kwargs)
        finally:
            after = state(scene)
            assert after == before

    globals()["read_strip"] = watched
    yield
    globals()["read_strip"] = original


def test_untouched_strip_is_the_file_as_the_official_program_sees_it(scene: Any, strip: Any, movie: Path) -> None:
    clip = read_strip(scene, strip)
    assert numbers(clip) == sample_indices(COUNT).tolist()
    assert (clip.start, clip.end) == (11, 11 + COUNT)
    assert clip.seconds == pytest.approx(COUNT / 25)
    assert clip.frames.shape == (16, 224, 224, 3)
    assert np.abs(clip.frames.astype(int) - read_video(movie).frames).mean() < 2


def test_real_clip(scene: Any, shared: Path) -> None:
    scene.render.resolution_x, scene.render.resolution_y = 1280, 720
    path = shared / "videos/lion_approaching.mp4"
    clip = read_strip(scene, compat.new_movie_strip(scene, "lion", str(path), 1, 1))
    difference = np.abs(clip.frames.astype(int) - read_video(path).frames)
    assert difference.mean() < 1.5  # from 4.5 Blender decodes without swscale's bias of one grey level
    assert difference.max() <= 5


def test_trim_and_offset(scene: Any, strip: Any) -> None:
    strip.frame_offset_start, strip.frame_offset_end = 20, 12
    clip = read_strip(scene, strip)
    assert (clip.start, clip.end) == (31, 11 + COUNT - 12)
    assert numbers(clip) == [20 + i for i in sample_indices(COUNT - 32)]


def test_one_frame_and_negative_time(scene: Any, strip: Any) -> None:
    strip.frame_start = -100
    strip.frame_final_duration = 1
    clip = read_strip(scene, strip)
    assert numbers(clip) == [0] * 16
    assert (clip.start, clip.end) == (-100, -99)
    assert clip.seconds == pytest.approx(1 / 25)


def test_flip_and_reverse(scene: Any, strip: Any) -> None:
    strip.use_flip_x = strip.use_reverse_frames = True
    clip = read_strip(scene, strip)
    assert [number_of(image[:, ::-1]) for image in clip.frames] == [COUNT - 1 - i for i in sample_indices(COUNT)]
    assert clip.frames[0, 40, 40, 2] > 150 > clip.frames[0, 40, 40, 0]  # blue is on the left now


def test_crop_shows_the_rest_stretched(scene: Any, strip: Any) -> None:
    strip.crop.max_y = 120  # the red and blue half
    clip = read_strip(scene, strip)
    stretched = clip.frames[0].astype(int)
    # The bars of the lower half now fill the picture.
    assert number_of(np.concatenate([stretched, stretched])) == sample_indices(COUNT)[0]
    assert stretched[4, :8].max() < 40 or number_of(np.concatenate([stretched, stretched])) & 1
    strip.crop.max_y, strip.crop.min_y, strip.crop.max_x = 0, 120, 160  # the red quarter
    red = read_strip(scene, strip).frames[3]
    np.testing.assert_allclose(red.reshape(-1, 3).mean(0), (200, 30, 30), atol=8)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0), (0.5, 0), (0.5, 60), (0.25, -40)])
def test_size_and_place_in_the_canvas_do_not_count(scene: Any, strip: Any, scale: float, offset: int) -> None:
    strip.transform.scale_x = strip.transform.scale_y = scale
    strip.transform.offset_x, strip.transform.offset_y = offset, offset // 2
    clip = read_strip(scene, strip)
    assert numbers(clip) == sample_indices(COUNT).tolist()


def test_letterbox_does_not_count_and_canvas_may_be_larger(scene: Any, strip: Any, movie: Path) -> None:
    scene.render.resolution_x, scene.render.resolution_y = 1920, 1080
    scene.render.resolution_percentage = 50
    strip.transform.scale_x = strip.transform.scale_y = 4.5
    clip = read_strip(scene, strip)
    assert numbers(clip) == sample_indices(COUNT).tolist()
    assert np.abs(clip.frames.astype(int) - read_video(movie).frames).mean() < 3


def test_zoom_shows_what_the_canvas_shows(scene: Any, strip: Any) -> None:
    strip.transform.scale_x = strip.transform.scale_y = 2
    strip.transform.offset_x, strip.transform.offset_y = 160, -120  # the upper left quarter fills the canvas
    clip = read_strip(scene, strip)
    np.testing.assert_allclose(clip.frames[5].reshape(-1, 3).mean(0), (200, 30, 30), atol=8)


def test_moving_strip_is_seen_in_one_box(scene: Any, strip: Any) -> None:
    strip.transform.scale_x = strip.transform.scale_y = 0.5
    for frame, offset in ((11, -80), (11 + COUNT, 80)):
        strip.transform.offset_x = offset
        strip.transform.keyframe_insert("offset_x", frame=frame)
    clip = read_strip(scene, strip)
    lit = clip.frames.max(-1) > 20  # (16, 224, 224)
    left = [int(np.flatnonzero(image[:100].any(0))[0]) for image in lit]
    assert left == sorted(left)
    assert left[0] < 8
    assert 100 < left[-1] <= 112
    assert scene.animation_data.action.users == 1


def test_colour_edits(scene: Any, strip: Any) -> None:
    strip.color_saturation = 0
    grey = read_strip(scene, strip).frames
    assert np.ptp(grey.astype(int), axis=-1).max() <= 3
    strip.color_saturation, strip.color_multiply = 1, 0.5
    dark = read_strip(scene, strip).frames[0, 40, 40]
    np.testing.assert_allclose(dark, (100, 15, 15), atol=8)


def test_modifier(scene: Any, strip: Any) -> None:
    with in_sequencer(scene, strip):  # modifiers.new crashes Blender 5.0
        bpy.ops.sequencer.strip_modifier_add(type="BRIGHT_CONTRAST")
    modifier = strip.modifiers[0]
    modifier.bright = 40
    bright = read_strip(scene, strip).frames.astype(int).mean()
    modifier.mute = True
    assert bright > read_strip(scene, strip).frames.astype(int).mean() + 10


def test_opacity_is_seen_over_black(scene: Any, strip: Any) -> None:
    plain = read_strip(scene, strip).frames[0, 40, 40].astype(int)
    strip.blend_alpha = 0.5
    for blend in ("ALPHA_OVER", "MULTIPLY", "ADD"):
        strip.blend_type = blend
        half = read_strip(scene, strip).frames[0, 40, 40].astype(int)
        np.testing.assert_allclose(half, plain / 2, atol=3)


def test_view_transform_and_dither_of_the_scene_do_not_count(scene: Any, strip: Any) -> None:
    plain = read_strip(scene, strip).frames
    scene.view_settings.view_transform = "AgX"
    scene.view_settings.exposure = 2
    scene.render.dither_intensity = 2
    scene.render.use_stamp = scene.render.use_border = True
    scene.render.filepath = "//somewhere"
    scene.render.image_settings.color_mode = "BW"
    np.testing.assert_array_equal(read_strip(scene, strip).frames, plain)


def test_other_channels_do_not_count(scene: Any, strip: Any, movie: Path) -> None:
    plain = read_strip(scene, strip).frames
    over = compat.new_movie_strip(scene, "over", str(movie), 3, 20)
    under = compat.new_movie_strip(scene, "under", str(movie), 1, 30)
    over.use_flip_x = under.use_flip_x = True
    new_effect(scene, "white", "COLOR", 4, 1, 200).color = (1, 1, 1)
    grey = new_effect(scene, "grey", "ADJUSTMENT", 5, 1, 200)
    grey.color_saturation = 0
    np.testing.assert_array_equal(read_strip(scene, strip).frames, plain)


def new_effect(scene: Any, name: str, kind: str, channel: int, start: int, length: int, *inputs: Any) -> Any:
    strips = compat.strips_of(scene.sequence_editor)
    if bpy.app.version >= (5, 0):
        given = dict(zip(("input1", "input2"), inputs, strict=False))
        return strips.new_effect(name=name, type=kind, channel=channel, frame_start=start, length=length, **given)
    names = ("input1", "input2") if bpy.app.version >= (4, 4) else ("seq1", "seq2")
    given = dict(zip(names, inputs, strict=False))
    return strips.new_effect(
        name=name, type=kind, channel=channel, frame_start=start, frame_end=start + length, **given
    )


def test_strip_under_an_effect_and_the_effect_itself(scene: Any, strip: Any) -> None:
    plain = read_strip(scene, strip).frames
    speed = new_effect(scene, "speed", "SPEED", 3, 11, COUNT, strip)
    speed.speed_control = "MULTIPLY"
    speed.speed_factor = 0.5
    np.testing.assert_array_equal(read_strip(scene, strip).frames, plain)
    found = numbers(read_strip(scene, speed))
    assert np.abs(np.array(found) - sample_indices(COUNT) // 2).max() <= 1


def test_image_sequence(scene: Any, tmp_path: Path) -> None:
    write_images(tmp_path, 40)
    strips = compat.strips_of(scene.sequence_editor or scene.sequence_editor_create())
    strip = strips.new_image(name="images", filepath=str(tmp_path / "0000.png"), channel=1, frame_start=5)
    for i in range(1, 40):
        strip.elements.append(f"{i:04}.png")
    strip.frame_final_duration = 40
    clip = read_strip(scene, strip)
    assert numbers(clip) == sample_indices(40).tolist()
    strip.frame_offset_start = 10
    assert numbers(read_strip(scene, strip)) == [10 + i for i in sample_indices(30)]
    (tmp_path / "0020.png").unlink()
    with pytest.raises(HeroError, match=r"offline: there is no file '.*0020.png'"):
        read_strip(scene, strip)


def write_images(folder: Path, count: int) -> None:
    import av

    for i in range(count):
        with av.open(str(folder / f"{i:04}.png"), "w", format="image2") as container:
            stream = container.add_stream("png", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "rgb24"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(i), format="rgb24")))
            container.mux(stream.encode(None))


def test_scene_strip(scene: Any, movie: Path) -> None:
    other = bpy.data.scenes.new("other")
    other.render.resolution_x, other.render.resolution_y = 320, 240
    other.view_settings.view_transform = "Standard"
    compat.new_movie_strip(other, "inner", str(movie), 1, 1).strobe = 1  # 4.2 makes 0 into 1 when it renders
    other.frame_end = COUNT
    strips = compat.strips_of(scene.sequence_editor or scene.sequence_editor_create())
    strip = strips.new_scene(name="scene", scene=other, channel=1, frame_start=100)
    strip.scene_input = "SEQUENCER"
    frame = other.frame_current
    clip = read_strip(scene, strip)
    assert clip.end - clip.start == COUNT
    assert np.abs(np.array(numbers(clip)) - sample_indices(COUNT)).max() <= 1
    assert other.frame_current == frame


def test_scene_strip_with_camera(scene: Any) -> None:
    other = bpy.data.scenes.new("other")
    other.render.resolution_x = other.render.resolution_y = 64
    other.render.engine = "CYCLES"
    other.cycles.samples = 1
    other.cycles.use_denoising = False
    other.world = bpy.data.worlds.new("w")
    other.frame_end = 20
    strips = compat.strips_of(scene.sequence_editor or scene.sequence_editor_create())
    strip = strips.new_scene(name="scene", scene=other, channel=1, frame_start=1)
    with pytest.raises(HeroError, match="has no camera"):
        read_strip(scene, strip)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    other.collection.objects.link(camera)
    other.camera = camera
    lamp = bpy.data.lights.new("sun", "SUN")
    mesh = bpy.data.meshes.new("cube")
    mesh.from_pydata([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], [], [(0, 1, 2, 3)])
    plane = bpy.data.objects.new("plane", mesh)
    sun = bpy.data.objects.new("sun", lamp)
    lamp.energy = 3
    sun.location.z = 3
    for item in (plane, sun):
        other.collection.objects.link(item)
    for frame, z in ((1, 30), (20, 3)):
        camera.location.z = z
        camera.keyframe_insert("location", index=2, frame=frame)
    frames = read_strip(scene, strip).frames.astype(int)
    covered = [(image.mean(-1) > image.mean(-1).max() * 0.7).mean() for image in frames]
    assert covered[0] < 0.2 < 0.8 < covered[-1]


@contextlib.contextmanager
def in_sequencer(scene: Any, strip: Any) -> Iterator[None]:
    """With the strip alone selected in a sequencer, for operators that want one."""
    window = bpy.context.window_manager.windows[0]
    area = window.screen.areas[0]
    area.type = "SEQUENCE_EDITOR"
    if hasattr(window.workspace, "sequencer_scene"):
        window.workspace.sequencer_scene = scene
    for other in compat.strips_of(scene):
        other.select = other == strip
    scene.sequence_editor.active_strip = strip
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, area=area, region=region):
        yield


def test_meta_and_a_strip_inside_it(scene: Any, strip: Any) -> None:
    plain = read_strip(scene, strip).frames
    with in_sequencer(scene, strip):
        bpy.ops.sequencer.meta_make()
    meta = compat.strips_of(scene)[0]
    meta.name = "meta"
    clip = read_strip(scene, meta)
    assert clip.start == 11
    np.testing.assert_array_equal(clip.frames, plain)
    inner = compat.all_strips_of(scene)["numbers"]
    np.testing.assert_array_equal(read_strip(scene, inner).frames, plain)
    scene.sequence_editor.display_stack(meta)
    np.testing.assert_array_equal(read_strip(scene, inner).frames, plain)
    assert len(scene.sequence_editor.meta_stack) == 1
    meta.mute = True
    with pytest.raises(HeroError, match="'meta' is muted"):
        read_strip(scene, inner)


def test_retiming(scene: Any, strip: Any) -> None:
    with in_sequencer(scene, strip):  # retiming_keys.add crashes Blender 4.5 and 5.0 on a fresh strip
        bpy.ops.sequencer.retiming_show()
        bpy.ops.sequencer.retiming_segment_speed_set(speed=200)
    start, end = compat.strip_range(strip)
    assert abs(end - start - COUNT // 2) <= 1
    found = np.array(numbers(read_strip(scene, strip)))
    np.testing.assert_allclose(found, 2 * sample_indices(end - start), atol=1)


def test_turned_by_metadata(scene: Any, tmp_path: Path) -> None:
    upright = numbered(1234, 240, 320)
    lying = np.ascontiguousarray(np.rot90(upright, 1))
    path = turn_metadata(write_movie(tmp_path / "turned.mp4", [lying] * 20), 90)
    scene.render.resolution_x, scene.render.resolution_y = 320, 320
    clip = read_strip(scene, compat.new_movie_strip(scene, "turned", str(path), 1, 1))
    if bpy.app.version >= (4, 5):
        assert numbers(clip) == numbers(read_video(path)) == [1234] * 16
    else:  # the sequencer of 4.2 shows it lying, and so it is as the animator sees it
        assert number_of(np.rot90(clip.frames[0], -1)) == 1234


def test_variable_rate_4k_and_sound(scene: Any, tmp_path: Path) -> None:
    times = np.cumsum([40] * 20 + [80] * 20).tolist()
    vfr = compat.new_movie_strip(scene, "v", str(write_movie(tmp_path / "v.mkv", 40, times=times)), 1, 1)
    found = numbers(read_strip(scene, vfr))
    assert found == sorted(found)
    path = write_movie(tmp_path / "4k.mp4", 6, size=(3840, 2160), options={"preset": "ultrafast"}, sound=True)
    large = compat.new_movie_strip(scene, "4k", str(path), 2, 1)
    scene.render.resolution_x, scene.render.resolution_y = 1920, 1080
    large.transform.scale_x = large.transform.scale_y = 0.5
    assert numbers(read_strip(scene, large)) == sample_indices(6).tolist()


def test_muted_strip_and_channel(scene: Any, strip: Any) -> None:
    strip.mute = True
    with pytest.raises(HeroError, match="is muted; unmute it"):
        read_strip(scene, strip)
    strip.mute = False
    scene.sequence_editor.channels[2].mute = True
    with pytest.raises(HeroError, match="'Channel 2', on which 'numbers' lies, is muted"):
        read_strip(scene, strip)


def test_offline_empty_and_broken_files(scene: Any, movie: Path, tmp_path: Path) -> None:
    path = tmp_path / "here.mp4"
    path.write_bytes(movie.read_bytes())
    strip = compat.new_movie_strip(scene, "gone", str(path), 1, 1)
    path.write_bytes(b"")
    with pytest.raises(HeroError, match="is empty"):
        read_strip(scene, strip)
    path.unlink()
    with pytest.raises(HeroError, match=r"'gone' is offline: there is no file '.*here.mp4'"):
        read_strip(scene, strip)


@pytest.mark.skipif(not bpy.app.build_options.audaspace, reason="this Blender is built without sound")
def test_sound_strip(scene: Any, tmp_path: Path) -> None:
    strips = compat.strips_of(scene.sequence_editor or scene.sequence_editor_create())
    strip = strips.new_sound(name="sound", filepath=str(write_sound(tmp_path / "a.m4a")), channel=1, frame_start=1)
    with pytest.raises(HeroError, match="is a sound strip"):
        read_strip(scene, strip)


def test_strip_of_another_scene_and_one_that_shows_nothing(scene: Any, strip: Any) -> None:
    with pytest.raises(HeroError, match="is not in the sequencer of the scene 'other'"):
        read_strip(bpy.data.scenes.new("other"), strip)
    strip.transform.offset_x = 1000
    with pytest.raises(HeroError, match="shows nothing"):
        read_strip(scene, strip)
    grey = new_effect(scene, "adjust", "ADJUSTMENT", 4, 1, 100)
    with pytest.raises(HeroError, match="shows nothing"):
        read_strip(scene, grey)


def test_cancel_and_crash_leave_nothing_behind(scene: Any, strip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    with pytest.raises(Cancelled):
        read_strip(scene, strip, on_progress=lambda done, total: seen.append(done) is None and done < 5)
    assert seen == [0, 1, 2, 3, 4, 5]
    monkeypatch.setattr("hero_blender.strip._read_targa", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_strip(scene, strip)


def test_private_scene_can_be_released_between_two_steps(scene: Any, strip: Any) -> None:
    before = state(scene)
    reading = StripReading(scene, strip)
    while not reading.done:
        reading.step()
        if reading.count % 5 == 0:
            reading.release()
            assert state(scene) == before
    reading.release()
    reading.release()
    assert state(scene) == before
    assert numbers(reading.clip()) == sample_indices(COUNT).tolist()


def test_release_after_another_file_was_loaded(scene: Any, strip: Any) -> None:
    reading = StripReading(scene, strip)
    reading.step()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    reading.release()
    assert len(bpy.data.scenes) == 1


def test_handlers_of_others_do_not_see_the_private_scene(scene: Any, strip: Any) -> None:
    seen: list[str] = []

    def spy(scene: Any, *_: Any) -> None:
        seen.append(scene.name)

    for name in ("render_pre", "render_post", "render_complete", "frame_change_post", "depsgraph_update_post"):
        getattr(bpy.app.handlers, name).append(spy)
    try:
        read_strip(scene, strip)
        assert set(seen) <= {scene.name}
    finally:
        for name in ("render_pre", "render_post", "render_complete", "frame_change_post", "depsgraph_update_post"):
            getattr(bpy.app.handlers, name).remove(spy)


def test_render_result_of_the_animator_is_kept(scene: Any, strip: Any, tmp_path: Path) -> None:
    scene.render.filepath = str(tmp_path / "still.png")
    bpy.ops.render.render(write_still=True)
    assert "Render Result" in bpy.data.images
    read_strip(scene, strip)
    assert "Render Result" in bpy.data.images


# --- Without rendering ---


def same_picture(scene: Any, strip: Any, most: float = 2.0) -> Any:
    """Read from the file as the render shows it: the same frames, and grey levels that hardly differ."""
    plain = plain_movie(scene, strip)
    assert plain is not None
    frames = plain.read()
    assert frames is not None
    rendered = read_strip(scene, strip).frames
    assert np.abs(frames.astype(int) - rendered).mean((1, 2, 3)).max() <= most
    return frames


def test_a_plain_strip_is_read_from_its_file(scene: Any, strip: Any) -> None:
    def found() -> list[int]:
        return [number_of(image) for image in same_picture(scene, strip)]

    assert found() == sample_indices(COUNT).tolist()
    strip.frame_offset_start, strip.frame_offset_end = 20, 12
    assert found() == [20 + i for i in sample_indices(COUNT - 32)]
    strip.frame_start = -40
    assert found() == [20 + i for i in sample_indices(COUNT - 32)]
    scene.render.fps = 30  # it plays one frame of its own in each of the scene's
    assert found() == [20 + i for i in sample_indices(COUNT - 32)]
    strip.frame_final_duration = 1
    assert found() == [20] * 16


@pytest.mark.parametrize("count", [40, 99])
@pytest.mark.parametrize(("file", "rate"), [(25, 24), (30, 24), (50, 30), (24, 60)])
def test_a_file_at_its_own_speed_is_read_too(scene: Any, tmp_path: Path, file: int, rate: int, count: int) -> None:
    scene.render.fps = rate
    path = write_movie(tmp_path / "a.mp4", count, fps=file)
    strip = compat.add_movie(scene, str(path), float(file), 5)
    assert len(compat.retiming_frames(strip)) == 2

    def found() -> list[int]:
        return [number_of(image) for image in same_picture(scene, strip, 12.0)]

    whole = found()
    assert whole == numbers(read_strip(scene, strip))
    assert 0 <= whole[0] < 8 < count - 8 < whole[-1] < count
    strip.frame_offset_start, strip.frame_offset_end = 3, 4  # cut at both ends
    assert found() == numbers(read_strip(scene, strip))


def test_a_strip_that_is_played_at_several_speeds_is_rendered(scene: Any, strip: Any) -> None:
    with in_sequencer(scene, strip):
        bpy.ops.sequencer.retiming_show()
        bpy.ops.sequencer.retiming_segment_speed_set(speed=200)
        bpy.ops.sequencer.retiming_key_add(timeline_frame=25)
    assert len(compat.retiming_frames(strip)) == 3
    assert plain_movie(scene, strip) is None


@pytest.mark.parametrize("size", [(322, 242), (64, 48), (640, 360), (240, 426)])
@pytest.mark.parametrize("canvas", [(320, 240), (1280, 720), (777, 555)])
def test_plain_strips_of_all_sizes(scene: Any, tmp_path: Path, size: tuple[int, int], canvas: tuple[int, int]) -> None:
    scene.render.resolution_x, scene.render.resolution_y = canvas
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    images = [np.stack([across, down, across * 0 + 8 * i], -1).astype(np.uint8) for i in range(24)]
    path = write_movie(tmp_path / "a.mp4", images, fps=30)
    same_picture(scene, compat.new_movie_strip(scene, "a", str(path), 1, 3), 3.0)


def test_plain_strip_turned_by_metadata(scene: Any, tmp_path: Path) -> None:
    lying = np.ascontiguousarray(np.rot90(numbered(1234, 240, 320), 1))
    path = turn_metadata(write_movie(tmp_path / "turned.mp4", [lying] * 20), 90)
    scene.render.resolution_x, scene.render.resolution_y = 320, 320
    same_picture(scene, compat.new_movie_strip(scene, "turned", str(path), 1, 1))


def test_real_plain_clips(scene: Any, shared: Path) -> None:
    scene.render.resolution_x, scene.render.resolution_y = 1280, 720
    for name in ("lion_approaching.mp4", "demo_resources_demo.mp4"):
        same_picture(scene, compat.new_movie_strip(scene, name, str(shared / "videos" / name), 1, 1))


def edits(bpy: Any) -> dict[str, Any]:
    """What an animator may do to a strip that changes its picture or its time."""

    def animated(scene: Any, strip: Any) -> None:
        strip.blend_alpha = 0.5
        strip.keyframe_insert("blend_alpha", frame=20)

    def modified(scene: Any, strip: Any) -> None:
        with in_sequencer(scene, strip):
            bpy.ops.sequencer.strip_modifier_add(type="BRIGHT_CONTRAST")

    def into_meta(scene: Any, strip: Any) -> None:
        with in_sequencer(scene, strip):
            bpy.ops.sequencer.meta_make()

    def zoomed(scene: Any, strip: Any) -> None:
        strip.transform.scale_x = 1.2

    return {
        "flip": lambda scene, strip: setattr(strip, "use_flip_x", True),
        "reverse": lambda scene, strip: setattr(strip, "use_reverse_frames", True),
        "crop": lambda scene, strip: setattr(strip.crop, "max_x", 40),
        "turn": lambda scene, strip: setattr(strip.transform, "rotation", 0.1),
        "move": lambda scene, strip: setattr(strip.transform, "offset_x", 30),
        "zoom": zoomed,
        "colour": lambda scene, strip: setattr(strip, "color_saturation", 0.5),
        "dark": lambda scene, strip: setattr(strip, "color_multiply", 0.5),
        "opacity": lambda scene, strip: setattr(strip, "blend_alpha", 0.5),
        "held": lambda scene, strip: setattr(strip, "frame_final_duration", COUNT + 20),
        "strobe": lambda scene, strip: setattr(strip, "strobe", 4.0),
        "colour space": lambda scene, strip: setattr(strip.colorspace_settings, "name", "Non-Color"),
        "animated": animated,
        "modifier": modified,
        "meta": into_meta,
    }


@pytest.mark.parametrize("edit", sorted(edits(bpy)))
def test_a_strip_that_is_edited_is_rendered(scene: Any, strip: Any, edit: str) -> None:
    before = picture_key(scene, strip)
    assert before is not None
    edits(bpy)[edit](scene, strip)
    plain = plain_movie(scene, strip)
    assert plain is None or plain.read() is None
    assert picture_key(scene, strip) != before


def test_a_file_of_which_only_blender_knows_what_it_shows(scene: Any, tmp_path: Path) -> None:
    times = np.cumsum([40] * 20 + [80] * 20).tolist()
    vfr = compat.new_movie_strip(scene, "v", str(write_movie(tmp_path / "v.mkv", 40, times=times)), 1, 1)
    plain = plain_movie(scene, vfr)
    assert plain is None or plain.read() is None


def test_a_file_of_nearly_the_rate_of_the_scene(scene: Any, strip: Any) -> None:
    plain = plain_movie(scene, strip)
    assert plain is not None and plain.read() is not None
    scene.render.fps, scene.render.fps_base = 25, 1.001
    plain = plain_movie(scene, strip)
    assert plain is not None and plain.read() is None


def test_the_picture_is_known_to_be_the_same(scene: Any, strip: Any, movie: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(movie.read_bytes())
    strip.filepath = str(copy)
    strip.use_flip_x = True
    key = picture_key(scene, strip)
    assert key is not None
    strip.select = not strip.select
    scene.frame_current += 5
    assert picture_key(scene, strip) == key
    scene.render.resolution_x += 10
    assert picture_key(scene, strip) != key
    scene.render.resolution_x -= 10
    strip.frame_offset_start = 3
    assert picture_key(scene, strip) != key
    strip.frame_offset_start = 0
    copy.write_bytes(write_movie(tmp_path / "other.mp4", 20).read_bytes())
    assert picture_key(scene, strip) != key
    with in_sequencer(scene, strip):
        bpy.ops.sequencer.strip_modifier_add(type="CURVES")
    curved = picture_key(scene, strip)
    strip.modifiers[0].curve_mapping.curves[0].points.new(0.5, 0.8)
    assert curved is not None
    assert picture_key(scene, strip) not in (None, curved)
    blur = new_effect(scene, "blur", "GAUSSIAN_BLUR", 3, 11, COUNT, strip)
    blurred = picture_key(scene, blur)
    strip.use_flip_y = True
    assert blurred is not None
    assert picture_key(scene, blur) not in (None, blurred)
    copy.unlink()
    assert picture_key(scene, strip) is None


def test_what_cannot_be_compared_is_watched_again(scene: Any) -> None:
    other = bpy.data.scenes.new("other")
    strips = compat.strips_of(scene.sequence_editor or scene.sequence_editor_create())
    assert picture_key(scene, strips.new_scene(name="scene", scene=other, channel=1, frame_start=1)) is None
