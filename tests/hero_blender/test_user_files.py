# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of our own: what is ours is known by its mark, and nothing else is ever deleted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hero_blender import user_files
from hero_core.errors import HeroError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "torch"
    root.mkdir()
    return root


def make(root: Path, name: str, **content: object) -> Path:
    part = user_files.new_part(root)
    (part / "package").mkdir()
    (part / "package" / "file").write_text("x" * 10)
    user_files.write_about(part, {"time": 1.0, **content})
    return user_files.keep(part, name)


def test_made_kept_found_marked_and_removed(root: Path) -> None:
    first = make(root, "one")
    second = make(root, "one", time=2.0)
    assert (first.name, second.name) == ("one", "one-2")
    assert user_files.complete(root) == [second, first]  # the newest first
    assert not user_files.to_clean(root) and user_files.clean(root) == []
    user_files.remove_at_next_start(second, root)
    assert user_files.complete(root) == [first] and second.is_dir()
    assert user_files.to_clean(root)
    assert user_files.clean(root) == ["one-2"]
    assert not second.exists() and first.is_dir()
    assert user_files.size(first) > 10


def test_nothing_that_hero_did_not_make_is_removed(root: Path, tmp_path: Path) -> None:
    precious = tmp_path / "site-packages"
    (precious / "torch").mkdir(parents=True)
    mine = make(root, "mine")
    copied = tmp_path / "documents"
    shutil.copytree(mine, copied)  # even with our mark: it is not where we put it
    link = root / "link"
    link.symlink_to(precious, target_is_directory=True)
    bare = root / ".part-bare"
    bare.mkdir()
    (bare / "diary.txt").write_text("mine")
    forged = root / "forged"
    forged.mkdir()
    (forged / "hero.json").write_text(json.dumps({"made_by": "somebody", "place": "torch"}))
    for folder in (precious, copied, link, bare, forged, root, tmp_path, root / "nowhere"):
        with pytest.raises(HeroError, match=r"was not made by HERO, so HERO does not remove it"):
            user_files.remove_at_next_start(folder, root)
        assert not user_files.delete(folder)
    for folder in (precious, copied, bare, forged):
        (folder / "remove-at-next-start").touch()
    assert user_files.clean(root) == []
    assert all(folder.is_dir() for folder in (precious, copied, bare, forged)) and link.is_symlink()


def test_a_link_inside_is_unlinked_not_followed(root: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    mine = make(root, "mine")
    (mine / "link").symlink_to(precious, target_is_directory=True)
    assert user_files.delete(mine) and (precious / "file").is_file()


def test_what_another_blender_uses_stays_until_it_has_ended(root: Path) -> None:
    folder = make(root, "used")
    code = (
        "import sys\nfrom pathlib import Path\nfrom hero_blender import user_files\n"
        f"user_files.use(Path({str(folder)!r}))\nprint('holding', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "holding\n"
    user_files.use(folder)  # two may use it at once
    user_files._used.pop(folder).release()
    user_files.remove_at_next_start(folder, root)
    assert user_files.clean(root) == [] and (folder / "package" / "file").is_file()
    process.kill()
    process.wait()
    assert user_files.clean(root) == ["used"]


@pytest.mark.skipif(os.name == "nt", reason="rmtree is stopped with a fake")
def test_an_interrupted_removal_goes_on_at_the_next_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(root, "large")
    user_files.remove_at_next_start(folder, root)
    real = shutil.rmtree
    monkeypatch.setattr(user_files.shutil, "rmtree", lambda path: (_ for _ in ()).throw(OSError("a file is locked")))
    assert user_files.clean(root) == []
    assert user_files.complete(root) == [] and [path.name[:6] for path in root.glob(".gone*")] == [".gone-"]
    monkeypatch.setattr(user_files.shutil, "rmtree", real)
    assert len(user_files.clean(root)) == 1
    assert {path.name for path in root.iterdir()} <= {"install.lock"}


def test_one_installation_at_a_time(root: Path) -> None:
    with user_files.only_one(root, "weights"), pytest.raises(HeroError, match=r"Another Blender is installing weights"):
        user_files.only_one(root, "weights").__enter__()
    with user_files.only_one(root, "weights"):
        pass


def test_too_little_space(root: Path) -> None:
    with pytest.raises(HeroError, match=r"needs 1000000000.0 GB on the disk of .* are free; make room first"):
        user_files.check_space(root / "not" / "yet", 1e9, "This")
