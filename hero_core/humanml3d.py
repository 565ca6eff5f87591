# SPDX-License-Identifier: GPL-3.0-or-later
"""The 263-d motion representation of HumanML3D (Guo et al. 2022), both ways.

One row, for the step from pose t to pose t + 1, seen from a root that turns with the heading:

    0        half the yaw step, rad            4:67     joints 1..21, root xz removed, m
    1:3      root velocity x, z, m / frame     67:193   local 6D rotations of joints 1..21
    3        root height, m                    193:259  velocities of 22 joints, m / frame
                                               259:263  contacts: left ankle, left foot, right ankle, right foot

Everything is Y up, metres, 20 fps. Functions take torch tensors or numpy arrays and answer in kind.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import HeroError
from .motion import PARENTS

DIM = 263
ROOT = slice(0, 4)
RIC = slice(4, 67)
ROT6D = slice(67, 193)
VELOCITY = slice(193, 259)
CONTACT = slice(259, 263)
GROUPS = (slice(0, 1), slice(1, 3), slice(3, 4), RIC, ROT6D, VELOCITY, CONTACT)  # one Std for each

CHAINS = ((0, 2, 5, 8, 11), (0, 1, 4, 7, 10), (0, 3, 6, 9, 12, 15), (9, 14, 17, 19, 21), (9, 13, 16, 18, 20))
MIRROR = (0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20)
CONTACT_JOINTS = (7, 10, 8, 11)
CONTACT_THRESHOLD = 0.002  # squared displacement in a frame, m^2

# Directions of the bones in the rest pose and their lengths in the reference skeleton (clip 000021).
_AXES = {"+x": (1, 0, 0), "-x": (-1, 0, 0), "+y": (0, 1, 0), "-y": (0, -1, 0), "+z": (0, 0, 1)}
_DIRECTIONS = "+y +x -x +y -y -y +y -y -y +y +z +z +y +x -x +z -y -y -y -y -y -y".split()
RAW_OFFSETS = torch.tensor([_AXES[d] for d in _DIRECTIONS], dtype=torch.float32)
RAW_OFFSETS[0] = 0.0
BONE_LENGTHS = torch.tensor([
    0.0, 0.103074, 0.109883, 0.131568, 0.393623, 0.390188, 0.143190, 0.432433, 0.425643, 0.057365, 0.143382,
    0.149419, 0.219360, 0.137487, 0.143383, 0.103039, 0.131614, 0.122984, 0.256840, 0.263092, 0.266012, 0.269876,
])  # fmt: skip
REFERENCE_OFFSETS = RAW_OFFSETS * BONE_LENGTHS[:, None]  # (22, 3)


def _tensor(x: Any) -> tuple[Tensor, bool]:
    if isinstance(x, Tensor):
        return x, False
    return torch.from_numpy(np.ascontiguousarray(x)), True


# --- quaternions (w, x, y, z) ---------------------------------------------------------------------


def qmul(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product; (..., 4) each."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        -1,
    )


def qinv(q: Tensor) -> Tensor:
    """Inverse of a unit quaternion."""
    return q * q.new_tensor([1.0, -1.0, -1.0, -1.0])


def qrot(q: Tensor, v: Tensor) -> Tensor:
    """Rotate vectors (..., 3) by unit quaternions (..., 4); leading dimensions broadcast."""
    xyz, v = torch.broadcast_tensors(q[..., 1:], v)
    uv = torch.linalg.cross(xyz, v, dim=-1)
    uuv = torch.linalg.cross(xyz, uv, dim=-1)
    return v + 2 * (q[..., :1] * uv + uuv)


def qbetween(u: Tensor, v: Tensor) -> Tensor:
    """Shortest rotation from u to v, (..., 3) each, not necessarily unit."""
    u, v = torch.broadcast_tensors(u, v)
    w = (u.square().sum(-1) * v.square().sum(-1)).sqrt() + (u * v).sum(-1)
    return F.normalize(torch.cat((w[..., None], torch.linalg.cross(u, v, dim=-1)), -1), dim=-1)


def qmat(q: Tensor) -> Tensor:
    """(..., 4) unit quaternions -> (..., 3, 3) rotation matrices."""
    w, x, y, z = q.unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def rot6d_to_matrix(r: Tensor) -> Tensor:
    """(..., 6), the first two columns, -> (..., 3, 3) by Gram-Schmidt."""
    x = F.normalize(r[..., :3], dim=-1)
    z = F.normalize(torch.linalg.cross(x, r[..., 3:], dim=-1), dim=-1)
    return torch.stack((x, torch.linalg.cross(z, x, dim=-1), z), -1)


# --- joints -> features ---------------------------------------------------------------------------


def _smooth(x: Tensor, sigma: float) -> Tensor:
    """Gaussian over time with edges held, as scipy.ndimage.gaussian_filter1d(mode="nearest"). x: (N, C)."""
    radius = int(4 * sigma + 0.5)
    t = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (t / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(x.T[:, None], (radius, radius), mode="replicate")  # (C, 1, N + 2 radius)
    return F.conv1d(padded, kernel[None, None])[:, 0].T


def _up(like: Tensor) -> Tensor:
    return like.new_tensor([0.0, 1.0, 0.0]).expand_as(like)


def canonicalise(joints: Any, offsets: Tensor | None = None) -> Any:
    """Put a motion on the reference skeleton, on the floor, at the origin, facing +Z in its first frame.

    joints: (N, 22, 3) metres, Y up. ``offsets`` (22, 3) are the bones to take on, None = HumanML3D's
    reference. Directions of the bones are kept; the root path is scaled by the leg length.
    """
    x, was_numpy = _tensor(joints)
    if x.ndim != 3 or x.shape[1:] != (22, 3):
        raise HeroError(f"A motion must have shape (N, 22, 3); this one has {tuple(x.shape)}.")
    if not torch.isfinite(x).all():
        raise HeroError("The motion holds NaN or infinite positions; repair the file or leave it out.")
    dtype = x.dtype
    x = x.double()
    target = (REFERENCE_OFFSETS if offsets is None else offsets).to(x)
    length = target.norm(dim=-1)  # (22,)
    source = torch.stack([(x[0, j] - x[0, p]).norm() if p >= 0 else x.new_zeros(()) for j, p in enumerate(PARENTS)])
    legs = source[5] + source[8]
    if float(legs) < 1e-6:
        raise HeroError("The motion's legs have no length in its first frame; its joints are not a skeleton.")
    out = [x[:, 0] * ((length[5] + length[8]) / legs)]
    for j in range(1, 22):
        p = PARENTS[j]
        out.append(out[p] + F.normalize(x[:, j] - x[:, p], dim=-1) * length[j])
    y = torch.stack(out, 1)  # (N, 22, 3)
    y[..., 1] -= y[..., 1].min()
    y = y - y[0, 0] * y.new_tensor([1.0, 0.0, 1.0])
    across = (y[0, 2] - y[0, 1]) + (y[0, 17] - y[0, 16])
    forward = F.normalize(torch.linalg.cross(_up(across), across), dim=-1)
    y = qrot(qbetween(forward, forward.new_tensor([0.0, 0.0, 1.0])), y).to(dtype)
    return y.numpy() if was_numpy else y


def _heading(joints: Tensor, continuous: bool) -> Tensor:
    """(N, 22, 3) -> (N, 4) rotation that turns the smoothed heading to +Z.

    The official inverse kinematics reads its four face indices in another order than its caller
    writes them, so that hips count against shoulders; kept, because all published weights have it.
    """
    across = F.normalize((joints[:, 1] - joints[:, 2]) + (joints[:, 17] - joints[:, 16]), dim=-1)
    forward = torch.linalg.cross(_up(across), across, dim=-1)
    forward = F.normalize(_smooth(forward, 20.0), dim=-1)
    q = qbetween(forward, forward.new_tensor([0.0, 0.0, 1.0]))
    if continuous:
        sign = torch.where((q[1:] * q[:-1]).sum(-1, keepdim=True) < 0, -1.0, 1.0).to(q)
        q = torch.cat((q[:1], q[1:] * sign.cumprod(0)))
    q = q.clone()
    q[0] = q.new_tensor([1.0, 0.0, 0.0, 0.0])
    return q


def to_features(joints: Any, *, canonical: bool = False, continuous_heading: bool = False) -> Any:
    """(N, 22, 3) joints -> (N - 1, 263) features.

    ``canonical=True`` says that ``canonicalise`` was applied already. ``continuous_heading`` mends a
    slip of the official program, whose yaw takes one wrong step whenever the heading passes +-180
    degrees: use it for training on one's own data, not to compare with published features.
    """
    x, was_numpy = _tensor(joints)
    if x.ndim != 3 or x.shape[1:] != (22, 3) or len(x) < 2:
        raise HeroError(f"Features need at least 2 poses of shape (N, 22, 3); this motion has {tuple(x.shape)}.")
    dtype = x.dtype
    p = (x if canonical else canonicalise(x)).double()
    step = (p[1:] - p[:-1])[:, list(CONTACT_JOINTS)]
    contact = (step.square().sum(-1) < CONTACT_THRESHOLD).to(p)  # (N-1, 4)

    heading = _heading(p, continuous_heading)  # (N, 4)
    raw = RAW_OFFSETS.to(p)
    local = p.new_zeros(len(p), 22, 4)
    for chain in CHAINS:
        total = heading
        for a, b in pairwise(chain):
            world = qbetween(raw[b], F.normalize(p[:, b] - p[:, a], dim=-1))
            local[:, b] = qmul(qinv(total), world)
            total = qmul(total, local[:, b])
    rot6d = qmat(local[:, 1:])[..., :2].transpose(-1, -2).flatten(1)  # (N, 126)

    turn = qmul(heading[1:], qinv(heading[:-1]))
    yaw = torch.arcsin(turn[:, 2:3].clamp(-1, 1))
    root_velocity = qrot(heading[1:], p[1:, 0] - p[:-1, 0])[:, [0, 2]]
    ric = p - p[:, :1] * p.new_tensor([1.0, 0.0, 1.0])
    ric = qrot(heading[:, None], ric)  # (N, 22, 3)
    velocity = qrot(heading[:-1, None], p[1:] - p[:-1]).flatten(1)  # (N-1, 66)
    out = torch.cat(
        (yaw, root_velocity, ric[:-1, 0, 1:2], ric[:-1, 1:].flatten(1), rot6d[:-1], velocity, contact), -1
    ).to(dtype)
    return out.numpy() if was_numpy else out


# --- features -> joints ---------------------------------------------------------------------------


def recover_root(features: Tensor) -> tuple[Tensor, Tensor]:
    """(..., N, 263) -> heading quaternion (..., N, 4), world to root, and root position (..., N, 3)."""
    shifted = F.pad(features[..., :-1, :3], (0, 0, 1, 0))  # row t tells the step to pose t + 1
    angle = shifted[..., 0].cumsum(-1)
    zero = torch.zeros_like(angle)
    heading = torch.stack((angle.cos(), zero, angle.sin(), zero), -1)
    step = torch.stack((shifted[..., 1], zero, shifted[..., 2]), -1)
    root = qrot(qinv(heading), step).cumsum(-2)
    root = torch.stack((root[..., 0], features[..., 3], root[..., 2]), -1)
    return heading, root


def to_joints(features: Any) -> Any:
    """(..., N, 263) de-normalised features -> (..., N, 22, 3) joints, metres, Y up, from the positions (ric)."""
    f, was_numpy = _tensor(features)
    if f.ndim < 2 or f.shape[-1] != DIM:
        raise HeroError(f"Features must have shape (..., N, 263); these have {tuple(f.shape)}.")
    f = f if f.dtype == torch.float64 else f.float()
    heading, root = recover_root(f)
    ric = f[..., RIC].unflatten(-1, (21, 3))  # (..., N, 21, 3)
    ric = qrot(qinv(heading)[..., None, :], ric)
    ground = root * root.new_tensor([1.0, 0.0, 1.0])
    joints = torch.cat((root[..., None, :], ric + ground[..., None, :]), -2)
    return joints.numpy() if was_numpy else joints


def to_joints_by_rotations(features: Any, offsets: Tensor | None = None) -> Any:
    """(..., N, 263) -> (..., N, 22, 3) by forward kinematics of the 6D rotations on ``offsets`` (22, 3)."""
    f, was_numpy = _tensor(features)
    f = f if f.dtype == torch.float64 else f.float()
    heading, root = recover_root(f)
    local = rot6d_to_matrix(f[..., ROT6D].unflatten(-1, (21, 6)))  # (..., N, 21, 3, 3)
    bones = (REFERENCE_OFFSETS if offsets is None else offsets).to(f)
    joints: dict[int, Tensor] = {0: root}
    for chain in CHAINS:
        total = qmat(heading)
        for a, b in pairwise(chain):
            total = total @ local[..., b - 1, :, :]
            joints[b] = joints[a] + total @ bones[b]
    out = torch.stack([joints[j] for j in range(22)], -2)
    return out.numpy() if was_numpy else out


def mirror(joints: Any) -> Any:
    """Left and right exchanged, (..., 22, 3): the same motion as seen in a mirror at x = 0."""
    x, was_numpy = _tensor(joints)
    out = x[..., list(MIRROR), :] * x.new_tensor([-1.0, 1.0, 1.0])
    return out.numpy() if was_numpy else out


def statistics(rows: Any, feat_bias: float = 5.0) -> tuple[Any, Any]:
    """Mean and Std (263,) of feature rows (M, 263) as the official data set has them.

    Std is averaged within each group of dimensions; root and contacts are then divided by
    ``feat_bias`` squared, which is what the official training does in effect (its array is shared by
    two data sets and divided twice).
    """
    f, was_numpy = _tensor(rows)
    if f.ndim != 2 or f.shape[1] != DIM or len(f) < 2:
        raise HeroError(f"Statistics need rows of shape (M, 263) with M >= 2, not {tuple(f.shape)}.")
    mean = f.double().mean(0)
    std = f.double().std(0, correction=0)
    for group in GROUPS:
        std[group] = std[group].mean().clamp_min(1e-6)
    std[ROOT] /= feat_bias**2
    std[CONTACT] /= feat_bias**2
    mean, std = mean.float(), std.float()
    return (mean.numpy(), std.numpy()) if was_numpy else (mean, std)
