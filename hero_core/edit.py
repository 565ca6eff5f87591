# SPDX-License-Identifier: GPL-3.0-or-later
"""Change a part of a motion: new frames between old ones, at their end, or after a given start.

Tokens stand for 4 frames and the decoder's view is wide (87 frames to each side), so a motion decoded from partly
new tokens differs everywhere. Here the frames outside of the range stay as they are, to the bit, and the new ones
are led to them within a few frames *inside* the range: the difference at a seam, in pose and in its velocity, fades
out along a cubic (the "inertialisation" of Bollo, GDC 2018, with Hermite's curve). Blending two motions instead
would keep the old one, which is not wanted, alive through the blend.

A seam is closed in the 263-d features. There the root is known by its velocities, so the new part starts where and
as it should by itself. Where it ends is another matter; see ``keep`` of :func:`splice`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import HeroError
from .humanml3d import (
    CONTACT,
    RIC,
    ROOT,
    ROT6D,
    VELOCITY,
    canonicalise,
    qrot,
    recover_root,
    rot6d_to_matrix,
    to_features,
    to_joints,
)
from .motion import PARENTS
from .record import Keep

START_FRAMES = 20  # of a given motion, how many frames at its end count; one second
_STILL = 16  # frames of stillness before them, so that the tokenizer does not see an edge there


def fade(frames: int) -> tuple[Tensor, Tensor]:
    """Weights (frames,) each of an offset and of its velocity per frame, 1 .. frames frames past a seam.

    Hermite's cubic from value 1 (and slope 1) at the seam to value 0 and slope 0 at frames + 1.
    """
    s = torch.arange(1, frames + 1, dtype=torch.float64) / (frames + 1)
    return (2 * s - 3) * s * s + 1, ((s - 2) * s * s + s) * (frames + 1)


def _lengths(pose: Tensor) -> Tensor:
    """(..., 22, 3) joints -> (..., 22) lengths of the bones above them; 0 for the root."""
    return (pose - pose[..., list(PARENTS), :]).norm(dim=-1) * (torch.arange(22) > 0)


def _pose(rows: Tensor) -> Tensor:
    """(M, 263) -> (M, 22, 3) joints as the root sees them."""
    pelvis = rows[:, 3:4] * rows.new_tensor([0.0, 1.0, 0.0])
    return torch.cat((pelvis[:, None], rows[:, RIC].unflatten(-1, (21, 3))), 1)


def _close(out: Tensor, old: Tensor, new: Tensor, frames: int) -> None:
    """Lead the rows ``out`` (M, 263) away from a seam, in place.

    Both motions are seen in the order in which one walks away from the seam: ``old`` and ``new`` (2, 263) are their
    two last rows before it, the nearer one last.
    """
    value, slope = (w[:, None] for w in fade(frames))
    part = out[:frames]
    offset = old[-1] - new[-1]
    drift = offset - (old[0] - new[0])
    now = value * offset
    shape = slice(ROOT.stop - 1, RIC.stop)  # the root's height, and the joints
    lengths = _lengths(_pose(part))
    part[:, :3] += now[:, :3]
    part[:, shape] += now[:, shape] + slope * drift[shape]
    part[:, ROT6D] += now[:, ROT6D]
    # Joints moved along straight lines would shorten the bones: only their directions count.
    lengths = lengths + value * (_lengths(_pose(old[-1:])) - _lengths(_pose(new[-1:])))
    pose = _pose(part)
    joints = [pose[:, 0]]
    for j in range(1, 22):
        p = PARENTS[j]
        joints.append(joints[p] + F.normalize(pose[:, j] - pose[:, p], dim=-1) * lengths[:, j : j + 1])
    part[:, RIC] = torch.stack(joints[1:], 1).flatten(1)
    matrix = rot6d_to_matrix(part[:, ROT6D].unflatten(-1, (21, 6)))
    part[:, ROT6D] = matrix[..., :2].transpose(-1, -2).flatten(1)


def _arrive(out: Tensor, old: Tensor, first: int, last: int) -> None:
    """Change the root's velocities in rows [first, last) so that pose ``last`` stands and faces as in ``old``.

    What is missing is spread over the range in a bell, less where both feet stand.
    """
    bell = torch.sin(math.pi * (torch.arange(last - first, dtype=out.dtype) + 0.5) / (last - first)) ** 2
    left, right = out[first:last, CONTACT].clamp(0, 1).unflatten(-1, (2, 2)).amax(-1).unbind(-1)
    share = bell * (1.1 - left * right)
    share = share / share.sum()
    turn = old[:last, 0].sum() - out[:last, 0].sum()  # half angles: a half turn of them is a whole one
    turn = turn - math.pi * torch.round(turn / math.pi)
    out[first:last, 0] += turn * share
    heading, root = recover_root(out[: last + 1])
    missing = (recover_root(old[: last + 1])[1][last] - root[last]) * out.new_tensor([1.0, 0.0, 1.0])
    step = qrot(heading[first + 1 : last + 1], missing * share[:, None])
    out[first:last, 1:3] += step[:, [0, 2]]


def splice(
    old: Tensor, old_joints: Tensor, new: Tensor, first: int, last: int, blend: int = 6, keep: Keep = "place"
) -> tuple[Tensor, Tensor]:
    """Frames [first, last) of ``new`` into ``old``.

    Args:
        old: (N, 263) features of the motion to change, 20 fps; N may be ``first`` alone.
        old_joints: (N, 22, 3) its joints, metres.
        new: (M, 263) features of all frames as decoded; M = N, or ``last`` where nothing old follows.
        first, last: the range; 0 <= first < last <= M, first <= N.
        blend: frames at each seam, inside the range, in which the new motion is led to the old one.
        keep: what the old frames after the range keep. "place": they stay where they are, and the new part is
            bent so that it arrives there. "path": the new part goes where it goes, and they follow it, turned
            and moved as one rigid piece.

    Returns:
        features (M, 263), those outside the range equal to ``old`` to the bit, and joints (M, 22, 3), those before
        the range equal to the bit, and with "place" those after it too. With "path" they are the old ones carried
        along.
    """
    rest = last < len(old)
    before, after = old.double(), new.double()
    out = after.clone()
    out[:first] = before[:first]
    if rest:
        out[last:] = before[last:]
    middle, frames = out[first:last], min(blend, last - first)
    # Both ends start from the decoded rows; they may overlap, for each has faded out where the other begins.
    if first:
        ends = [max(first - 2, 0), first - 1]
        _close(middle, before[ends], after[ends], frames)
    if rest:
        ends = [min(last + 1, len(old) - 1), last]
        flipped = middle.flip(0)
        _close(flipped, before[ends], after[ends], frames)
        middle.copy_(flipped.flip(0))
        if keep == "place":
            _arrive(out, before, first, last)
    joints = to_joints(out)
    if first:
        joints[:first] = old_joints[:first]
    if rest and keep == "place":
        joints[last:] = old_joints[last:]
    heading, _ = recover_root(out)
    steps = qrot(heading[:-1, None], joints[1:] - joints[:-1]).flatten(1)  # (M - 1, 66)
    out[first : min(last, len(steps)), VELOCITY] = steps[first:last]
    return out.float(), joints.float()  # what was float32 before comes back to the bit


def start_frames(joints: Any, unit: int) -> Tensor:
    """The frames of a given start that count: (22, 3) or (m, 22, 3) joints -> (s, 22, 3), s a multiple of ``unit``.

    The last 20 frames (a second) at most. A pose, or less than a token's frames, is held before it moves on.

    Raises:
        HeroError: another shape, or values that are not finite.
    """
    x = torch.as_tensor(joints, dtype=torch.float32, device="cpu")
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or not len(x) or x.shape[1:] != (22, 3):
        raise HeroError(f"A start is a pose (22, 3) or a motion (frames, 22, 3), not {tuple(x.shape)}.")
    if not bool(torch.isfinite(x).all()):
        raise HeroError("The start pose holds NaN or infinite positions; choose another frame.")
    if len(x) < unit:
        return torch.cat((x[:1].expand(unit - len(x), -1, -1), x))
    return x[-(min(len(x), START_FRAMES) // unit * unit) :].clone()


def start_rows(joints: Tensor) -> tuple[Tensor, Tensor]:
    """Features of a start (s, 22, 3) of any size, place and heading: its rows (s, 263), and the same after stillness.

    Directions of the bones count, on the reference skeleton; the first frame stands at the origin, faces +Z, and
    the lowest joint of all stands on the floor. The second rows (16 + s, 263) are what the tokenizer should see.
    """
    x = joints.double()
    onward = 2 * x[-1:] - x[-2:-1]  # a row tells of the step to the next pose too
    x = torch.cat((x[:1].expand(_STILL, -1, -1), x, onward))
    x = canonicalise(x)
    rows = to_features(x[_STILL:], canonical=True, continuous_heading=True)
    seen = to_features(x, canonical=True, continuous_heading=True)
    return rows.float(), seen.float()


def place_of(pose: Any) -> tuple[tuple[float, float], float]:
    """Where a pose (22, 3) stands and how it faces: pelvis (x, z) in metres, and the yaw in radians from +Z to +X.

    A reaction that follows it, turned by the yaw about +Y and then moved there, continues it in place.
    """
    x = torch.as_tensor(pose, dtype=torch.float64)
    across = (x[2] - x[1]) + (x[17] - x[16])
    forward = torch.linalg.cross(x.new_tensor([0.0, 1.0, 0.0]), across)
    return (float(x[0, 0]), float(x[0, 2])), math.atan2(float(forward[0]), float(forward[2]))
