# SPDX-License-Identifier: GPL-3.0-or-later
"""Made-up clips and their pairs: what charges grows, the same seed gives the same, no split sees another's material."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.stimuli.catalogue import CC0, GOING, REACTIONS, STIMULI, WAITING
from training.stimuli.dataset import Stimuli

SPLITS = ("train", "val", "test")
CHARGING, CALM = ("creature_charge", "vehicle", "ball"), ("creature_calm", "quiet")


# --- composites -----------------------------------------------------------------------------------


@pytest.fixture
def composites() -> Any:
    pytest.importorskip("PIL")
    import training.stimuli.composites as module

    return module


def test_what_charges_grows_and_what_is_calm_hardly_does(composites: Any) -> None:
    assert set(CHARGING + CALM) == set(composites.CLASSES) <= set(STIMULI)
    for cls in composites.CLASSES:
        for seed in range(40):
            seconds, size, place, event = composites.paths(cls, cls in CHARGING, np.random.default_rng(seed))
            assert size.shape == (16,) and place.shape == (16, 2)
            assert np.isfinite(size).all() and np.isfinite(place).all() and (size > 0).all()
            assert 1.0 < seconds <= 5.0 and 0 < event < seconds
            growth = size[-1] / size[0]
            if cls in CHARGING:
                assert growth > 1.8 and (np.diff(size) >= 0).all()
                assert size[int(event / seconds * 16) :].max() > size[0]  # it happens once it has come nearer
            else:
                assert 0.9 < growth < 1.9
            assert place.min() > -0.6 and place.max() < 1.0


def pictures() -> tuple[Any, Any]:
    """A place of noise, and a red cut-out with a soft edge."""
    from PIL import Image

    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 200, (300, 400, 3), np.uint8))
    cut = np.zeros((60, 90, 4), np.uint8)
    cut[..., 0] = 255
    cut[5:-5, 5:-5, 3] = 255
    return photo, Image.fromarray(cut)


def test_the_same_seed_makes_the_same_clip(composites: Any) -> None:
    photo, cut = pictures()
    one, two, other = (composites.compose("vehicle", photo, cut, True, np.random.default_rng(s)) for s in (5, 5, 6))
    assert one[0].shape == (16, 224, 224, 3) and one[0].dtype == np.uint8
    assert np.array_equal(one[0], two[0]) and one[1] == two[1]
    assert not np.array_equal(one[0], other[0])


def test_the_body_is_seen_to_grow(composites: Any) -> None:
    photo, cut = pictures()
    grey = photo.convert("L").convert("RGB")
    for seed in range(3):
        frames, _ = composites.compose("ball", grey, cut, True, np.random.default_rng(seed))
        red = frames[..., 0].astype(int) - frames[..., 1:].max(-1)
        seen = (red > 60).mean((1, 2))
        assert seen[-1] > 2 * max(seen[0], 0.002)
    empty, _ = composites.compose("quiet", grey, None, False, np.random.default_rng(0))
    assert not (empty[..., 0].astype(int) - empty[..., 1:].max(-1) > 60).mean() > 0.01


def test_pools_are_of_real_things_and_no_split_shares_a_picture(composites: Any) -> None:
    kinds = {"beast": composites.BEASTS, "vehicle": composites.VEHICLES, "ball": composites.BALLS}
    names = [f"{word}/{i}.png" for words in kinds.values() for word in words for i in range(20)]
    never = [f"{composites.BEASTS[0]}/{word}/{i}.png" for word in composites.NEVER for i in range(3)]
    everything = [(name, None) for name in (*names, *never, "plants/tree.png")]
    by_split = {out: composites.pools([c for c in everything if composites.held_out(c[0]) == out]) for out in (0, 1)}
    for kind, words in kinds.items():
        train, val = ({name for name, _ in by_split[out][kind]} for out in (0, 1))
        assert train and val and not train & val
        assert train | val == {name for name in names if any(word in name for word in words)}
    assert 0.02 < np.mean([composites.held_out(name) for name in names]) < 0.2


# --- the second view, and clips shown backwards ---------------------------------------------------


def test_altered_is_the_mirror_image_in_another_light() -> None:
    pytest.importorskip("torch")
    from training.look import altered

    level = np.linspace(60, 180, 64).astype(np.uint8)  # brighter to the right
    frames = np.broadcast_to(level[None, None, :, None], (5, 64, 64, 3)).copy()
    for seed in range(20):
        out = altered(frames, np.random.default_rng(seed))
        assert out.shape == frames.shape and out.dtype == np.uint8
        assert (np.diff(out[0, 0].astype(int), axis=0) <= 0).all()  # brighter to the left
        assert out[0, 0, 0, 0] > out[0, 0, -1, 0]
        assert (out == out[:1]).all()  # the same change in every frame
        assert not np.array_equal(out, frames[:, :, ::-1])
        np.testing.assert_array_equal(out, altered(frames, np.random.default_rng(seed)))


AFTERWARDS = [*GOING.reactions, *STIMULI["approach_calmly"].reactions]


@pytest.fixture
def stimuli(tmp_path: Path) -> Stimuli:
    """Sixty clips of every split, beside recordings of which each split has its own."""
    rng = np.random.default_rng(0)
    named = {(source.file, source.name) for source in (*WAITING, *(s for kind in AFTERWARDS for s in REACTIONS[kind]))}
    for file in {file for file, _ in named}:
        names = sorted(name for other, name in named if other == file)
        pose = rng.normal(0, 0.3, (22, 3)) + (0, 1, 0)
        joints = pose + rng.normal(0, 0.01, (len(names) * 50, 22, 3))
        np.savez(
            tmp_path / f"{file}.npz",
            names=np.array(names),
            joints=joints.astype(np.float32),
            offsets=np.arange(len(names) + 1) * 50,
            split=np.array([SPLITS[i % 3] for i in range(len(names))]),
        )
    kinds = ("approach_calmly", "creature_charge", "vehicle", "push", "explosion")
    about = {"reactions": [], "shard": "s.npz", "seconds": 3.0, "event": 2.0}
    records = [{"id": i, "cls": kinds[i % 5], "split": SPLITS[i % 3], "row": i, **about} for i in range(180)]
    (tmp_path / "index.jsonl").write_text("\n".join(json.dumps(r) for r in records))
    return Stimuli(tmp_path, tmp_path)


def test_backwards_clips_keep_their_split_and_are_met_as_what_goes_away(stimuli: Stimuli) -> None:
    pytest.importorskip("torch")
    from hero_core.train.encoder import RETREAT
    from training.prepare import BACKWARDS, WALKS_UP, clips_of

    found = clips_of(stimuli, np.random.default_rng(1))
    assert found[:180] == stimuli.records
    turned = [r for r in found[180:] if "backwards" in r]
    nearer = [r for r in stimuli.records if r["cls"] in ("approach_calmly", "vehicle")]
    assert 0.5 < len(turned) * BACKWARDS / len(nearer) < 2
    assert {r["split"] for r in turned} == set(SPLITS)
    for record in turned:
        straight = stimuli.records[record["id"]]
        assert straight in nearer and "backwards" not in straight
        assert (record["cls"], record["backwards"]) == (RETREAT, True)
        assert all(record[key] == straight[key] for key in ("split", "shard", "row"))
        assert record["reactions"]
        for reaction in record["reactions"]:
            assert reaction["label"] in GOING.reactions
            for part in reaction["parts"]:
                assert stimuli.motions.split(part["file"], part["name"]) == record["split"]
    short = [r for r in found[180:] if "last" in r]
    assert len(short) + len(turned) == len(found) - 180 and len(short) > 4
    for record in short:
        assert stimuli.records[record["id"]]["cls"] == "push" and record["cls"] == WALKS_UP
        assert 0 < record["last"] / 15 * record["seconds"] < record["event"]
        assert {r["label"] for r in record["reactions"]} <= set(STIMULI[WALKS_UP].reactions)
    assert clips_of(stimuli, np.random.default_rng(1)) == found
    assert CC0 in {part["file"] for record in turned for r in record["reactions"] for part in r["parts"]}


def test_at_night_the_lamps_are_what_one_sees(composites: Any) -> None:
    photo, cut = pictures()
    dark = [composites.compose("vehicle", photo, cut, True, np.random.default_rng(seed))[0] for seed in range(8)]
    nights = [frames for frames in dark if frames[0].mean() < 60]
    assert 1 <= len(nights) <= 7  # about half of them
    for frames in nights:
        assert frames[-1].max() > 200
        assert (frames[-1].min(-1) > 180).mean() >= (frames[0].min(-1) > 180).mean()
