# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of the packed wheels is whole, and only its bytes are taken; with wheels of a few bytes and no network."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fake_wheels import write_wheel

from tools import wheels
from tools.environment import SetupError


def test_the_lock_has_what_every_zip_needs() -> None:
    for platform in wheels.PLATFORMS:
        lite = wheels.chosen(platform, full=False)
        assert {wheel.name for wheel in lite} == {"av", "safetensors"} and len(lite) == 2  # one for both Pythons
        for python in wheels.PYTHONS:
            if (platform, python) == ("linux-x64", "3.13"):  # only in PyTorch's own index for the CPU
                continue
            full = wheels.chosen(platform, True, (python,))
            assert {wheel.name.lower() for wheel in full} == {name.lower() for name in (*wheels.LITE, *wheels.FULL)}


def test_the_lock_follows_the_pinned_versions_and_holds_no_numpy_and_no_cuda() -> None:
    pins = {wheels._plain(name): version for name, version in wheels._pins().items()}
    for wheel in wheels.read_lock():
        name = wheels._plain(wheel.name)
        assert name not in {"numpy", "triton"} and not name.startswith("nvidia")
        assert wheel.version.partition("+")[0] == pins[name], "make the lock again: python build.py lock"
        assert len(wheel.sha256) == 64 and wheel.platforms and wheel.pythons
        assert wheel.name != "torch" or "linux-x64" not in wheel.platforms or "+cpu" in wheel.version


def test_wheels_fit_their_platforms() -> None:
    """Blender takes a wheel by the end of its tag."""
    ends = {"linux-x64": "x86_64.whl", "windows-x64": "win_amd64.whl", "macos-arm64": "arm64.whl"}
    for wheel in wheels.read_lock():
        assert wheel.file.endswith("-none-any.whl") or all(wheel.file.endswith(ends[p]) for p in wheel.platforms)


def test_a_lock_that_lacks_a_wheel_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads(wheels.LOCK.read_text())
    lock = tmp_path / "wheels.json"
    lock.write_text(json.dumps([row for row in rows if not row["file"].startswith("torch-")]))
    monkeypatch.setattr(wheels, "LOCK", lock)
    with pytest.raises(SetupError, match=r"has no torch for windows-x64 with Python 3\.11: run 'python build.py lock"):
        wheels.chosen("windows-x64", True)
    lock.write_text("{")
    with pytest.raises(SetupError, match="cannot be read; make it with"):
        wheels.read_lock()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for all the world, and a place of its own to keep what is loaded."""
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(wheels, "KEPT", tmp_path / "kept")
    return tmp_path / "index"


def locked(path: Path, platform: str = "windows-x64") -> wheels.Wheel:
    return wheels.Wheel(path.name, wheels.sha256(path), (platform,), ("3.13",), "full")


def test_wheels_of_another_platform_are_loaded_once_and_checked(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = locked(write_wheel(index, "part", tag="cp313-cp313-win_amd64"))
    path = wheels.fetch([wheel])[0]
    assert wheels.sha256(path) == wheel.sha256
    path.write_bytes(path.read_bytes()[:50])  # a corrupted one is loaded again
    assert wheels.sha256(wheels.fetch([wheel])[0]) == wheel.sha256
    monkeypatch.setattr(wheels, "_checked", lambda *_: pytest.fail("it was there"))
    wheels.fetch([wheel])


def test_other_bytes_than_the_lock_says_are_refused(index: Path) -> None:
    path = write_wheel(index, "part")
    wheel = locked(path)
    write_wheel(index, "part", files={"part/__init__.py": "import antigravity"})
    with pytest.raises(SetupError, match=r"offers other bytes for part-1\.0-py3-none-any\.whl than the lock says"):
        wheels.fetch([wheel])
    assert not list(wheels.KEPT.glob("*.whl"))
    path.unlink()
    with pytest.raises(SetupError, match=r"cannot be loaded \(see the network"):
        wheels.fetch([wheel])


def test_terms_are_read_from_the_wheel(tmp_path: Path) -> None:
    classifier = "License: long\n        text\nClassifier: License :: OSI Approved :: BSD License\n"
    page = "Project-URL: Homepage, https://example.invalid/it\n"
    assert wheels.licence(write_wheel(tmp_path, "a")) == ("MIT", "")
    found = wheels.licence(write_wheel(tmp_path, "b", meta=classifier + page))
    assert found == ("BSD License", "https://example.invalid/it")
    assert wheels.licence(write_wheel(tmp_path, "c", meta=""))[0] == "see the files of the wheel"
