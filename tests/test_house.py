# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the house that a reader of one file cannot see: who imports whom, what is packed, what is committed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hero_core", "hero_blender", "demo", "tools", "training", "tests")


def tracked() -> list[Path]:
    """Files of the repository; all files of an export without git."""
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        pytest.skip("needs a git checkout to know which files belong to the project")
    return [path for name in found.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports absolutely, wherever in the file it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_hero_core_knows_no_blender() -> None:
    files = sources("hero_core")
    assert files
    bad = {str(path.relative_to(ROOT)) for path in files if imports(path) & {"bpy", "mathutils", "hero_blender"}}
    assert not bad


def test_hero_blender_imports_itself_relatively() -> None:
    """The extension's package name is Blender's to choose."""
    bad = {str(path.relative_to(ROOT)) for path in sources("hero_blender") if "hero_blender" in imports(path)}
    assert not bad


def test_retargeting_works_without_torch() -> None:
    """Blender without torch installed must still be able to say so, and to put a saved motion on a rig."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import hero_core, hero_core.errors, hero_core.motion, hero_core.retarget\n"
        "assert 'bpy' not in sys.modules and 'scipy' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text())
    assert manifest["version"] == project["version"]
    assert project["license"] == "GPL-3.0-or-later"
    assert manifest["license"] == ["SPDX:GPL-3.0-or-later"]
    core = re.search(r'^__version__ = "(.+)"', (ROOT / "hero_core/__init__.py").read_text(), re.MULTILINE)
    assert core and core.group(1) == project["version"]


def test_manifest_keeps_to_blenders_limits() -> None:
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text())
    assert len(manifest["tagline"]) <= 64 and manifest["tagline"][-1] not in ".!"
    assert all(len(reason) <= 64 and reason[-1] != "." for reason in manifest["permissions"].values())


def test_every_source_names_its_licence() -> None:
    files = [path for path in tracked() if path.suffix == ".py"]
    assert len(files) > 10
    first = "# SPDX-License-Identifier: GPL-3.0-or-later"
    bad = [str(path.relative_to(ROOT)) for path in files if not path.read_text().startswith(first)]
    assert not bad


def test_committed_text_names_no_machine() -> None:
    """No absolute path of somebody's machine in code, data or documents (tests may say where they look)."""
    pattern = re.compile(rb"(?<![\w.~}])/(?:tmp|work|root|home/\w+|Users/\w+)/")
    bad = []
    for path in tracked():
        if path.is_relative_to(ROOT / "tests") or path.suffix in {".mp4", ".png", ".safetensors", ".npz"}:
            continue
        if pattern.search(path.read_bytes()):
            bad.append(str(path.relative_to(ROOT)))
    assert not bad


def test_committed_files_stay_small() -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked()}
    assert not {name: size for name, size in sizes.items() if size > 60e6}
    weights = sum(size for name, size in sizes.items() if name.startswith("hero_core/weights/"))
    assert weights < 60e6


def test_lock_pins_every_package() -> None:
    locks = sorted((ROOT / "requirements").glob("*.lock.txt"))
    assert locks
    for lock in locks:
        for line in lock.read_text().splitlines():
            assert not line or line[0] == "#" or line.startswith("-r ") or re.fullmatch(r"[\w.-]+==[\w.]+", line), line


def test_blender_versions_are_the_locked_ones() -> None:
    from tools.environment import BLENDERS, DEFAULT

    assert f"bpy=={BLENDERS[DEFAULT].bpy}\n" in (ROOT / "requirements/run.lock.txt").read_text()
    assert f"bpy=={BLENDERS['5.2'].bpy}\n" in (ROOT / "requirements/test-py313.lock.txt").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_test_or_module_is_left_empty(package: str) -> None:
    """A file that parses to nothing but a docstring is a promise without content (package files aside)."""
    for path in sources(package):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert path.name == "__init__.py" or len(body) > 1, path
