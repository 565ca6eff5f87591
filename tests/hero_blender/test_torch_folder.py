# SPDX-License-Identifier: GPL-3.0-or-later
"""Where PyTorch is looked for, what is refused, and that the path is touched late, at its end, and only when needed."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bpy")

from hero_blender import job, torch_folder, user_files
from hero_core.errors import HeroError


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Blender whose Python has no torch, and a home of HERO's own; returns the home."""
    home = tmp_path / "datafiles"
    monkeypatch.setattr(user_files, "home", lambda: home)
    for name in [name for name in sys.modules if name == "torch" or name.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    torch_folder.find.cache_clear()
    yield home
    torch_folder.find.cache_clear()
    for folder in list(user_files._used):
        user_files._used.pop(folder).release()


def torch_in(folder: Path, suffix: str = "") -> Path:
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").touch()
    if suffix:
        (folder / "torch" / f"_C{suffix}").touch()
    return folder


def install(home: Path, name: str, python: str = "", time: float = 1.0) -> Path:
    part = user_files.new_part(home / "torch")
    torch_in(part)
    user_files.write_about(part, {"python": python or user_files.python_tag(), "time": time})
    return user_files.keep(part, name)


def test_home_is_beside_the_extension_not_in_it(blend: Any) -> None:
    """Blender deletes extension_path_user with the extension."""
    assert "datafiles" in user_files.home().parts and "extensions" not in user_files.home().parts


def test_the_chosen_folder_goes_before_ours(bare: Path, tmp_path: Path) -> None:
    assert torch_folder.find() is None
    with pytest.raises(HeroError, match=r"choose Install PyTorch, or the folder that holds it"):
        torch_folder.make_importable()
    old, new = install(bare, "old"), install(bare, "new", time=2.0)
    install(bare, "alien", python="cp27", time=3.0)
    torch_folder.find.cache_clear()
    assert torch_folder.find() == new
    chosen = torch_in(tmp_path / "site-packages")
    assert torch_folder.find(str(chosen)) == chosen
    assert torch_folder.find(str(tmp_path / "empty")) == new
    user_files.remove_at_next_start(new, torch_folder.root())
    torch_folder.find.cache_clear()
    assert torch_folder.find() == old


def test_the_path_is_appended_when_needed_and_once(bare: Path) -> None:
    folder = install(bare, "it")
    before = list(sys.path)
    torch_folder.find()
    assert sys.path == before
    torch_folder.make_importable()
    assert sys.path == [*before, str(folder)]  # after Blender's own packages
    assert folder in user_files._used
    assert torch_folder.remove() == folder
    assert user_files.clean(torch_folder.root()) == []  # this Blender uses it
    with pytest.raises(HeroError, match=r"nothing to remove"):
        torch_folder.remove()


def test_a_torch_for_another_python_is_refused(bare: Path, tmp_path: Path) -> None:
    wrong = torch_in(tmp_path / "wrong", ".cpython-27-x86_64-linux-gnu.so")
    with pytest.raises(HeroError, match=r"is for another Python .*; Blender needs one for Python"):
        torch_folder.make_importable(str(wrong))
    assert str(wrong) not in sys.path
    right = torch_in(tmp_path / "right", importlib.machinery.EXTENSION_SUFFIXES[0])
    torch_folder.make_importable(str(right))
    assert str(right) in sys.path
    with pytest.raises(HeroError, match=r"holds no folder 'torch'"):
        torch_folder.check(tmp_path)


def test_libraries_that_do_not_load_are_one_sentence(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(HeroError, match=r"PyTorch cannot be loaded .*; remove it in the preferences"):
        torch_folder.load()


def test_what_was_marked_goes_at_the_next_start(bare: Path) -> None:
    folder = install(bare, "old")
    torch_folder.remove()
    weights = user_files.new_part(bare / "weights")  # what a Blender that crashed left
    torch_folder.clean_up()
    for worker in list(job._alive):
        worker.join()
    assert not folder.exists() and not weights.exists()
    torch_folder.clean_up()  # nothing to do: no thread
    assert not job._alive


def test_why_the_processor_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from hero_core import device

    assert torch_folder.why_processor() == ""
    monkeypatch.setattr(device, "unusable", {"cuda": "no kernel image"})
    assert torch_folder.why_processor() == "cuda: no kernel image"


@pytest.mark.skipif(sys.platform != "linux", reason="tells what is loaded by /proc")
def test_libraries_are_there_before_the_import() -> None:
    pytest.importorskip("torch")
    script = (
        "import sys; import bpy; from hero_blender import torch_folder as t; t._load_libraries();"
        "assert 'torch' not in sys.modules; assert 'libtorch_cpu' in open('/proc/self/maps').read();"
        "t.load(); import torch; assert float(torch.ones(3).sum()) == 3; import os; os._exit(7)"
    )
    root = Path(torch_folder.__file__).resolve().parents[1]
    found = subprocess.run(
        [sys.executable, "-c", script], check=False, cwd=root, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 7, found.stderr


def test_nothing_to_load(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_folder._load_libraries()  # no torch anywhere
    torch_in(bare)
    spec = importlib.machinery.ModuleSpec("torch", None, origin=str(bare / "torch" / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    (bare / "torch" / "lib").mkdir()
    (bare / "torch" / "lib" / "libtorch_cpu.so").write_bytes(b"no library")
    torch_folder._load_libraries()  # the import will say what is wrong
