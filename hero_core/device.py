# SPDX-License-Identifier: GPL-3.0-or-later
"""Where to compute, and in which precision."""

from __future__ import annotations

import functools
import warnings

import torch

from .errors import HeroError

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}


# Devices that are there and failed their self test, with the reason; for those who show why the processor computes.
unusable: dict[str, str] = {}


def pick(device: str | torch.device = "auto", dtype: str | torch.dtype = "auto") -> tuple[torch.device, torch.dtype]:
    """Turn a wish into a device that is there and a precision that is fast on it.

    Args:
        device: "auto" (CUDA, else MPS, else CPU; one that fails its self test is passed over with a warning), or
            what torch calls it: "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" (bfloat16 where the hardware multiplies it natively, else float32), "float32"
            or "bfloat16", or the torch dtype.

    Raises:
        HeroError: the device is absent or fails its self test, or the precision is neither of the two.
    """
    where = _device(device)
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype == "auto":
        return where, torch.bfloat16 if has_native_bfloat16(where) else torch.float32
    if dtype not in _DTYPES:
        raise HeroError(f"The precision '{dtype}' is not known; use auto, float32 or bfloat16.")
    return where, _DTYPES[dtype]


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
            why = self_test(name) if there else None
            if there and why is None:
                return torch.device(name)
            if why is not None and name not in unusable:
                unusable[name] = why
                warnings.warn(f"The device '{name}' cannot be used ({why}); the processor computes.", stacklevel=3)
        return torch.device("cpu")
    try:
        where = torch.device(device)
    except RuntimeError as err:
        raise HeroError(f"The device '{device}' is not known; use auto, cpu, cuda or mps.") from err
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise HeroError(f"The device '{where}' is not there or torch cannot use it; choose auto or cpu.")
    if where.type == "mps" and not torch.backends.mps.is_available():
        raise HeroError("The device 'mps' needs a Mac with Apple silicon; choose auto or cpu.")
    if where.type not in ("cpu", "cuda", "mps"):
        raise HeroError(f"The device '{device}' is not supported; use auto, cpu, cuda or mps.")
    why = self_test(str(where)) if where.type != "cpu" else None
    if why is not None:
        raise HeroError(f"The device '{where}' is there but cannot compute ({why}); choose auto or cpu.")
    return where


@functools.cache
def self_test(device: str) -> str | None:
    """One small step of what the models do, compared with the processor: why the device is of no use, or None.

    A driver may list a card for which this torch holds no code, or which has no memory left.
    """
    try:
        results = []
        for where in (torch.device("cpu"), torch.device(device)):
            x = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).to(where)
            y = torch.nn.functional.conv2d(
                x, torch.linspace(-1, 1, 48).reshape(4, 3, 2, 2).to(where), stride=2
            ).flatten(2)
            z = torch.nn.functional.scaled_dot_product_attention(y, y, y) @ y.transpose(1, 2)
            results.append(torch.nn.functional.layer_norm(z, z.shape[-1:]).cpu())
    except Exception as err:  # noqa: BLE001 - drivers raise many kinds; each means that the device is of no use
        return str(err).splitlines()[0].rstrip(".") if str(err) else type(err).__name__
    return None if torch.allclose(results[0], results[1], atol=0.05) else "its results are wrong"


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are a gain: AMX or AVX512-BF16 on the CPU, Ampere or later on CUDA.

    Elsewhere they are emulated and slower than float32. On MPS the gain is not known, so float32 stays.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Private names of torch.cpu, the only ones that ask the processor; one that goes means float32.
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(getattr(torch.cpu, name, bool)() for name in checks)
    return False
