# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
import torch

from hero_core import device
from hero_core.errors import HeroError


def test_explicit_choices() -> None:
    cpu = torch.device("cpu")
    assert device.pick("cpu", "float32") == (cpu, torch.float32)
    assert device.pick(cpu, torch.bfloat16) == (cpu, torch.bfloat16)


def test_bfloat16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert device.pick("cpu", "auto")[1] is torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert device.pick("cpu", "auto")[1] is torch.bfloat16
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")  # a private name may go
    assert device.pick("cpu", "auto")[1] is torch.float32


def test_auto_prefers_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "self_test", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.pick()[0] == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.pick() == (torch.device("mps"), torch.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 6))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.pick() == (torch.device("cuda"), torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    assert device.pick("cuda:0") == (torch.device("cuda:0"), torch.float32)


@pytest.mark.parametrize(
    ("where", "precision", "says"),
    [
        ("cuda:99", "auto", "not there"),
        ("toaster", "auto", "not known"),
        ("meta", "auto", "not supported"),
        ("cpu", "int8", "precision 'int8'"),
    ],
)
def test_what_is_absent_is_named(where: str, precision: str, says: str) -> None:
    with pytest.raises(HeroError, match=says):
        device.pick(where, precision)


def test_a_card_that_cannot_compute_is_passed_over_and_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that lists a card for which this torch holds no code."""
    why = "no kernel image is available for execution on the device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(device, "self_test", lambda _: why)
    monkeypatch.setattr(device, "unusable", {})
    with pytest.warns(UserWarning, match=f"'cuda' cannot be used .{why}.; the processor computes"):
        assert device.pick("auto", "float32")[0] == torch.device("cpu")
    assert device.unusable == {"cuda": why}
    device.pick("auto", "float32")  # said once
    with pytest.raises(HeroError, match=f"'cuda' is there but cannot compute .{why}."):
        device.pick("cuda")


def test_the_self_test_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.self_test("cpu") is None
    if not torch.cuda.is_available():
        assert "CUDA" in (device.self_test("cuda") or "")
    device.self_test.cache_clear()
    monkeypatch.setattr(torch.nn.functional, "layer_norm", lambda x, _: torch.rand_like(x))
    assert device.self_test("cpu") == "its results are wrong"
    device.self_test.cache_clear()
