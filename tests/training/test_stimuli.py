# SPDX-License-Identifier: GPL-3.0-or-later
"""Stimulus clips: the recordings exist, no recording crosses a split, reactions join well, shards survive a stop."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.stimuli import people, shards
from training.stimuli.actor import BONES, Body, Mesh, Person, swing
from training.stimuli.catalogue import PAIRS, REACTIONS, STIMULI, WAITING
from training.stimuli.dataset import FADE, PAIR_SPLIT, PARENTS, Motions, Stimuli, heading, join, joined_length, place
from training.stimuli.scene import Library, picture_times
from training.stimuli.scenes import write

ROOT = Path(__file__).resolve().parents[2]
STRICT = {"train": 0, "val": 1, "test": 2}


@pytest.fixture(scope="module")
def data() -> Path:
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the folder 'shared/data' beside the checkout (motions, actor, creatures)")
    return folder


@pytest.fixture(scope="module")
def motions(data: Path) -> Motions:
    return Motions(data)


def walk(frames: int, speed: float = 0.05, bend: float = 0.0) -> np.ndarray:
    """A stiff figure that glides along, turning by ``bend`` radians per frame. (N, 22, 3)."""
    rng = np.random.default_rng(3)
    pose = rng.normal(0, 0.3, (22, 3)) + (0, 1, 0)
    pose[[1, 16], 0], pose[[2, 17], 0] = 0.15, -0.15
    pose[[1, 2, 16, 17], 2] = 0.0
    yaw = bend * np.arange(frames)
    c, s = np.cos(yaw), np.sin(yaw)
    x = pose[None, :, 0] * c[:, None] + pose[None, :, 2] * s[:, None]
    z = -pose[None, :, 0] * s[:, None] + pose[None, :, 2] * c[:, None]
    joints = np.stack([x, np.broadcast_to(pose[:, 1], x.shape), z], -1)
    path = np.cumsum(np.stack([s, 0 * s, c], -1) * speed, axis=0)
    return (joints + path[:, None]).astype(np.float32)


def test_every_recording_of_the_catalogue_exists(motions: Motions) -> None:
    sources = [s for kind in REACTIONS.values() for s in kind]
    sources += [s for stimulus in STIMULI.values() for s in stimulus.actions + stimulus.walks]
    sources += [s for gestures in people.GESTURES.values() for s in gestures] + list(WAITING)
    for source in sources:
        assert len(motions.get(source.file, source.name)) > source.start, source
        assert motions.split(source.file, source.name) in STRICT


def test_catalogue_is_wide_enough() -> None:
    assert len(STIMULI) >= 12 and {s.broad for s in STIMULI.values()} == {"human", "animal", "scene"}
    for name, stimulus in STIMULI.items():
        assert set(stimulus.reactions) <= set(REACTIONS), name
        assert len(stimulus.reactions) >= 3 or name == "salsa"  # true pairs have one true reaction


def test_a_pair_belongs_to_the_stricter_split_of_its_halves(motions: Motions) -> None:
    for name in motions.names(PAIRS):
        halves = [motions.split("cmu22", half) for half in name.split("+")]
        assert motions.split(PAIRS, name) == max(halves, key=STRICT.__getitem__), name
    assert set(PAIR_SPLIT) <= set(motions.names(PAIRS))


class Stick:
    """Stands in for a person where only the script matters: skinning is what takes the time."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def pose(self, joints: np.ndarray) -> Mesh:
        return Mesh(joints, [(0, 1, 2)], np.zeros((22, 3)))


@pytest.mark.parametrize("split", list(STRICT))
@pytest.mark.parametrize("cls", list(STIMULI))
def test_a_clip_keeps_to_recordings_of_its_split(
    motions: Motions, monkeypatch: pytest.MonkeyPatch, cls: str, split: str
) -> None:
    monkeypatch.setattr(people, "Person", Stick)
    cycle = Mesh(np.random.default_rng(0).normal(0, 1, (4, 30, 3)), [(0, 1, 2)], np.full((30, 3), 0.5))
    lib = Library(motions, None, {"beast": cycle, "bird": cycle})  # type: ignore[arg-type]
    for seed in range(4):
        scene = write(lib, cls, split, np.random.default_rng(seed))
        if scene is None:
            assert split != "train"
            continue
        for actor in scene.actors:
            assert motions.split(*actor.split("/")) == split
        assert len(scene.reactions) >= 1
        for reaction in scene.reactions:
            joints = motions.join(reaction["parts"])
            assert reaction["frames"] % 4 == 0 and 40 <= reaction["frames"] <= min(196, len(joints))
            assert np.isfinite(joints).all()
            assert np.abs(joints[0, 0, [0, 2]]).max() < 1e-5 and abs(heading(joints[:2])[0]) < 1e-4
            assert all(motions.split(p["file"], p["name"]) == split for p in reaction["parts"])
        assert all(mesh.verts.shape[0] in (1, 16) for mesh in scene.meshes)
        assert np.isfinite(scene.eye).all() and np.isfinite(scene.look).all()
        assert np.median(scene.eye[:, 1]) > 0.9  # at somebody's eyes, not on the floor


def test_the_same_seed_writes_the_same_script(motions: Motions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "Person", Stick)
    lib = Library(motions, None, {})  # type: ignore[arg-type]
    one, two, other = (write(lib, "punch", "train", np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert one and two and other
    assert one.reactions == two.reactions and np.array_equal(one.eye, two.eye)
    assert not np.array_equal(one.meshes[0].verts, other.meshes[0].verts)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.floats(-170, 170), st.floats(-0.05, 0.05))
def test_join_goes_on_where_the_first_part_ended(first: int, second: int, turn: float, bend: float) -> None:
    a, b = walk(first, bend=bend), walk(second, speed=0.08)
    joined = join(a, b, turn)
    assert len(joined) == joined_length([first, second]) == first + second - FADE
    steps = np.linalg.norm(np.diff(joined[:, 0], axis=0), axis=-1)
    assert steps.max() < 0.12  # nobody jumps at the joint
    bones = np.linalg.norm(joined[:, 1:] - joined[:, list(PARENTS[1:])], axis=-1)
    np.testing.assert_allclose(bones, np.broadcast_to(bones[0], bones.shape), atol=2e-5)
    if min(first, second) > 30:
        ahead = heading(a)[first - FADE]
        np.testing.assert_allclose(heading(joined)[-1], ahead + np.radians(turn), atol=0.06)


def test_place_keeps_heights_and_shape() -> None:
    joints = walk(20, bend=0.03) + np.float32((3, 0.2, -5))
    placed = place(joints, (1.0, 2.0), 0.7)
    np.testing.assert_allclose(placed[..., 1], joints[..., 1], atol=1e-6)
    np.testing.assert_allclose(placed[0, 0, [0, 2]], (1, 2), atol=1e-5)
    assert heading(placed[:2])[0] == pytest.approx(0.7, abs=1e-4)
    apart = np.linalg.norm(joints[:, :, None] - joints[:, None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(placed[:, :, None] - placed[:, None], axis=-1), apart, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_swing_turns_one_direction_into_the_other(numbers: list[float]) -> None:
    a, b = np.array(numbers[:3]) + (2, 0, 0), np.array(numbers[3:]) + (0, 2, 0)
    rotation = swing(a, b)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(rotation @ a / np.linalg.norm(a), b / np.linalg.norm(b), atol=1e-9)


def test_a_person_follows_the_motion_and_stands_on_the_floor(data: Path, motions: Motions) -> None:
    person = Person(Body(data / "actor"), np.random.default_rng(1))
    joints = place(motions.get("cmu22", "07_01"))[:20]
    rotations = person.rotations(joints)
    names = {bone[0]: i for i, bone in enumerate(BONES)}
    for bone, tip, start, end in (
        ("l_shin", "l_foot", 4, 7),
        ("r_forearm", "r_hand", 19, 21),
        ("l_thigh", "l_shin", 1, 4),
    ):
        rest = person.heads[names[tip]] - person.heads[names[bone]]
        drawn = rotations[:, names[bone]] @ rest
        wanted = joints[:, end] - joints[:, start]
        cosine = (drawn * wanted).sum(-1) / np.linalg.norm(drawn, axis=-1) / np.linalg.norm(wanted, axis=-1)
        assert cosine.min() > 0.9999
    mesh = person.pose(joints)
    lowest = mesh.verts[..., 1].min(1)
    assert np.abs(lowest).max() < 0.06
    assert 1.4 < np.ptp(mesh.verts[0, :, 1]) < 2.1


@pytest.mark.parametrize("seconds", [0.7, 2.0, 5.96])
def test_pictures_are_taken_within_the_clip_and_in_order(seconds: float) -> None:
    times = picture_times(seconds)
    assert times.shape == (16,) and times[0] >= 0 and times[-1] < seconds and (np.diff(times) >= 0).all()


def clip(number: int) -> tuple[np.ndarray, dict[str, Any]]:
    frames = np.random.default_rng(number).integers(0, 255, (16, 224, 224, 3), np.uint8)
    part = {"file": "cmu22", "name": "07_01", "start": 2, "length": 44, "reverse": True}
    reaction = {"label": "step back", "mirror": False, "frames": 44, "parts": [part]}
    return frames, {"id": number, "cls": "wave", "split": shards.split_of(number), "reactions": [reaction]}


def test_shards_are_whole_or_absent_and_work_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [len(r) for r in shards.missing_shards(tmp_path, 5, 2)] == [2, 2, 1]
    shards.write_shard(tmp_path, 1, [clip(2), clip(3)])
    assert [r.start for r in shards.missing_shards(tmp_path, 5, 2)] == [0, 4]

    def full_disk(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no space"):
        shards.write_shard(tmp_path, 0, [clip(0), clip(1)])
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.jsonl", "shard_0001.jsonl", "shard_0001.npz"]

    shards.write_shard(tmp_path, 0, [clip(0), clip(1)])
    records = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert (
        [r["id"] for r in records] == [0, 1, 2, 3]
        and records[3]["shard"] == "shard_0001.npz"
        and records[3]["row"] == 1
    )


def test_splits_take_turns() -> None:
    of = [shards.split_of(i) for i in range(200)]
    assert [of.count(split) for split in ("train", "val", "test")] == [170, 10, 20]
    assert len(set(of[:20])) == 3  # any stretch holds all of them


def test_the_loader_gives_back_what_was_written(tmp_path: Path, data: Path) -> None:
    shards.write_shard(tmp_path, 0, [clip(8), clip(9)])
    stimuli = Stimuli(tmp_path, data)
    assert [c["id"] for c in stimuli.clips("test")] == [9] and len(list(stimuli.clips())) == 2
    record = next(stimuli.clips("test"))
    assert np.array_equal(stimuli.frames(record), clip(9)[0])
    ((joints, mirror),) = stimuli.reactions(record)
    assert joints.shape == (44, 22, 3) and joints.dtype == np.float32 and mirror is False
    assert joints[-1, 0, 2] < -1.0  # a walk played backwards goes backwards


@pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="needs the bpy wheel")
def test_blender_renders_a_clip(tmp_path: Path, data: Path) -> None:
    environment = os.environ | {"BLENDER_USER_RESOURCES": str(tmp_path / "profile"), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "training.stimuli.render",
        "--data",
        str(data),
        "--out",
        str(tmp_path),
        "--clips",
        "1",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    if "EGL" in done.stderr and done.returncode:
        pytest.skip("needs an EGL driver: apt install libegl1 libgl1-mesa-dri")
    assert done.returncode == 0, done.stderr[-2000:]
    stimuli = Stimuli(tmp_path, data)
    (record,) = stimuli.clips()
    frames = stimuli.frames(record).astype(float)
    assert frames.shape == (16, 224, 224, 3)
    assert frames.std(axis=(1, 2, 3)).min() > 8  # there is something to see
    assert np.abs(frames[-1] - frames[0]).mean() > 2  # and it moves
    assert record["reactions"] and record["seed"] == 0


def test_arrays_appear_whole_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The .npz, which readers look for, is there only once the .npy is; a failed write leaves nothing."""
    shards.write_arrays(tmp_path, "a", np.arange(6), {"label": np.ones(2)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "a.npz"]
    assert np.load(tmp_path / "a.npy").tolist() == list(range(6))
    with np.load(tmp_path / "a.npz") as file:
        assert file["label"].tolist() == [1, 1]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        shards.write_arrays(tmp_path, "b", np.arange(6), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "a.npz"]
