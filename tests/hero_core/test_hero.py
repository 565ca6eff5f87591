# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hero_core
from hero_core import humanml3d
from hero_core.errors import Cancelled, HeroError
from hero_core.motion import Motion
from tests.models import write_tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def hero(folder: Path) -> hero_core.Hero:
    return hero_core.load(folder, device="cpu", dtype="float32")


def clip(frames: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (frames, 40, 60, 3), dtype=np.uint8)


def test_the_verbs_fit_together(hero: hero_core.Hero) -> None:
    features = hero.encode(clip())
    assert features.local.shape == (16, 24) and features.pooled.shape == (24,)
    torch.testing.assert_close(features.pooled, features.local.mean(0))
    ids = hero.generate(features, lengths=[40, 88], steps=4, seed=1)
    assert ids.shape == (2, 22, 3)
    assert (ids[0, 10:] == -1).all() and (ids[0, :10, 0] >= 0).all() and (ids[1, :, 0] >= 0).all()
    decoded = hero.decode(ids)
    assert decoded.shape == (2, 88, 263)
    assert humanml3d.to_joints(decoded).shape == (2, 88, 22, 3)


@pytest.mark.parametrize("frames", [1, 2, 16, 100])
def test_clips_of_any_length(hero: hero_core.Hero, frames: int) -> None:
    assert hero.encode(clip(frames)).local.shape == (16, 24)


@pytest.mark.parametrize(
    "bad",
    [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 3), np.float32)],
)
def test_frames_that_are_no_clip(hero: hero_core.Hero, bad: np.ndarray) -> None:
    with pytest.raises(HeroError):
        hero.encode(bad)


def test_a_take_is_the_same_alone_and_among_others(hero: hero_core.Hero) -> None:
    features = hero.encode(clip())
    many = hero.react(features, takes=3, length=40, seed=5)
    alone = hero.react(features, takes=1, length=40, seed=7)
    np.testing.assert_array_equal(many.joints[2], alone.joints[0])
    assert np.abs(many.joints[0] - many.joints[1]).max() > 1e-3
    again = hero.react(clip(), takes=3, length=40, seed=5)
    np.testing.assert_array_equal(again.joints, many.joints)


def test_a_short_sample_does_not_change_beside_a_long_one(hero: hero_core.Hero) -> None:
    features = hero.encode(clip())
    both = hero.generate(features, [24, 96], steps=4, seed=[3, 4])
    alone = hero.generate(features, [24], steps=4, seed=[3])
    assert torch.equal(both[0, :6], alone[0])


def test_further_takes_do_not_watch_again(hero: hero_core.Hero, monkeypatch: pytest.MonkeyPatch) -> None:
    features = hero.encode(clip())

    def refuse(*_: object) -> None:
        raise AssertionError("the encoder ran")

    monkeypatch.setattr(hero.encoder, "forward", refuse)
    assert hero.react(features, takes=2, length=20).joints.shape == (2, 20, 22, 3)


@pytest.mark.parametrize(("length", "nearest"), [(0, "4"), (3, "4"), (400, "200"), (-8, "4")])
def test_lengths_that_cannot_be(hero: hero_core.Hero, length: int, nearest: str) -> None:
    with pytest.raises(HeroError, match=f"4 to 200 frames.*nearest is {nearest}"):
        hero.react(clip(), length=length)


@pytest.mark.parametrize(("length", "made"), [(4, 4), (90, 88), (200, 200), (None, 88)])
def test_lengths_are_whole_tokens(hero: hero_core.Hero, length: int | None, made: int) -> None:
    motion = hero.react(clip(), length=length)
    assert motion.joints.shape[1] == made == motion.lengths[0]


def test_length_for_a_clip(hero: hero_core.Hero) -> None:
    assert [hero.length_for(s) for s in (0.0, 1.0, 4.4, 600.0)] == [40, 40, 88, 200]


def test_cancel_at_every_stage(hero: hero_core.Hero) -> None:
    seen: list[tuple[int, int]] = []
    hero.react(clip(), length=20, on_progress=lambda d, t: bool(seen.append((d, t))) or True)
    assert [d for d, _ in seen] == list(range(1, seen[0][1] + 1))
    for stop in range(1, len(seen) + 1):
        with pytest.raises(Cancelled):
            hero.react(clip(), length=20, on_progress=lambda d, t, stop=stop: d < stop)


def test_argmax_needs_no_seed(hero: hero_core.Hero) -> None:
    features = hero.encode(clip())
    one, two = (hero.generate(features, [40], sampling="argmax", seed=s) for s in (0, 1))
    assert torch.equal(one, two)


def test_settings_that_make_no_sense(hero: hero_core.Hero) -> None:
    features = hero.encode(clip())
    for wrong in ({"steps": 0}, {"sampling": "best"}, {"seed": [1, 2, 3]}):
        with pytest.raises(HeroError):
            hero.generate(features, [20], **wrong)  # type: ignore[arg-type]
    with pytest.raises(HeroError, match="width 5"):
        hero.generate(hero_core.VideoFeatures(torch.zeros(16, 5), torch.zeros(5)), [20])
    with pytest.raises(HeroError):
        hero.decode(torch.full((1, 4, 3), 999))


def test_bfloat16_runs_and_stays_close(folder: Path, hero: hero_core.Hero) -> None:
    half = hero_core.load(folder, device="cpu", dtype="bfloat16")
    a, b = hero.encode(clip()).pooled, half.encode(clip()).pooled
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.98
    assert half.react(clip(), length=20).joints.shape == (1, 20, 22, 3)


def test_motion_file_round_trip(hero: hero_core.Hero, tmp_path: Path) -> None:
    motion = hero.react(clip(), takes=2, length=24, seed=4)
    motion.save(tmp_path / "m.npz")
    back = Motion.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(back.joints, motion.joints)
    assert back.seed == 4 and back.fps == 20.0 and back.features is not None
    assert back.tokens is not None and motion.tokens is not None and back.records == motion.records
    np.testing.assert_array_equal(back.tokens, motion.tokens)
    np.save(tmp_path / "j.npy", motion.take(0))
    assert Motion.load(tmp_path / "j.npy").joints.shape == (1, 24, 22, 3)
    for content in (np.zeros((5, 21, 3)), np.full((5, 22, 3), np.nan), np.array(["a"])):
        np.save(tmp_path / "bad.npy", content)
        with pytest.raises(HeroError):
            Motion.load(tmp_path / "bad.npy")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(HeroError):
        Motion.load(tmp_path / "bad.npz")
    with pytest.raises(HeroError):
        motion.save(tmp_path / "nowhere" / "m.npz")
    assert not list(tmp_path.glob(".*"))


def _command(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hero_core", *map(str, args)], capture_output=True, text=True, cwd=ROOT, check=False
    )


def test_command_line(folder: Path, tmp_path: Path) -> None:
    from tests.movies import write_movie

    movie = write_movie(tmp_path / "clip.mp4", clip(24))
    out = tmp_path / "motion.npz"
    done = _command("react", movie, "--out", out, "--takes", 2, "--seconds", 2, "--seed", 3, "--model", folder)
    assert done.returncode == 0, done.stderr
    motion = Motion.load(out)
    assert motion.joints.shape == (2, 40, 22, 3) and motion.seed == 3
    for wrong, word in (
        (("react", tmp_path / "no.mp4", "--out", out, "--model", folder), "no.mp4"),
        (("react", movie, "--out", tmp_path / "no" / "m.npz", "--model", folder), "folder"),
        (("react", movie, "--out", tmp_path / "m2.npz", "--model", folder, "--seconds", 60), "nearest is 200"),
        (("convert", tmp_path / "no", tmp_path / "o"), "no checkpoint folder"),
    ):
        done = _command(*wrong)
        assert done.returncode == 1 and word in done.stderr and "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "m2.npz").exists()
    assert _command("convert", folder, tmp_path / "converted").returncode == 0


def test_importing_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['safetensors'] = None\n"
        "import hero_core, hero_core.errors, hero_core.motion\n"
        "try: hero_core.load()\n"
        "except hero_core.HeroError as err: print('said:', err)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "said: The Python package 'torch' is not installed" in done.stdout
