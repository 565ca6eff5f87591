# SPDX-License-Identifier: GPL-3.0-or-later
"""From a face to curves: few keys within the tolerance, rates, blinks, regions, expressions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hero_core.errors import HeroError
from hero_core.face import keys, listener
from hero_core.face.keys import Keys, Options, Play, few_keys, play
from hero_core.face.reaction import ARKIT, INDEX, FaceReaction, attributes_of, mirrored
from hero_core.face.rig import CHANNELS, Expression

TRACKS = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 60), st.integers(1, 3)), elements=st.floats(-1, 1, width=32)
)


def curve(made: Keys, length: int) -> Any:
    """(N, C) what Blender's Bezier segments through the keys show at whole frames."""
    if len(made.rows) == 1:
        return np.repeat(made.values, length, 0)
    out = []
    for row in range(length):
        i = min(int(np.searchsorted(made.rows, row, "right")) - 1, len(made.rows) - 2)
        a, b = made.rows[i], made.rows[i + 1]
        reach, u = (b - a) / 3, (row - a) / (b - a)
        points = [
            made.values[i], made.values[i] + made.slopes[i] * reach, made.values[i + 1] - made.slopes[i + 1] * reach,
            made.values[i + 1],
        ]  # fmt: skip
        out.append(
            sum(
                c * p
                for c, p in zip(((1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u * u * (1 - u), u**3), points, strict=True)
            )
        )
    return np.array(out)


@given(tracks=TRACKS, tolerance=st.floats(1e-3, 0.3))
@settings(max_examples=150, deadline=None)
def test_any_motion_stays_within_the_tolerance(tracks: Any, tolerance: float) -> None:
    made = few_keys(tracks, tolerance)
    assert len(made) == len(tracks)
    for track, each in zip(tracks, made, strict=True):
        assert (np.diff(each.rows) > 0).all()
        assert np.abs(curve(each, len(track)) - track).max() <= tolerance * (1 + 1e-6) + 1e-9


def test_keys_are_few_and_curves_do_not_overshoot() -> None:
    face = listener.listen(None, None, 1, 0, frames=750)
    tracks = play(face).channels[:, :52].T[..., None]
    made = few_keys(tracks, 0.01)
    assert sum(len(each.rows) for each in made) < 0.05 * tracks.size
    lids = curve(made[8], 750)
    assert lids.min() > -0.005 and lids.max() < 1.005
    still = few_keys(np.full((1, 100, 1), 0.3), 0.01)
    assert len(still[0].rows) == 1 and still[0].values[0, 0] == pytest.approx(0.3)


@given(fps=st.floats(8, 120), first=st.floats(-50, 200), count=st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_frames_are_whole_and_cover_the_take(fps: float, first: float, count: int) -> None:
    face = FaceReaction(np.random.default_rng(count).random((1, count, 58)), np.zeros((1, count, 25)))
    shown = play(face, 0, first, fps)
    assert (shown.frames == np.round(shown.frames)).all() and (np.diff(shown.frames) == 1).all()
    assert shown.frames[0] <= first + 1e-3 and shown.frames[-1] >= first + (count - 1) * fps / 25 - 1e-3
    assert shown.channels.shape == (len(shown.frames), len(CHANNELS)) and np.isfinite(shown.channels).all()


def test_the_scenes_own_rate_is_exact() -> None:
    face = listener.listen(None, None, 2, 0, frames=100)
    shown = play(face, 1, 11, 25)
    assert shown.frames[0] == 11 and len(shown.frames) == 100
    assert np.allclose(shown.channels[:, :52], face.coefficients[1, :, :52], atol=1e-6)
    assert np.allclose(shown.head, face.coefficients[1, :, 52:55], atol=1e-6)
    with pytest.raises(HeroError, match="take 3"):
        play(face, 2)


def test_smoothing_spares_lids_and_eyes() -> None:
    rng = np.random.default_rng(0)
    c = rng.random((1, 200, 58)).astype(np.float32)
    face = FaceReaction(c, attributes_of(c[..., :52]))
    rough, soft = play(face), play(face, options=Options(smooth=1.0))
    for name in ("eyeBlinkLeft", "eyeBlinkRight", "eyeLookUpLeft", "eyeLookInRight"):
        assert np.allclose(rough.column(name), soft.column(name))
    for name in ("mouthSmileLeft", "browInnerUp", "jawOpen"):
        assert np.abs(np.diff(soft.column(name))).mean() < 0.3 * np.abs(np.diff(rough.column(name))).mean()


def test_regions_are_all_and_mirror_is_a_mirror() -> None:
    assert {keys.region(name) for name in ARKIT} == set(keys.REGIONS)
    rng = np.random.default_rng(1)
    c = rng.random((1, 20, 58)).astype(np.float32)
    face = FaceReaction(c, attributes_of(c[..., :52]))
    other = FaceReaction(mirrored(c), face.attributes)
    assert np.allclose(play(face, options=Options(mirror=True)).channels, play(other).channels)
    assert np.allclose(play(face, options=Options(mirror=True)).head, play(other).head)
    off = play(face, options=Options(**dict.fromkeys(keys.REGIONS, 0.0), head=0.0))
    assert not off.channels[:, :52].any() and not off.head.any()
    for bad in ({"mouth": -1.0}, {"smooth": 2.0}, {"jaw": float("nan")}, {"prefer": "all"}):
        with pytest.raises(HeroError):
            Options(**bad)  # type: ignore[arg-type]


def test_action_units_of_one_side() -> None:
    c = np.zeros((1, 3, 58), np.float32)
    c[..., INDEX["mouthSmileLeft"]] = 0.9
    shown = play(FaceReaction(c, attributes_of(c[..., :52])))
    assert shown.column("AU12Left")[0] == pytest.approx(1.0)
    assert shown.column("AU12Right")[0] == pytest.approx(0.0)
    assert shown.column("AU12")[0] == pytest.approx(0.5)


def test_expressions_that_hold_others_down() -> None:
    shown = Play(
        np.arange(3), np.array([[0.0, 1.0], [0.4, 1.0], [0.9, 1.0]]), ("Happy", "eyeBlinkLeft"), np.zeros((3, 3))
    )
    blink = Expression("blink", {"eyeBlinkLeft": 1.0})

    def lids(**more: Any) -> list[float]:
        happy = Expression("happy", {"Happy": 1.0}, **more)
        return [round(float(x), 3) for x in keys.expressed(shown, [happy, blink])[:, 1]]

    assert lids() == [1, 1, 1]
    assert lids(overrides={"blink": "block"}) == [1, 0, 0]
    assert lids(overrides={"blink": "blend"}) == [1, 0.6, 0.1]
    assert lids(binary=True, overrides={"blink": "block"}) == [1, 1, 0]


@given(hnp.arrays(np.float64, (5, 25), elements=st.floats(0, 1)))
def test_moods_are_one_at_most(attributes: Any) -> None:
    assert (keys.moods(attributes).sum(1) <= 1 + 1e-9).all()
