# SPDX-License-Identifier: GPL-3.0-or-later
"""The zip that people install: built twice to the same bytes, installed in a fresh profile, and put to work there."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bpy")

from tools import extension, wheels
from tools.environment import BUILD, python_in

ROOT = Path(__file__).resolve().parents[2]
HAVE_TORCH = importlib.util.find_spec("torch") is not None

# Runs in a Blender of its own that knows nothing of the checkout: installed code alone does the main job.
INSTALLED = """
import json, os, sys
from pathlib import Path

import bpy

archive, newer, movie, out = sys.argv[1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
assert bpy.ops.extensions.package_install_files(
    filepath=archive, repo="user_default", enable_on_install=True, overwrite=True
) == {"FINISHED"}
name = "bl_ext.user_default.hero_blender"
assert name in bpy.context.preferences.addons, list(bpy.context.preferences.addons.keys())

def ours():
    return sys.modules[name + ".user_files"], sys.modules[name + ".torch_folder"]

def install_torch():
    # A PyTorch that HERO installed, as far as anybody looks at it here.
    files, torch_folder = ours()
    part = files.new_part(torch_folder.root())
    (part / "torch").mkdir()
    (part / "torch" / "__init__.py").touch()
    files.write_about(part, {"python": files.python_tag(), "kind": "cpu", "torch": "9.1", "bytes": 1})
    return files.keep(part, "mine")

mine = install_torch()
bpy.ops.extensions.package_install_files(filepath=newer, repo="user_default", enable_on_install=True, overwrite=True)
assert name in bpy.context.preferences.addons
assert ours()[1].installed() == mine, "an update must leave PyTorch alone"

import hero_core, numpy
report = {
    "hero_core": hero_core.__file__,
    "numpy": numpy.__file__,
    "profile": os.environ["BLENDER_USER_RESOURCES"],
    "packages": sorted({Path(item).name.split("-")[0] for item in os.listdir(Path(hero_core.__file__).parents[1])}),
}

bpy.ops.preferences.addon_enable(module="rigify")
bpy.ops.object.armature_basic_human_metarig_add()
bpy.ops.pose.rigify_generate()
rig = bpy.context.object
scene = bpy.context.scene
if movie:
    editor = scene.sequence_editor_create()
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    strips.new_movie(name="clip", filepath=movie, channel=1, frame_start=11)
    scene.hero.strip, scene.hero.armature, scene.hero.seed = "clip", rig, 3
    assert bpy.ops.hero.react() == {"FINISHED"}
    import torch
    report["torch"] = torch.__file__
else:  # no torch for this Python here: a motion that is there already is put on the rig
    from hero_core.motion import Motion
    sys.modules[name + ".rigfile"].retarget_motion(
        rig, Motion.load(os.environ["HERO_JOINTS"]), first_frame=11, scene=scene
    )
report["action"] = rig.animation_data.action.name
poses = []
for frame in (11, 30, 50):
    scene.frame_set(frame)
    poses.append([list(row) for bone in rig.pose.bones for row in bone.matrix])
report["moved"] = max(abs(a - b) for rows in zip(*poses[:2]) for a, b in zip(*rows))
report["range"] = list(rig.animation_data.action.frame_range)
bpy.ops.preferences.addon_disable(module=name)
assert not hasattr(bpy.types.Scene, "hero")
bpy.ops.extensions.package_uninstall(repo_index=[
    repo.module for repo in bpy.context.preferences.extensions.repos].index("user_default"), pkg_id="hero_blender")
folder = Path(bpy.utils.user_resource("EXTENSIONS"), "user_default", "hero_blender")
report["left"] = sorted(str(path) for path in folder.rglob("*.py")) if folder.exists() else []
report["kept"] = (mine / "torch" / "__init__.py").is_file()
Path(out).write_text(json.dumps(report))
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def archive() -> Path:
    if importlib.util.find_spec("hatchling") is not None:
        return extension.build()
    # Blender 5.1 and later: the environment of the other Python has the tools.
    python = python_in(BUILD / "venv")
    command = [str(python), "-m", "tools.extension", "--platform", extension.blender_platform()]
    if not python.is_file() or subprocess.run(command, cwd=ROOT, check=False).returncode:
        pytest.skip("needs the tools of 'python build.py test' to build the wheel")
    return extension.OUT / extension.zip_name(extension.blender_platform(), full=False)


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="the tools are those of the other Python")
def test_same_bytes_each_time(archive: Path) -> None:
    first = hashlib.sha256(archive.read_bytes()).hexdigest()
    os.utime(ROOT / "hero_blender" / "__init__.py")  # neither dates nor the order of the disk may matter
    assert hashlib.sha256(extension.build().read_bytes()).hexdigest() == first


def test_what_is_in_it(archive: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        names = content.namelist()
        packed = [name for name in names if name.endswith(".whl")]
        licences = content.read("LICENCES.md").decode()
        with content.open(next(name for name in packed if "hero_core" in name)) as core, zipfile.ZipFile(core) as wheel:
            inside = wheel.namelist()
        dates = {info.date_time for info in content.infolist()}
    assert names == sorted(names) and dates == {extension.EPOCH}
    assert {"__init__.py", "blender_manifest.toml", "LICENSE", "LICENCES.md"} <= set(names)
    assert {Path(name).name.split("-")[0] for name in packed} == {"hero_core", "av", "safetensors"}  # never numpy
    for name in packed:
        assert Path(name).name in licences
    assert "BSD-3-Clause" in licences and "Apache" in licences
    for wheel in wheels.chosen(extension.blender_platform(), full=False):
        assert f"{wheel.sha256}  {wheel.file}" in licences
    assert not [name for name in names + inside if "__pycache__" in name or name.endswith(".pyc")]
    presets = {path.relative_to(ROOT / "rigs").as_posix() for path in (ROOT / "rigs").rglob("*.json")}
    assert {"mixamo.json", "face/arkit.json"} < presets
    assert presets == {name.removeprefix("hero_core/rigs/") for name in inside if name.startswith("hero_core/rigs/")}
    weights = {path.name for path in (ROOT / "hero_core" / "weights").glob("*")}
    assert {"config.json"} <= weights
    assert weights == {Path(name).name for name in inside if name.startswith("hero_core/weights/")}


def test_a_zip_for_one_python_says_for_which_blenders() -> None:
    manifest = extension._manifest("linux-x64", [], ("3.11",))
    assert 'blender_version_max = "5.1.0"' in manifest and 'blender_version_min = "4.2.0"' in manifest
    manifest = extension._manifest("linux-x64", [], ("3.13",))
    assert "blender_version_max" not in manifest and 'blender_version_min = "5.1.0"' in manifest
    assert "blender_version_max" not in extension._manifest("linux-x64", [], wheels.PYTHONS)
    assert extension.zip_name("linux-x64", True, ("3.11",)).endswith("-linux_x64-full-py311.zip")


def newer(archive: Path, folder: Path) -> Path:
    """The same extension, a version later."""
    target = folder / "newer.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "blender_manifest.toml":
                content = content.replace(b'version = "0.1.0"', b'version = "0.1.99"')
            copy.writestr(name, content)
    return target


def bare_blender(folder: Path) -> list[str]:
    """Command of a Python that has Blender and numpy, as an installed Blender has, and no other package."""
    folder.mkdir()
    for site in (Path(item) for item in sys.path if item.endswith("site-packages")):
        for package in (site / "bpy", site / "numpy", site / "numpy.libs"):
            if package.is_dir() and not (folder / package.name).exists():
                (folder / package.name).symlink_to(package, target_is_directory=True)
    return [sys.executable, "-S", "-c", f"import sys; sys.path.append({str(folder)!r}); "
            "sys.argv.pop(0); exec(compile(open(sys.argv[0]).read(), sys.argv[0], 'exec'))"]  # fmt: skip


def put_to_work(archive: Path, tmp_path: Path, movie: Path | str, bare: bool = False) -> dict[str, object]:
    script, out, profile = tmp_path / "installed.py", tmp_path / "report.json", tmp_path / "profile"
    script.write_text(INSTALLED)
    profile.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["BLENDER_USER_RESOURCES"] = str(profile)
    environment["HERO_JOINTS"] = str(tmp_path / "joints.npy")
    python = bare_blender(tmp_path / "packages") if bare else [sys.executable]
    result = subprocess.run(
        [*python, str(script), str(archive), str(newer(archive, tmp_path)), str(movie), str(out)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0 and out.is_file(), result.stdout[-3000:] + result.stderr[-3000:]
    report: dict[str, object] = json.loads(out.read_text())
    assert str(report["hero_core"]).startswith(str(profile))  # the installed wheel, not the checkout
    assert not str(report["numpy"]).startswith(str(profile))
    assert report["range"][0] == 11 and report["moved"] > 1e-3  # type: ignore[index, operator]
    assert report["left"] == [] and report["kept"]  # PyTorch outlives the extension
    return report


def test_installed_copy_does_the_main_job(archive: Path, tmp_path: Path) -> None:
    """Install, use, update, uninstall in a fresh profile; without torch a motion is put on the rig."""
    import numpy as np
    from skeletons import walk

    movie: Path | str = ""
    if HAVE_TORCH:
        from movies import write_movie

        movie = write_movie(tmp_path / "clip.mp4", 60)
    else:
        np.save(tmp_path / "joints.npy", walk())
    put_to_work(archive, tmp_path, movie)


def test_a_corrupted_zip_installs_nothing(archive: Path, tmp_path: Path, blend: Any) -> None:
    content = archive.read_bytes()
    broken = tmp_path / "broken.zip"
    broken.write_bytes(content[: len(content) // 2])
    folder = Path(blend.utils.user_resource("EXTENSIONS"), "user_default", "hero_blender")
    before = folder.exists()
    with contextlib.suppress(RuntimeError):  # by version: an error, or a line in the console
        blend.ops.extensions.package_install_files(filepath=str(broken), repo="user_default", enable_on_install=True)
    assert folder.exists() == before
    assert "bl_ext.user_default.hero_blender" not in blend.context.preferences.addons


@pytest.mark.skipif(not os.environ.get("HERO_FULL_ZIP"), reason="HERO_FULL_ZIP names no full zip; it takes minutes")
def test_the_full_zip_brings_its_torch(tmp_path: Path) -> None:
    from movies import write_movie

    archive = Path(os.environ["HERO_FULL_ZIP"])
    report = put_to_work(archive, tmp_path, write_movie(tmp_path / "clip.mp4", 60), bare=True)
    assert str(report["torch"]).startswith(str(tmp_path / "profile"))
    assert {"torch", "scipy", "sympy", "networkx", "filelock"} <= set(report["packages"])  # type: ignore[call-overload]
    assert "numpy" not in report["packages"]  # type: ignore[operator]
