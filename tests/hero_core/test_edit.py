# SPDX-License-Identifier: GPL-3.0-or-later
"""Changing a part of a motion: first the seams alone, on made-up motions; then with a model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hero_core
from hero_core import edit, humanml3d, video
from hero_core.errors import Cancelled, HeroError
from hero_core.motion import PARENTS, Motion
from hero_core.record import Edit, TakeRecord
from tests.models import write_official, write_tiny
from tests.skeletons import walk

BONES = list(PARENTS)


def rows_of(joints: np.ndarray) -> Tensor:
    return torch.from_numpy(humanml3d.to_features(joints, continuous_heading=True)).float()


def turned(joints: np.ndarray, yaw: float, place: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """About +Y by the yaw, from +Z to +X, and then moved."""
    c, s = math.cos(yaw), math.sin(yaw)
    out = joints @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return np.asarray(out + np.array([place[0], 0, place[1]]))


@pytest.fixture(scope="module")
def two() -> tuple[Tensor, Tensor]:
    """Two motions of 60 frames that differ in pace, way and pose."""
    a = walk(61, 10.0)
    b = walk(61, 60.0)[::-1].copy()
    b[:, [18, 19, 20, 21], 1] += 0.25
    return rows_of(a), rows_of(b)


# --- seams ------------------------------------------------------------------------------------------


@given(frames=st.integers(1, 40), value=st.floats(-3, 3), slope=st.floats(-1, 1))
def test_an_offset_fades_out_smoothly(frames: int, value: float, slope: float) -> None:
    """It leaves the seam with its velocity, and is gone, with no velocity left, one frame after the last."""
    weights, slopes = edit.fade(frames)
    curve = torch.cat((torch.tensor([value]), value * weights + slope * slopes, torch.zeros(2)))
    assert bool((weights > 0).all()) and bool((weights < 1).all()) and bool((slopes > 0).all())
    assert bool((weights.diff() < 0).all())
    s = torch.linspace(0, 1, frames + 2, dtype=torch.float64)
    polynomial = value * (1 - s) ** 2 * (1 + 2 * s) + slope * (frames + 1) * s * (1 - s) ** 2
    torch.testing.assert_close(curve[: frames + 2].double(), polynomial, atol=1e-6, rtol=1e-6)


@given(
    ends=st.lists(st.integers(0, 60), min_size=2, max_size=2, unique=True).map(sorted),
    blend=st.integers(0, 12),
    keep=st.sampled_from(["place", "path"]),
)
def test_frames_outside_stay_to_the_bit(two: tuple[Tensor, Tensor], ends: list[int], blend: int, keep: str) -> None:
    old, new = two
    first, last = ends
    joints = humanml3d.to_joints(old)
    rows, out = edit.splice(old, joints, new, first, last, blend, keep)  # type: ignore[arg-type]
    assert rows.shape == old.shape and out.shape == joints.shape
    outside = torch.ones(60, dtype=torch.bool)
    outside[first:last] = False
    assert torch.equal(rows[outside], old[outside])
    assert torch.equal(out[:first], joints[:first])
    if keep == "place":
        assert torch.equal(out[last:], joints[last:])
    assert bool(torch.isfinite(rows).all()) and bool(torch.isfinite(out).all())
    # Features and joints are the same motion.
    torch.testing.assert_close(humanml3d.to_joints(rows), out, atol=2e-4, rtol=0)


@given(
    ends=st.lists(st.integers(0, 59), min_size=2, max_size=2, unique=True).map(sorted),
    turn=st.floats(-9, 9),
    drift=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)
@settings(max_examples=25)
def test_the_new_part_arrives_or_the_rest_is_carried_rigidly(
    two: tuple[Tensor, Tensor], ends: list[int], turn: float, drift: tuple[float, float]
) -> None:
    old, new = two
    first, last = ends
    new = new.clone()
    new[first:last, 0] += turn / (last - first) / 2
    new[first:last, 1:3] += torch.tensor(drift) / (last - first)
    joints = humanml3d.to_joints(old)
    rows, _ = edit.splice(old, joints, new, first, last, keep="place")
    _, root = humanml3d.recover_root(rows.double())
    _, wanted = humanml3d.recover_root(old.double())
    torch.testing.assert_close(root[last:], wanted[last:], atol=1e-4, rtol=0)
    _, carried = edit.splice(old, joints, new, first, last, keep="path")
    a, b = joints[last:].flatten(0, 1).double(), carried[last:].flatten(0, 1).double()
    torch.testing.assert_close(torch.cdist(a, a), torch.cdist(b, b), atol=1e-4, rtol=0)
    torch.testing.assert_close(a[:, 1], b[:, 1], atol=1e-5, rtol=0)


def acceleration(joints: Tensor) -> Tensor:
    """(N - 2,) of the joint that is thrown about most, m/s^2."""
    return joints.diff(n=2, dim=0).norm(dim=-1).amax(-1) * 400


def test_seams_are_smooth(two: tuple[Tensor, Tensor]) -> None:
    """Poses as different as two people's; where a cut throws a joint about, a blend of 6 frames does not."""
    old, new = two
    joints = humanml3d.to_joints(old)
    own = float(max(acceleration(joints).max(), acceleration(humanml3d.to_joints(new)).max()))
    cut = acceleration(edit.splice(old, joints, new, 20, 40, blend=0, keep="path")[1])
    blended = acceleration(edit.splice(old, joints, new, 20, 40, blend=6, keep="path")[1])
    assert float(cut.max()) > 2.5 * own
    assert float(blended.max()) < 1.5 * own, (float(blended.max()), own)


def test_bones_keep_their_lengths_through_a_blend(two: tuple[Tensor, Tensor]) -> None:
    old, new = two
    out = edit.splice(old, humanml3d.to_joints(old), new, 20, 40, blend=10)[1]
    lengths = (out - out[:, BONES])[:, 1:].norm(dim=-1)
    torch.testing.assert_close(lengths, humanml3d.BONE_LENGTHS[1:].expand_as(lengths), atol=1e-4, rtol=0)


def test_the_same_motion_leaves_no_seam(two: tuple[Tensor, Tensor]) -> None:
    old, _ = two
    joints = humanml3d.to_joints(old)
    rows, out = edit.splice(old, joints, old, 17, 33)
    torch.testing.assert_close(out, joints, atol=1e-4, rtol=0)
    torch.testing.assert_close(rows[:, :67], old[:, :67], atol=1e-4, rtol=0)


def test_further_than_the_end(two: tuple[Tensor, Tensor]) -> None:
    old, new = two
    rows, out = edit.splice(old[:40], humanml3d.to_joints(old[:40]), new, 36, 60)
    assert len(rows) == len(out) == 60 and torch.equal(rows[:36], old[:36])


# --- starts -----------------------------------------------------------------------------------------


@given(yaw=st.floats(-3, 3), x=st.floats(-50, 50), z=st.floats(-50, 50), count=st.integers(1, 30))
@settings(max_examples=20)
def test_a_start_is_the_same_wherever_it_is(yaw: float, x: float, z: float, count: int) -> None:
    joints = walk(count)
    here, _ = edit.start_rows(edit.start_frames(joints, 4))
    there, _ = edit.start_rows(edit.start_frames(turned(joints, yaw, (x, z)), 4))
    assert here.shape == (min(20, max(4, count // 4 * 4)), 263)
    torch.testing.assert_close(here[:, :67], there[:, :67], atol=2e-4, rtol=0)
    (px, pz), angle = edit.place_of(turned(joints[0], yaw, (x, z)))
    (qx, qz), zero = edit.place_of(joints[0])
    assert math.remainder(angle - zero - yaw, math.tau) == pytest.approx(0, abs=1e-4)
    assert (px, pz) == pytest.approx(tuple(turned(np.array([[qx, 0, qz]]), yaw, (x, z))[0, [0, 2]]), abs=1e-4)


def test_a_start_of_another_size_and_place_is_found_again() -> None:
    """Turned by the yaw and moved to the place, the first frame lies on the given pose."""
    given_pose = turned(walk(1)[0], 1.1, (3, -2))
    rows, _ = edit.start_rows(edit.start_frames(given_pose, 4))
    own = humanml3d.to_joints(rows)[0].double().numpy()
    place, yaw = edit.place_of(given_pose)
    back = turned(own, yaw, place)
    assert np.abs(back - given_pose).max() < 0.1  # the walker's bones are not the reference skeleton's
    huge, _ = edit.start_rows(edit.start_frames(given_pose * 7, 4))
    np.testing.assert_allclose(humanml3d.to_joints(huge)[0], own, atol=1e-4)


@pytest.mark.parametrize("bad", [np.zeros((3, 3)), np.zeros((0, 22, 3)), np.full((22, 3), np.nan), np.zeros((22, 3))])
def test_starts_that_are_none(bad: np.ndarray) -> None:
    with pytest.raises(HeroError):
        edit.start_rows(edit.start_frames(bad, 4))


# --- with a model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hero(tmp_path_factory: pytest.TempPathFactory) -> hero_core.Hero:
    return hero_core.load(write_tiny(tmp_path_factory.mktemp("tiny")), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def features(hero: hero_core.Hero) -> hero_core.VideoFeatures:
    return hero.encode(np.random.default_rng(0).integers(0, 255, (20, 40, 60, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def motion(hero: hero_core.Hero, features: hero_core.VideoFeatures) -> Motion:
    return hero.react(features, takes=2, length=80, seed=3)


def tokens(motion: Motion, take: int = 0) -> np.ndarray:
    assert motion.tokens is not None
    return np.asarray(motion.tokens[take])


@pytest.mark.parametrize("keep", ["place", "path"])
@pytest.mark.parametrize("frames", [(20, 40), (21, 23), (0, 30), (61, 80), (0, 80), (79, 80)])
def test_only_the_range_changes(
    hero: hero_core.Hero, features: hero_core.VideoFeatures, motion: Motion, frames: tuple[int, int], keep: str
) -> None:
    first, last = frames
    new = hero.regenerate(features, motion, frames, seed=9, take=1, takes=2, keep=keep)  # type: ignore[arg-type]
    assert new.features is not None and motion.features is not None and new.joints.shape == motion.joints.shape
    touched = np.zeros(20, bool)
    touched[first // 4 : -(-last // 4)] = True
    for k in range(2):
        assert np.array_equal(tokens(new, k)[~touched], tokens(motion, 1)[~touched])
        assert (tokens(new, k)[touched] != tokens(motion, 1)[touched]).any()
        assert np.array_equal(new.joints[k, :first], motion.joints[1, :first])
        assert np.array_equal(new.features[k, :first], motion.features[1, :first])
        assert np.array_equal(new.features[k, last:], motion.features[1, last:])
        if keep == "place":
            assert np.array_equal(new.joints[k, last:], motion.joints[1, last:])
    assert not np.array_equal(tokens(new, 0), tokens(new, 1))
    alone = hero.regenerate(features, motion, frames, seed=10, take=1, keep=keep)  # type: ignore[arg-type]
    assert np.array_equal(alone.joints[0], new.joints[1]) and alone.records[0] == new.records[1]


def test_longer_takes(hero: hero_core.Hero, features: hero_core.VideoFeatures, motion: Motion) -> None:
    new = hero.extend(features, motion, 42, seed=1)
    assert new.lengths.tolist() == [120] and np.array_equal(new.joints[0, :80], motion.joints[0])
    assert np.array_equal(tokens(new)[:20], tokens(motion)) and (tokens(new) >= -1).all()
    redone = hero.extend(features, motion, 40, seed=1, redo=10)
    assert np.array_equal(redone.joints[0, :70], motion.joints[0, :70])
    assert not np.array_equal(redone.joints[0, 70:80], motion.joints[0, 70:])
    full = hero.extend(features, new, 80)
    assert full.lengths.tolist() == [200]
    for more, word in ((3, "grow by 4 to 120"), (121, "grow by 4 to 120")):
        with pytest.raises(HeroError, match=word):
            hero.extend(features, motion, more)
    with pytest.raises(HeroError, match="already"):
        hero.extend(features, full, 4)


def test_more_like_this(hero: hero_core.Hero, features: hero_core.VideoFeatures, motion: Motion) -> None:
    new = hero.more_like_this(features, motion, takes=3, seed=50)
    assert len(new.lengths) == 3 and {r.edits[0].first for r in new.records} == {24}
    for k in range(3):
        assert np.array_equal(new.joints[k, :24], motion.joints[0, :24])
        assert np.array_equal(tokens(new, k)[:6], tokens(motion)[:6])
        assert not np.array_equal(tokens(new, k)[6:], tokens(motion)[6:])
    assert len({tokens(new, k).tobytes() for k in range(3)}) == 3
    kept = hero.more_like_this(features, motion, 1, first=79)
    assert np.array_equal(kept.joints[0, :76], motion.joints[0, :76])
    for wrong in (0, 3, 80, 300):
        with pytest.raises(HeroError, match="first 4 to 76"):
            hero.more_like_this(features, motion, first=wrong)


@pytest.mark.parametrize("count", [1, 3, 4, 13, 20, 45])
def test_a_reaction_follows_what_was_done_before(
    hero: hero_core.Hero, features: hero_core.VideoFeatures, count: int
) -> None:
    before = turned(walk(count), 2.0, (5, 5))
    new = hero.react(features, takes=2, length=60, start=before if count > 1 else before[0])
    used = edit.start_frames(before, 4)
    rows, _ = edit.start_rows(used)
    assert new.lengths.tolist() == [60, 60] and new.features is not None
    for k in range(2):
        assert np.array_equal(new.features[k, : len(rows)], rows.numpy())
    np.testing.assert_allclose(new.joints[0, 0], new.joints[1, 0])
    assert np.abs(new.joints[0, -1] - new.joints[1, -1]).max() > 1e-3
    # The start is what the model was given: its own tokens say so, and others come of another start.
    assert np.array_equal(tokens(new, 0)[: len(rows) // 4], tokens(new, 1)[: len(rows) // 4])
    again = hero.make(TakeRecord.from_json(new.records[1].to_json()), features)
    assert np.array_equal(again.joints[0], new.joints[1])
    with pytest.raises(HeroError, match="longer than"):
        hero.react(features, length=len(rows), start=before)


def test_a_start_is_encoded_by_the_tokenizer(hero: hero_core.Hero, features: hero_core.VideoFeatures) -> None:
    new = hero.react(features, length=60, start=walk(20))
    _, seen = edit.start_rows(edit.start_frames(walk(20), 4))
    own = hero.rvq.encode_tokens(((seen - hero.mean) / hero.std)[None])[0]
    assert np.array_equal(tokens(new)[:5], own[-5:].numpy())


def test_takes_are_made_again_from_their_records(
    hero: hero_core.Hero, features: hero_core.VideoFeatures, motion: Motion, tmp_path: Path
) -> None:
    """A first draw, and a chain of every kind of edit; through JSON and through a motion file."""
    chain = hero.regenerate(features, motion, (10, 30), seed=4, take=1, keep="path", blend=3)
    chain = hero.extend(features, chain, 24, seed=np.int64(5), redo=3)  # type: ignore[arg-type]
    chain = hero.more_like_this(features, chain, takes=2, seed=6, steps=3, guidance=2.0)
    chain.save(tmp_path / "chain.npz")
    back = Motion.load(tmp_path / "chain.npz")
    assert len(back.records[1].edits) == 3 and back.records == chain.records
    for one, take in ((motion, 1), (back, 1)):
        again = hero.make(TakeRecord.from_json(one.records[take].to_json()), features)
        assert again.features is not None and one.features is not None
        assert np.array_equal(again.joints[0], one.joints[take])
        assert np.array_equal(again.features[0], one.features[take])
        assert again.records[0] == one.records[take]
    longer = hero.regenerate(features, back, (0, 9), take=1)  # what was loaded can be changed further
    assert len(longer.records[0].edits) == 4


def test_what_does_not_belong_together(
    hero: hero_core.Hero, features: hero_core.VideoFeatures, motion: Motion, tmp_path: Path
) -> None:
    record = motion.records[0]
    other_clip = hero.encode(np.zeros((3, 20, 20, 3), np.uint8))
    other = hero_core.load(write_tiny(tmp_path / "other", seed=1), device="cpu", dtype="float32")
    assert other.fingerprint != hero.fingerprint
    for work in (
        lambda: hero.make(record, other_clip),
        lambda: hero.regenerate(other_clip, motion, (0, 8)),
    ):
        with pytest.raises(HeroError, match="another clip"):
            work()
    for work in (lambda: other.make(record, features), lambda: other.regenerate(features, motion, (0, 8))):
        with pytest.raises(HeroError, match="other weights"):
            work()
    with pytest.raises(HeroError, match="comes out otherwise"):
        hero.make(TakeRecord.from_json(record.to_json().replace(record.tokens, "0" * 32)), features)
    bare = Motion(motion.joints, motion.features, motion.lengths)
    with pytest.raises(HeroError, match="without its tokens"):
        hero.regenerate(features, bare, (0, 8))
    unrecorded = Motion(motion.joints, motion.features, motion.lengths, tokens=motion.tokens)
    assert hero.regenerate(features, unrecorded, (0, 8)).records == ()
    for frames in ((60, 90), (-4, 8), (8, 8), (9, 4)):
        with pytest.raises(HeroError, match="not inside"):
            hero.regenerate(features, motion, frames)
    for wrong in ({"take": 2}, {"takes": 0}, {"keep": "both"}, {"blend": -1}, {"steps": 0}, {"frames": (0.5, 8)}):
        with pytest.raises(HeroError):
            hero.regenerate(features, motion, **{"frames": (0, 8), **wrong})  # type: ignore[arg-type]


def test_cancel_while_editing(hero: hero_core.Hero, features: hero_core.VideoFeatures, motion: Motion) -> None:
    seen: list[tuple[int, int]] = []
    hero.regenerate(features, motion, (8, 20), on_progress=lambda d, t: bool(seen.append((d, t))) or True)
    assert [d for d, _ in seen] == list(range(1, seen[-1][1] + 1))
    with pytest.raises(Cancelled):
        hero.regenerate(features, motion, (8, 20), on_progress=lambda d, _: d < 3)


def test_one_by_one_is_the_same_as_together(
    hero: hero_core.Hero, features: hero_core.VideoFeatures, motion: Motion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a batch could round otherwise takes are drawn alone; progress counts to the same total."""
    monkeypatch.setattr(hero, "_chunks", lambda count: [slice(i, i + 1) for i in range(count)])
    seen: list[tuple[int, int]] = []
    alone = hero.react(features, takes=2, length=80, seed=3, on_progress=lambda d, t: bool(seen.append((d, t))) or True)
    assert np.array_equal(alone.joints, motion.joints) and alone.records == motion.records
    assert [d for d, _ in seen] == sorted(d for d, _ in seen) and seen[-1][0] == seen[-1][1]


def test_weights_are_known_by_their_values(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "a")
    one, half = (hero_core.load(folder, device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert one.fingerprint == half.fingerprint
    moved = hero_core.load(folder, device="cpu", dtype="float32")
    moved.masked.cond_emb.weight += 0.01
    assert moved.fingerprint != one.fingerprint
    assert hero_core.load(write_official(tmp_path / "b"), device="cpu").fingerprint


def test_records_are_checked() -> None:
    record = TakeRecord("m", "c", "cpu", "float32", 80, 2**40, edits=(Edit(4, 9, 1, "path"),))
    assert TakeRecord.from_json(record.to_json()) == record
    text = record.to_json()
    for bad in (
        "", "{}", "[1]", "null", text[:-5], text.replace('"version": 1', '"version": 2'),
        text.replace('"frames": 80', '"frames": "80"'), text.replace('"seed": 1,', ""), text.replace("path", "road"),
        text.replace('"steps": 10', '"steps": 0'),
    ):  # fmt: skip
        with pytest.raises(HeroError):
            TakeRecord.from_json(bad)


def test_a_damaged_motion_file_says_so(motion: Motion, tmp_path: Path) -> None:
    motion.save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as file:
        data = {key: file[key] for key in file.files}
    for key, value in (
        ("tokens", data["tokens"][:1]),
        ("records", data["records"][:1]),
        ("records", np.array(["x"] * 2)),
    ):
        np.savez(tmp_path / "bad.npz", **{**data, key: value})
        with pytest.raises(HeroError):
            Motion.load(tmp_path / "bad.npz")


def test_shipped_model_joins_smoothly(shared: Path) -> None:
    """On a real clip: seams no rougher than the take itself, bones as long, and all of it from its record."""
    hero = hero_core.load(device="cpu", dtype="float32")
    features = hero.encode(video.read_video(shared / "videos" / "lion_approaching.mp4").frames)
    motion = hero.react(features, takes=1, length=120, seed=0)
    own = float(acceleration(torch.from_numpy(motion.take(0))).max())
    new = hero.regenerate(features, motion, (37, 70), seed=100)
    smooth = float(acceleration(torch.from_numpy(new.take(0))).max())
    cut = hero.regenerate(features, motion, (37, 70), seed=100, blend=0)
    assert smooth < 1.5 * own and float(acceleration(torch.from_numpy(cut.take(0))).max()) > 1.5 * smooth
    assert np.array_equal(hero.make(new.records[0], features).joints, new.joints)
