# SPDX-License-Identifier: GPL-3.0-or-later
"""What an animator sees in a motion, whatever its video: feet, floor, smoothness, bones, where the body went.

The floor is y = 0 for the whole of every motion: HumanML3D puts the lowest joint of a sequence there, and the decoder
learned it so. A floor that is fitted to the generated motion would hide that it floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hero_core import humanml3d
from hero_core.errors import HeroError
from hero_core.motion import FPS, PARENTS

TOES = (10, 11)
ON_FLOOR = 0.05  # m; a toe below it stands
SLIDE = 0.025  # m in a frame at 20 fps (0.5 m/s); a standing toe that moves more skates
MEASURES = {  # name -> what it is, in words for a report
    "skating": "share of frames in which a toe within 5 cm of the floor slides more than 2.5 cm",
    "floating_cm": "mean height of the lowest joint above the floor",
    "penetration_cm": "mean depth of the lowest joint below the floor",
    "deepest_cm": "the greatest of these depths",
    "jerk": "mean third derivative of joint positions, m/s^3",
    "speed": "mean joint speed, m/s",
    "seconds": "length",
    "bone_error_cm": "mean difference of bone lengths from the reference skeleton",
    "pelvis_moved_m": "distance on the floor from where the pelvis started to where it ended",
    "pelvis_lowest_m": "lowest height of the pelvis",
    "pelvis_mean_m": "mean height of the pelvis",
}


def skating(joints: Tensor) -> float:
    """Share of frame steps in which a standing toe slides, joints (N, 22, 3).

    The foot skating ratio of Karunratanakul et al. 2023 (GMD): height below 5 cm in both frames, more than 2.5 cm
    along the floor between them.
    """
    feet = joints[:, list(TOES)]
    low = (feet[1:, :, 1] < ON_FLOOR) & (feet[:-1, :, 1] < ON_FLOOR)
    step = (feet[1:] - feet[:-1])[..., [0, 2]].norm(dim=-1)
    return float(((step > SLIDE) & low).any(-1).float().mean())


def measure(joints: Any) -> dict[str, float]:
    """All of ``MEASURES`` for one motion, joints (N, 22, 3) in metres, Y up, 20 fps, at least 4 frames."""
    x = torch.as_tensor(joints).double()
    if x.ndim != 3 or x.shape[1:] != (22, 3) or len(x) < 4:
        raise HeroError(f"Joints must have shape (N, 22, 3) with N >= 4, not {tuple(x.shape)}.")
    lowest = x[..., 1].amin(-1)  # (N,)
    bones = (x[:, 1:] - x[:, list(PARENTS[1:])]).norm(dim=-1)  # (N, 21)
    pelvis = x[:, 0]
    return {
        "skating": skating(x),
        "floating_cm": float(lowest.clamp(min=0).mean() * 100),
        "penetration_cm": float((-lowest).clamp(min=0).mean() * 100),
        "deepest_cm": float((-lowest).clamp(min=0).max() * 100),
        "jerk": float(x.diff(n=3, dim=0).norm(dim=-1).mean() * FPS**3),
        "speed": float(x.diff(dim=0).norm(dim=-1).mean() * FPS),
        "seconds": len(x) / FPS,
        "bone_error_cm": float((bones - humanml3d.BONE_LENGTHS[1:]).abs().mean() * 100),
        "pelvis_moved_m": float((pelvis[-1] - pelvis[0])[[0, 2]].norm()),
        "pelvis_lowest_m": float(pelvis[:, 1].min()),
        "pelvis_mean_m": float(pelvis[:, 1].mean()),
    }


def average(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each measure over motions."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
