# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights of one's own, the official release's or others: checked, converted once, measured. No bpy here."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hero_core.errors import Cancelled, HeroError

from . import user_files

Progress = Callable[[int, int], bool]

OFFICIAL_TERMS = (
    "The official release names no terms for its weights; its code is under the MIT licence, (c) 2025 Chengjun Yu.",
    "Its video encoder is TC-CLIP's, by NAVER: CC BY-NC 4.0, so not for commercial work.",
    "The motions and videos that it learned from have terms of their own: ask its authors before you publish.",
)
_TERMS_FILES = ("LICENSE", "LICENCE", "LICENSE.txt", "LICENSE.md", "LICENCE.md", "MODEL_CARD.md", "README.md")
_STEPS = 4


@dataclass(frozen=True)
class Found:
    """What a folder holds, as far as can be seen without reading the tensors.

    official  the layout of the official release; otherwise config.json and model.safetensors
    bytes     of the files that will be read
    terms     lines that have to be accepted
    """

    folder: Path
    official: bool
    bytes: int
    terms: tuple[str, ...]


def look(chosen: str | Path) -> Found:
    """Look into a folder; raises HeroError where no weights are in it."""
    folder = Path(chosen)
    if folder.is_file():
        folder = folder.parent
    if not chosen or not folder.is_dir():
        raise HeroError("Choose the folder of the official release ('checkpoints'), or one with model.safetensors.")
    files = [folder / "model.safetensors", folder / "config.json"]
    if all(file.is_file() for file in files):
        return Found(folder, False, sum(file.stat().st_size for file in files), _terms(folder))
    if any(file.is_file() for file in files):
        lacking = next(file.name for file in files if not file.is_file())
        raise HeroError(f"'{folder}' has no {lacking}; copy it from where the other file came from.")
    files = [p for depth in range(6) for end in ("*.tar", "*.pth") for p in folder.glob("*/" * depth + end)]
    if not files:
        raise HeroError(
            f"'{folder}' holds no weights: neither model.safetensors nor the folders of the official release "
            "(tcclip and vimo); choose another folder."
        )
    return Found(folder, True, sum(file.stat().st_size for file in files), OFFICIAL_TERMS)


def _terms(folder: Path) -> tuple[str, ...]:
    """What the folder's own papers say of the licence."""
    if re.search(r'"name":\s*"official ', (folder / "config.json").read_text(encoding="utf-8", errors="replace")):
        return OFFICIAL_TERMS
    for name in _TERMS_FILES:
        if not (folder / name).is_file():
            continue
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        sentences = re.split(r"(?<=[.;])\s+|\n\s*\n", text)
        lines = [" ".join(line.split()) for line in sentences if re.search(r"licen[cs]e", line, re.IGNORECASE)]
        if lines:
            return (f"{name}: {lines[0][:200]}",)
    return ("The folder says nothing of a licence: ask whoever made these weights what you may do with them.",)


class Conversion:
    """One conversion: ``run`` does it, in any thread that may import torch; ``stage`` says what is being done."""

    def __init__(self, found: Found, root: Path, accepted: bool) -> None:
        """Raises HeroError where the terms were not accepted."""
        if not accepted:
            raise HeroError("Accept the terms of these weights first; nothing was installed.")
        self.stage = "Getting ready"
        self._found, self._root = found, root

    def run(self, on_progress: Progress | None = None) -> Path:
        """Check every tensor, write safetensors, load them and make one reaction; returns the new folder.

        Raises HeroError with what is wrong, Cancelled when ``on_progress`` said so; nothing is left of it then.
        """
        found, root = self._found, self._root
        with user_files.only_one(root, "weights"):
            user_files.check_space(root, 2e-9 * found.bytes, "Converting these weights")
            try:
                part = user_files.new_part(root)
            except OSError as err:
                raise HeroError(f"'{root}' cannot be written ({err.strerror}): make room, or allow it.") from err
            try:
                return self._convert(part, on_progress)
            except OSError as err:
                raise HeroError(f"'{root}' cannot be written ({err.strerror}): make room, or allow it.") from err
            finally:
                user_files.delete(part)

    def _convert(self, part: Path, on_progress: Progress | None) -> Path:
        from hero_core import checkpoint

        found = self._found
        self._tick(0, "Checking", on_progress)
        parts = checkpoint.read(found.folder)
        self._tick(1, "Converting", on_progress)
        checkpoint.write(parts, part)
        for name in _TERMS_FILES:
            if not found.official and (found.folder / name).is_file():
                shutil.copy(found.folder / name, part / name)
        self._tick(2, "Trying them out", on_progress)
        measured = measure(part)
        self._tick(3, "Writing", on_progress)
        name = re.sub(r"[^\w.-]+", "_", parts.config.name).strip("._") or "weights"
        user_files.write_about(
            part,
            {
                "name": parts.config.name,
                "source": str(found.folder),
                "terms": list(found.terms),
                "accepted": True,
                "time": time.time(),
                **measured,
            },
        )
        final = user_files.keep(part, name)
        self.stage = "Done"
        return final

    def _tick(self, step: int, stage: str, on_progress: Progress | None) -> None:
        self.stage = stage
        if on_progress is not None and not on_progress(step, _STEPS):
            raise Cancelled


def measure(folder: Path, device: str = "auto") -> dict[str, Any]:
    """Size and speed of weights on this machine, by one reaction of 4 s: parameters, bytes, seconds.

    Raises HeroError where they do not load or do not react.
    """
    import numpy as np

    import hero_core

    start = time.perf_counter()
    hero = hero_core.load(folder, device)
    loaded = time.perf_counter()
    frames = np.random.default_rng(0).integers(0, 255, (16, 224, 224, 3), np.uint8)
    features = hero.encode(frames)
    watched = time.perf_counter()
    hero.react(features, 1, hero.check_length(80), 0)
    modules = [m for m in (hero.encoder, hero.rvq, hero.masked, hero.residual, hero.length_head) if m is not None]
    return {
        "parameters": sum(value.numel() for module in modules for value in module.parameters()),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "device": str(hero.device),
        "load_seconds": round(loaded - start, 3),
        "watch_seconds": round(watched - loaded, 3),
        "take_seconds": round(time.perf_counter() - watched, 3),
    }


def describe(folder: Path) -> str:
    """Size and speed of weights that were installed, in a line; "" for other folders."""
    known = user_files.about(folder)
    if "parameters" not in known:
        return ""
    return (
        f"{known['name']}: {known['parameters'] / 1e6:.1f} million parameters, {known['bytes'] / 1e6:.0f} MB; on "
        f"{known['device']} loads in {known['load_seconds']:.1f} s, watches a clip in {known['watch_seconds']:.1f} s, "
        f"makes a take in {known['take_seconds']:.1f} s"
    )
