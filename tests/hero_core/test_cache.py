# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hero_core
from hero_core.cache import FeatureCache
from tests.models import write_tiny

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef" * 2


def made(seed: int = 0, clip: str = "clip") -> hero_core.VideoFeatures:
    local = torch.randn(16, 24, generator=torch.Generator().manual_seed(seed))
    return hero_core.VideoFeatures(local, local.mean(0), clip)


def same(a: hero_core.VideoFeatures | None, b: hero_core.VideoFeatures) -> bool:
    return a is not None and torch.equal(a.local, b.local) and torch.equal(a.pooled, b.pooled) and a.clip == b.clip


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def hero(tmp_path_factory: pytest.TempPathFactory) -> hero_core.Hero:
    return hero_core.load(write_tiny(tmp_path_factory.mktemp("tiny")), device="cpu", dtype="float32")


def test_a_clip_is_watched_once(hero: hero_core.Hero, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = np.random.default_rng(0).integers(0, 255, (30, 40, 60, 3), dtype=np.uint8)
    first = FeatureCache(tmp_path / "cache").encode(hero, clip)
    assert same(hero.encode(clip), first) and first.clip

    def refuse(*_: object) -> None:
        raise AssertionError("the encoder ran")

    with monkeypatch.context() as patch:
        patch.setattr(hero.encoder, "forward", refuse)
        later = FeatureCache(tmp_path / "cache")  # another run
        assert same(later.encode(hero, clip.copy()), first)
        for name in names(tmp_path / "cache"):
            (tmp_path / "cache" / name).unlink()
        assert same(later.encode(hero, clip), first)  # from memory
        other = clip.copy()
        other[0] += 1  # of 30 frames the first is seen
        with pytest.raises(AssertionError, match="ran"):
            later.encode(hero, other)
        patch.setattr(hero, "dtype", torch.bfloat16)
        with pytest.raises(AssertionError, match="ran"):
            later.encode(hero, clip)
    a = hero.react(first, length=20, seed=1)
    assert np.array_equal(a.joints, hero.react(clip, length=20, seed=1).joints)


def test_other_weights_are_another_model(hero: hero_core.Hero, tmp_path: Path) -> None:
    other = hero_core.load(write_tiny(tmp_path, seed=1), device="cpu", dtype="float32")
    assert FeatureCache.key(hero, "clip") != FeatureCache.key(other, "clip") != FeatureCache.key(other, "clop")


@given(cut=st.integers(0, 3000), position=st.integers(0, 3000), flip=st.integers(1, 255), shorten=st.booleans())
@settings(max_examples=60)
def test_damage_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, cut: int, position: int, flip: int, shorten: bool
) -> None:
    """A file that was cut or changed anywhere gives what was written, or nothing, and is gone then."""
    folder = tmp_path_factory.mktemp("cache")
    FeatureCache(folder).put(KEY, made())
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    if shorten:
        del data[cut % len(data) :]
    else:
        data[position % len(data)] ^= flip
    file.write_bytes(data)
    found = FeatureCache(folder).get(KEY)
    assert found is None or same(found, made())
    assert file.exists() == (found is not None)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_files_that_are_something_else(tmp_path: Path, content: bytes) -> None:
    cache = FeatureCache(tmp_path)
    (tmp_path / f"{KEY}.features.safetensors").write_bytes(content)
    assert cache.get(KEY) is None and not names(tmp_path)
    cache.put(KEY, made())
    assert same(FeatureCache(tmp_path).get(KEY), made())


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    keys = [f"{i:032x}" for i in range(6)]
    FeatureCache(tmp_path).put(keys[0], made())
    size = next(tmp_path.iterdir()).stat().st_size
    cache = FeatureCache(tmp_path, limit=3 * size + 10)
    stranger = tmp_path / "notes.txt"
    stranger.write_text("x" * 100000)
    for age, i in enumerate((0, 1, 2)):
        cache.put(keys[i], made(i))
        os.utime(tmp_path / f"{keys[i]}.features.safetensors", (1000 + age, 1000 + age))
    assert cache.get(keys[0]) is not None  # used just now, though it is the oldest
    cache.put(keys[3], made(3))
    left = {name[:32] for name in names(tmp_path)} - {"notes.txt"}
    assert left == {keys[0], keys[2], keys[3]} and stranger.exists()
    litter, fresh = tmp_path / "a.features.safetensors.part", tmp_path / "b.features.safetensors.part"
    for part in (litter, fresh):
        part.write_bytes(b"")
    os.utime(litter, (1, time.time() - 7200))
    assert cache.trim() <= 3 * size + 10 and not litter.exists() and fresh.exists()
    FeatureCache(tmp_path, limit=size - 1).put(keys[5], made())  # larger than all that is allowed
    assert cache.get(keys[5]) is None
    cache.clear()
    assert cache.get(keys[0]) is None and names(tmp_path) == ["b.features.safetensors.part", "notes.txt"]


def test_memory_keeps_the_newest() -> None:
    cache = FeatureCache(keep=2)
    for i in range(3):
        cache.put(str(i), made(i))
    assert cache.get("0") is None and same(cache.get("2"), made(2)) and cache.trim() == 0


def test_a_disk_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = FeatureCache(blocked / "cache")
    cache.put(KEY, made())
    assert same(cache.get(KEY), made()) and cache.trim() == 0
    assert FeatureCache(blocked).get(KEY) is None


def test_threads_and_processes_at_once(tmp_path: Path) -> None:
    """Writers, readers and removers on few keys: whatever is found is whole."""
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.hero_core.test_cache import hammer\n"
        "hammer(Path(sys.argv[1]), 20, int(sys.argv[2]))"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(i)], cwd=ROOT) for i in range(2)]
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            hammer(tmp_path, 20, seed)
        except BaseException as err:  # noqa: BLE001 - raised below
            errors.append(err)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (10, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(200) for other in others] == [0, 0] and not errors
    assert not [name for name in names(tmp_path) if name.endswith(".part")]


def hammer(folder: Path, rounds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        cache = FeatureCache(folder, limit=8000)
        which = int(rng.integers(5))
        found = cache.get(f"{which:032x}")
        assert found is None or same(found, made(which))
        cache.put(f"{which:032x}", made(which))
