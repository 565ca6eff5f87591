# SPDX-License-Identifier: GPL-3.0-or-later
"""Moments stay with the picture that the model saw, whatever happens to the strip; markers and charts tell of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytest.importorskip("av", reason="needs PyAV to make test movies")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from movies import number_of, write_movie  # noqa: E402

from hero_blender import compat, takes, why  # noqa: E402
from hero_blender.strip import StripReading  # noqa: E402
from hero_core.errors import HeroError  # noqa: E402
from hero_core.motion import Motion  # noqa: E402
from hero_core.retarget.options import Options  # noqa: E402

COUNT = 75
SHARES = np.array([1, 1, 6, 5, 1, 1, 1, 1, 9, 1, 1, 1, 3, 1, 1, 1], np.float32)
SHARES /= SHARES.sum()


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movie(tmp_path_factory.mktemp("movie") / "numbers.mp4", COUNT, size=(160, 120))


@pytest.fixture
def scene(blend: Any) -> Any:
    blend.context.scene.render.fps = 25
    blend.context.scene.render.resolution_x, blend.context.scene.render.resolution_y = 160, 120
    return blend.context.scene


@pytest.fixture
def strip(scene: Any, movie: Path) -> Any:
    strip = compat.new_movie_strip(scene, "clip", str(movie), 1, 31)
    scene.sequence_editor.active_strip = strip
    return strip


@pytest.fixture
def action(scene: Any, strip: Any) -> Any:
    """A take of the strip, with what it came from."""
    made = bpy.data.actions.new("a take")
    start, end = compat.strip_range(strip)
    take = takes.Take(
        "rig", "rig", takes.Source("clip", "strip", "", scene.name, start, 3.0), 1, 0, 20, 20.0, start, 25.0,
        tuple(np.eye(4).ravel()), fit=Options(),
    )  # fmt: skip
    takes.keep(made, take, Motion(np.zeros((1, 20, 22, 3)), None, np.array([20])), 0)
    why.keep(made, SHARES, strip, start, end - start)
    made.use_fake_user = True
    return made


def picture_at(scene: Any, strip: Any, frame: int) -> int:
    """Number of the movie's frame that the sequencer shows."""
    reading = StripReading(scene, strip)
    try:
        return number_of(reading._render(frame)[..., :3])
    finally:
        reading.release()


def seen_by_the_model(scene: Any, strip: Any, action: Any) -> dict[int, int]:
    """Sample -> number of the picture, for a few samples, as the strip is now."""
    frames = why.frames_of(why.read(action), strip)
    return {sample: picture_at(scene, strip, frames[sample]) for sample in (2, 8, 12) if frames[sample] is not None}


def retime(scene: Any, strip: Any, speed: float) -> None:
    strip.select = True
    compat._set_speed(bpy.context.window_manager.windows[0], scene, speed)


def test_the_moments_are_where_the_model_looked(scene: Any, strip: Any, action: Any) -> None:
    reading = StripReading(scene, strip)
    assert why.frames_of(why.read(action), strip) == reading._at
    reading.release()
    assert [moment.sample for moment in why.moments(why.read(action))] == [2, 8, 12]
    assert why.moments(why.read(action))[0].share == pytest.approx(11 / 35, abs=1e-4)


def test_they_stay_with_the_picture_when_the_strip_is_moved(scene: Any, strip: Any, action: Any) -> None:
    before = seen_by_the_model(scene, strip, action)
    assert len(before) == 3
    strip.frame_start += 17
    assert seen_by_the_model(scene, strip, action) == before


def test_they_stay_with_the_picture_when_it_is_trimmed(scene: Any, strip: Any, action: Any) -> None:
    before = seen_by_the_model(scene, strip, action)
    strip.frame_offset_start = 20
    strip.frame_start -= 9
    after = seen_by_the_model(scene, strip, action)
    assert set(after) == {8, 12}
    assert after == {sample: before[sample] for sample in after}
    assert [marker.frame for marker in why.mark(action)] == [
        why.frames_of(why.read(action), strip)[sample] for sample in (8, 12)
    ]


def test_a_take_of_a_trimmed_strip_finds_them_when_the_trim_is_undone(scene: Any, strip: Any, action: Any) -> None:
    strip.frame_offset_start, strip.frame_offset_end = 15, 10
    start, end = compat.strip_range(strip)
    why.keep(action, SHARES, strip, start, end - start)
    before = seen_by_the_model(scene, strip, action)
    strip.frame_offset_start = strip.frame_offset_end = 0
    assert seen_by_the_model(scene, strip, action) == before


def test_they_stay_with_the_picture_when_it_is_retimed(scene: Any, strip: Any, action: Any) -> None:
    before = seen_by_the_model(scene, strip, action)
    retime(scene, strip, 0.5)
    assert compat.strip_range(strip)[1] - compat.strip_range(strip)[0] > 1.8 * COUNT
    after = seen_by_the_model(scene, strip, action)
    assert set(after) == set(before)
    assert all(abs(after[sample] - before[sample]) <= 1 for sample in before), (before, after)
    start, end = compat.strip_range(strip)
    why.keep(action, SHARES, strip, start, end - start)
    slow = seen_by_the_model(scene, strip, action)
    strip.frame_start += 40
    assert all(abs(seen_by_the_model(scene, strip, action)[sample] - slow[sample]) <= 1 for sample in slow)


def test_without_the_strip_they_are_where_they_were(scene: Any, strip: Any, action: Any) -> None:
    there = why.frames_of(why.read(action), strip)
    compat.strips_of(scene).remove(strip)
    assert why.strip_of(action) is None
    assert why.frames_of(why.read(action), None) == there
    assert len(why.mark(action)) == 3


def test_markers_come_and_go(scene: Any, strip: Any, action: Any) -> None:
    own = [scene.timeline_markers.new(name, frame=40) for name in ("HERO", "HERO 3", "cut", "HERO 30 % more")]
    for _ in range(2):
        made = why.mark(action)
        assert [marker.name for marker in made] == ["HERO 31 %", "HERO 26 %", "HERO 9 %"]
        assert len(why.marks(scene)) == 3
    made[0].name = "mine now"
    assert why.unmark(scene) == 2
    assert why.unmark(scene) == 0
    assert {marker.name for marker in scene.timeline_markers} == {*(each.name for each in own), "mine now"}


def test_all_is_there_when_the_file_is_opened_again(scene: Any, strip: Any, action: Any, tmp_path: Path) -> None:
    before = why.read(action)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    again = bpy.data.actions["a take"]
    assert why.read(again) == before
    assert len(why.mark(again)) == 3


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 9}', "nonsense"])
def test_what_is_damaged_is_said(blend: Any, text: str) -> None:
    action = bpy.data.actions.new("damaged")
    with pytest.raises(HeroError, match="not known"):
        why.read(action)
    action[why.KEY] = text
    with pytest.raises(HeroError):
        why.read(action)
    assert why.icon(action) == 0


def test_a_record_with_other_numbers_is_damaged(scene: Any, action: Any) -> None:
    data = json.loads(action[why.KEY])
    for wrong in ({"shares": data["shares"][:3]}, {"at": []}, {"content": [1.0]}, {"shares": [None] * 16}):
        with pytest.raises(HeroError, match="damaged"):
            why.Why.from_json(json.dumps({**data, **wrong}))


@given(st.lists(st.floats(0.001, 10.0), min_size=16, max_size=16))
def test_moments_and_chart_agree_with_the_shares(values: list[float]) -> None:
    shares = np.array(values) / sum(values)
    found = why.moments(why.Why(tuple(shares), tuple(range(16)), 0, (0.0, 16.0)))
    assert len(found) <= why.MOST
    assert [moment.sample for moment in found] == sorted(moment.sample for moment in found)
    assert sum(moment.share for moment in found) <= 1 + 1e-9
    assert int(np.argmax(shares)) in [moment.sample for moment in found] or len(found) == why.MOST
    picture = why.chart(shares)
    heights = (picture[..., 3] > 0).sum(0).reshape(16, -1).max(1)
    assert heights[np.argmax(shares)] == picture.shape[0] - 1
    assert np.abs(heights - np.maximum(1, np.round(shares / shares.max() * (picture.shape[0] - 1)))).max() <= 1
