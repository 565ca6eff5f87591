# SPDX-License-Identifier: GPL-3.0-or-later
"""Several clips at once: what each gives alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import write_tiny

import hero_core
from hero_core import Hero, VideoFeatures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def hero(folder: Path) -> Hero:
    return hero_core.load(str(folder), "cpu", "float32")


@pytest.fixture(scope="module")
def clips() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (16, 224, 224, 3), np.uint8) for _ in range(3)]


def same(first: Sequence[VideoFeatures], second: Sequence[VideoFeatures]) -> bool:
    return all(
        torch.equal(a.local, b.local) and torch.equal(a.pooled, b.pooled) and a.clip == b.clip
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("pays", [False, True])
def test_each_comes_out_as_alone(hero: Hero, clips: list[Any], pays: bool) -> None:
    """Also on a device where a batch might be faster: whether it gives the same bits is looked at, not believed."""
    alone = [hero.encode(frames) for frames in clips]
    hero._batch_pays = pays
    for _ in range(2):
        assert same(hero.encode_clips(clips), alone)
    assert hero.encode_clips([]) == []
    assert (3 in hero._same_in_batch) == pays


def test_a_device_that_computes_otherwise_in_a_batch_gets_no_batches(
    hero: Hero, clips: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [hero.encode(frames) for frames in clips]
    assert hero.encoder is not None
    forward, sizes = hero.encoder.forward, []

    def rounded(frames: Any, *args: Any) -> Any:
        sizes.append(len(frames))
        return forward(frames, *args) + (0.0 if len(frames) == 1 else 1e-6)

    monkeypatch.setattr(hero.encoder, "forward", rounded)
    hero._batch_pays = True
    assert same(hero.encode_clips(clips), alone) and hero._same_in_batch == {3: False}
    sizes.clear()
    assert same(hero.encode_clips(clips), alone) and sizes == [1, 1, 1]


def test_a_batch_is_one_pass_where_it_is_the_same(
    hero: Hero, clips: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [hero.encode(frames) for frames in clips]
    hero._batch_pays, hero._same_in_batch = True, {3: True}
    assert hero.encoder is not None
    forward, sizes = hero.encoder.forward, []

    def counted(frames: Any, *args: Any) -> Any:
        sizes.append(len(frames))
        return forward(frames, *args)

    monkeypatch.setattr(hero.encoder, "forward", counted)
    found = hero.encode_clips(clips)
    assert sizes == [3]
    for a, b in zip(found, alone, strict=True):
        assert a.clip == b.clip and torch.allclose(a.local, b.local, atol=1e-4)
        assert torch.allclose(a.pooled, a.local.mean(0))
