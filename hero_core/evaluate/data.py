# SPDX-License-Identifier: GPL-3.0-or-later
"""Real reactions with their labels, and what the classes of videos are called.

Motions are one safetensors file, so that any tool can write it:

    features  (sum of lengths, 263) float   HumanML3D features, de-normalised, one motion after the other
    offsets   (R + 1,) int64                motion i is features[offsets[i] : offsets[i + 1]]
    label     (R,) int64                    kind of reaction, -1 = not known
    stimulus  (R,) int64                    class of the video, -1 = not known
    split     (R,) int64                    0 train, 1 validation, 2 test
    clip      (R,) int64, optional          whose reaction it is: clip of the pairs file; evaluation needs it
    features_mirrored, optional             the mirrored motions, same offsets

and a JSON file of the same name: {"reactions": [...], "stimuli": [...]} and optionally "groups" and "fitting" as below.
Beside the pairs file stands a JSON file of its name: {"classes": [...], "clip_class": [class of each clip], and
optionally "groups": {class: group}, "fitting": {class: [kinds of reaction that fit]}}.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hero_core.errors import HeroError
from hero_core.humanml3d import DIM
from hero_core.train.loop import load_weights
from hero_core.train.pairs import SPLITS


@dataclass
class Motions:
    features: Tensor
    offsets: Tensor
    label: Tensor
    stimulus: Tensor
    split: Tensor
    reactions: tuple[str, ...]
    stimuli: tuple[str, ...]
    clip: Tensor | None = None
    features_mirrored: Tensor | None = None
    groups: dict[str, str] = field(default_factory=dict)
    fitting: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.label)

    def get(self, index: int, mirrored: bool = False) -> Tensor:
        """(N, 263) float32 features of one motion."""
        table = self.features_mirrored if mirrored and self.features_mirrored is not None else self.features
        return table[int(self.offsets[index]) : int(self.offsets[index + 1])].float()

    def rows(self, split: str) -> Tensor:
        """Numbers of the motions of a split, of 16 frames or more."""
        long = self.offsets.diff() >= 16
        return ((self.split == SPLITS.index(split)) & long).nonzero()[:, 0]


@dataclass
class Classes:
    """Which class each clip of a pairs file has."""

    names: tuple[str, ...]
    clip_class: Tensor  # (C,)
    groups: dict[str, str]
    fitting: dict[str, list[str]]


def _json(path: Path, wanted: str) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise HeroError(f"'{path}' is needed and cannot be read ({err.strerror or err}); it says {wanted}.") from err
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise HeroError(f"'{path}' is not valid JSON ({err}); write it again.") from err
    if not isinstance(found, dict):
        raise HeroError(f"'{path}' must hold an object that says {wanted}.")
    return found


def load_motions(path: str | os.PathLike[str]) -> Motions:
    """Read and check a motions file and the names beside it."""
    data = load_weights(path)
    needed, optional = {"features", "offsets", "label", "stimulus", "split"}, {"clip", "features_mirrored"}
    if not needed <= set(data) <= needed | optional:
        raise HeroError(f"'{path}' must hold {', '.join(sorted(needed))}; prepare the motions again.")
    names = _json(Path(path).with_suffix(".json"), "what reactions and stimuli are called")
    reactions, stimuli = (tuple(names.get(key, ())) for key in ("reactions", "stimuli"))
    count = len(data["label"])
    offsets = data["offsets"]
    problems = [
        f"{key} has {len(data[key])} entries for {count} motions"
        for key in ("stimulus", "split", "clip")
        if key in data and len(data[key]) != count
    ]
    if data["features"].ndim != 2 or data["features"].shape[1] != DIM:
        problems.append(f"features have shape {tuple(data['features'].shape)}, not (N, 263)")
    if len(offsets) != count + 1 or int(offsets[-1]) != len(data["features"]) or bool((offsets.diff() <= 0).any()):
        problems.append("offsets do not cut the features into motions")
    if "features_mirrored" in data and data["features_mirrored"].shape != data["features"].shape:
        problems.append("features_mirrored has another shape than features")
    for key, known in (("label", reactions), ("stimulus", stimuli)):
        if count and (int(data[key].min()) < -1 or int(data[key].max()) >= len(known)):
            problems.append(f"{key} goes up to {int(data[key].max())}, {len(known)} names are given")
    if problems:
        raise HeroError(f"'{path}' is not usable: {'; '.join(problems)}; prepare the motions again.")
    return Motions(
        **data, reactions=reactions, stimuli=stimuli, groups=names.get("groups", {}), fitting=names.get("fitting", {})
    )


def load_classes(pairs: str | os.PathLike[str], clips: int, motions: Motions) -> Classes:
    """Classes of the clips of a pairs file, from the JSON file beside it; groups may stand with the motions' names."""
    path = Path(pairs).with_suffix(".json")
    found = _json(path, "the class of each clip (classes, clip_class)")
    names, clip_class = tuple(found.get("classes", ())), torch.tensor(found.get("clip_class", []), dtype=torch.long)
    if len(clip_class) != clips or (clips and (int(clip_class.min()) < 0 or int(clip_class.max()) >= len(names))):
        raise HeroError(f"'{path}' must give each of the {clips} clips one of its {len(names)} classes.")
    return Classes(names, clip_class, found.get("groups") or motions.groups, found.get("fitting") or motions.fitting)
