# SPDX-License-Identifier: GPL-3.0-or-later
"""Motion: what a reaction is, as plain arrays. numpy only, so that retargeting works without torch."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import HeroError
from .output import check_output, whole_file
from .record import TakeRecord

FPS = 20.0
JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
    "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)

Array = npt.NDArray[Any]


@dataclass
class Motion:
    """One or several takes of a reaction.

    joints    (takes, N, 22, 3) float32, metres, Y up, starts facing +Z, feet on y = 0
    features  (takes, N, 263) float32 HumanML3D features, or None where only joints are known
    lengths   (takes,) int, valid frames of each take; what follows is zero
    tokens    (takes, n, Q) int32, -1 = pad: what the model drew, 4 frames a token, so that a part can be drawn
              again; None where they are not known
    records   one for each take, how to make it again; () where that is not known
    """

    joints: Array
    features: Array | None
    lengths: Array
    fps: float = FPS
    seed: int = 0
    tokens: Array | None = None
    records: tuple[TakeRecord, ...] = ()

    def __post_init__(self) -> None:
        self.joints = np.asarray(self.joints, np.float32)
        if self.joints.ndim != 4 or self.joints.shape[2:] != (22, 3):
            raise HeroError(
                f"The motion has joints of shape {self.joints.shape}; (takes, N, 22, 3) or (N, 22, 3) is needed."
            )
        self.lengths = np.asarray(self.lengths, np.int64).reshape(-1)
        takes, frames = self.joints.shape[:2]
        if len(self.lengths) != takes or not takes or not ((self.lengths >= 1) & (self.lengths <= frames)).all():
            raise HeroError(
                f"The motion's lengths {self.lengths.tolist()} do not fit {takes} takes of {frames} frames."
            )
        if not np.isfinite(self.joints).all():
            raise HeroError("The motion holds NaN or infinite joints; generate it again or repair the file.")
        if self.tokens is not None:
            self.tokens = np.asarray(self.tokens, np.int32)
            if self.tokens.ndim != 3 or len(self.tokens) != takes:
                raise HeroError(f"The motion has tokens of shape {self.tokens.shape}; ({takes}, n, layers) is needed.")
        self.records = tuple(self.records)
        if len(self.records) not in (0, takes):
            raise HeroError(f"The motion has {len(self.records)} records for {takes} takes; one for each is needed.")

    def take(self, index: int) -> Array:
        """(n, 22, 3) joints of one take without the padding."""
        return self.joints[index, : self.lengths[index]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write motion.npz; the file appears whole or not at all."""
        target = Path(path)
        check_output(target, ".npz")
        data: dict[str, Array] = {
            "joints": self.joints,
            "lengths": self.lengths,
            "fps": np.array(self.fps),
            "seed": np.array(self.seed),
        }
        if self.features is not None:
            data["features"] = np.asarray(self.features, np.float32)
        if self.tokens is not None:
            data["tokens"] = self.tokens
        if self.records:
            data["records"] = np.array([record.to_json() for record in self.records])
        with whole_file(target) as part:
            np.savez(part, **data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Motion:
        """Read motion.npz, or joints.npy of shape (N, 22, 3) or (takes, N, 22, 3)."""
        source = Path(path)
        if not source.is_file():
            raise HeroError(f"There is no motion file '{source}'.")
        try:
            loaded = np.load(source, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                data = {"joints": loaded}
            else:
                with loaded:
                    data = {key: loaded[key] for key in loaded.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as err:
            raise HeroError(f"'{source}' is not a motion .npz or a joints .npy that can be read ({err}).") from err
        if "joints" not in data:
            raise HeroError(f"'{source}' has no array named joints; write it with Motion.save or as a plain .npy.")
        joints = data["joints"]
        if joints.dtype.kind not in "fiu":
            raise HeroError(f"'{source}' has joints of type {joints.dtype}; numbers are needed.")
        if joints.ndim == 3:
            joints = joints[None]
        lengths = data.get("lengths", np.full(len(joints), joints.shape[1] if joints.ndim > 1 else 0))
        return cls(
            joints,
            data.get("features"),
            lengths,
            float(data.get("fps", FPS)),
            int(data.get("seed", 0)),
            data.get("tokens"),
            tuple(TakeRecord.from_json(str(text)) for text in data.get("records", ())),
        )
