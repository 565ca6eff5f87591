# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights from the preferences: looked at, terms accepted, converted once, tried out; or refused without a trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="this Python has no torch; weights cannot be read")

from models import write_official, write_tiny

import hero_core
from hero_blender import install_weights, user_files
from hero_blender.install_weights import Conversion, look
from hero_core.errors import Cancelled, HeroError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "user" / "weights"


def left(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {"install.lock"} if root.exists() else set()


def test_the_official_release_is_converted_once(root: Path, tmp_path: Path) -> None:
    official = write_official(tmp_path)
    found = look(official)
    assert found.official and found.bytes > 1000
    assert any("CC BY-NC 4.0" in line for line in found.terms)
    stages: list[tuple[str, int, int]] = []
    work = Conversion(found, root, accepted=True)
    folder = work.run(lambda done, total: bool(stages.append((work.stage, done, total)) or True))
    assert [stage for stage, _, _ in stages] == ["Checking", "Converting", "Trying them out", "Writing"]
    assert all(done < total for _, done, total in stages)
    assert {"model.safetensors", "config.json", "hero.json"} <= {path.name for path in folder.iterdir()}
    assert left(root) == {folder.name} and folder.name == "official_mtrans_x"
    assert hero_core.load(folder, "cpu").encoder is not None
    known = user_files.about(folder)
    assert known["accepted"] and known["parameters"] > 1000 and known["source"] == str(official)
    line = install_weights.describe(folder)
    assert "million parameters" in line and "makes a take in" in line
    again = look(folder)  # the terms travel with what was made of it
    assert not again.official and again.terms == found.terms


def test_our_own_format_with_its_papers(root: Path, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "tiny")
    assert "says nothing of a licence" in look(source).terms[0]
    (source / "MODEL_CARD.md").write_text("# Card\n\nSmall. Licence: the project's,\nGPL-3.0-or-later. More.\n")
    found = look(source / "model.safetensors")
    assert found.terms == ("MODEL_CARD.md: Licence: the project's, GPL-3.0-or-later.",)
    first = Conversion(found, root, accepted=True).run()
    second = Conversion(found, root, accepted=True).run()
    assert (first.name, second.name) == ("tiny", "tiny-2") and (first / "MODEL_CARD.md").is_file()


def test_terms_have_to_be_accepted(root: Path, tmp_path: Path) -> None:
    with pytest.raises(HeroError, match=r"Accept the terms of these weights first"):
        Conversion(look(write_tiny(tmp_path / "tiny")), root, accepted=False)
    assert not root.exists()


def test_what_is_no_folder_of_weights(tmp_path: Path) -> None:
    with pytest.raises(HeroError, match=r"Choose the folder of the official release"):
        look("")
    with pytest.raises(HeroError, match=r"Choose the folder"):
        look(tmp_path / "nowhere")
    with pytest.raises(HeroError, match=r"holds no weights"):
        look(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(HeroError, match=r"has no config\.json"):
        look(tmp_path)


@pytest.mark.parametrize("where", ["vimo/mtrans_x/model/net_best_fid.tar", "tcclip/zero_shot_k400_tc_clip_newkeys.pth"])
def test_corrupted_official_weights(root: Path, tmp_path: Path, where: str) -> None:
    official = write_official(tmp_path)
    file = official / where
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(HeroError, match=r"cannot be read as a PyTorch checkpoint"):
        Conversion(look(official), root, accepted=True).run()
    assert left(root) == set()


def test_corrupted_safetensors(root: Path, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "tiny")
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(HeroError, match=r"is damaged"):
        Conversion(look(source), root, accepted=True).run()
    assert left(root) == set()


def test_cancel_leaves_nothing(root: Path, tmp_path: Path) -> None:
    found = look(write_tiny(tmp_path / "tiny"))
    for last in range(4):
        with pytest.raises(Cancelled):
            Conversion(found, root, accepted=True).run(lambda done, _, last=last: done < last)
        assert left(root) == set()


def test_two_at_once(root: Path, tmp_path: Path) -> None:
    found = look(write_tiny(tmp_path / "tiny"))
    with user_files.only_one(root, "weights"), pytest.raises(HeroError, match=r"Another Blender is installing weights"):
        Conversion(found, root, accepted=True).run()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux":
        pytest.skip("no disk can be mounted here")
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(write_tiny(tmp_path / "tiny"))
    with pytest.raises(HeroError, match=r"Converting these weights needs .* make room first"):
        Conversion(found, small_disk / "weights", accepted=True).run()
    monkeypatch.setattr(user_files, "check_space", lambda *_: None)  # it fills up meanwhile
    with pytest.raises(HeroError, match=r"cannot be written"):
        Conversion(found, small_disk / "weights", accepted=True).run()
    assert left(small_disk / "weights") == set()
