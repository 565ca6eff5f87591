# SPDX-License-Identifier: GPL-3.0-or-later
"""The zip that people install: built twice to the same bytes, installed in a fresh profile, and put to work there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("bpy")
pytest.importorskip("hatchling", reason="needs the tools of 'python build.py test' to build the wheel")
pytest.importorskip("torch", reason="this Python has no torch; the reaction needs it")

from movies import write_movie

from tools import extension

ROOT = Path(__file__).resolve().parents[2]

# Runs in a Blender of its own that knows nothing of the checkout: installed code alone does the main job.
INSTALLED = """
import json, os, sys
from pathlib import Path

import bpy

archive, movie, out = sys.argv[1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
assert bpy.ops.extensions.package_install_files(
    filepath=archive, repo="user_default", enable_on_install=True, overwrite=True
) == {"FINISHED"}
name = "bl_ext.user_default.hero_blender"
assert name in bpy.context.preferences.addons, list(bpy.context.preferences.addons.keys())

bpy.ops.preferences.addon_enable(module="rigify")
bpy.ops.object.armature_basic_human_metarig_add()
bpy.ops.pose.rigify_generate()
rig = bpy.context.object
scene = bpy.context.scene
editor = scene.sequence_editor_create()
strips = editor.strips if hasattr(editor, "strips") else editor.sequences
strips.new_movie(name="clip", filepath=movie, channel=1, frame_start=11)
scene.hero.strip, scene.hero.armature, scene.hero.seed = "clip", rig, 3
assert bpy.ops.hero.react() == {"FINISHED"}

action = rig.animation_data.action
poses = []
for frame in (11, 30, 50):
    scene.frame_set(frame)
    poses.append([list(row) for bone in rig.pose.bones for row in bone.matrix])
import hero_core, numpy
report = {
    "action": action.name,
    "range": list(action.frame_range),
    "moved": max(abs(a - b) for rows in zip(*poses[:2]) for a, b in zip(*rows)),
    "hero_core": hero_core.__file__,
    "numpy": numpy.__file__,
    "profile": os.environ["BLENDER_USER_RESOURCES"],
}
bpy.ops.preferences.addon_disable(module=name)
assert not hasattr(bpy.types.Scene, "hero")
bpy.ops.extensions.package_uninstall(repo_index=[
    repo.module for repo in bpy.context.preferences.extensions.repos].index("user_default"), pkg_id="hero_blender")
folder = Path(bpy.utils.user_resource("EXTENSIONS"), "user_default", "hero_blender")
report["left"] = sorted(str(path) for path in folder.rglob("*.py")) if folder.exists() else []
Path(out).write_text(json.dumps(report))
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def archive() -> Path:
    return extension.build()


def test_same_bytes_each_time(archive: Path) -> None:
    first = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert hashlib.sha256(extension.build().read_bytes()).hexdigest() == first


def test_what_is_in_it(archive: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        names = content.namelist()
        wheels = [name for name in names if name.endswith(".whl")]
        with content.open(next(name for name in wheels if "hero_core" in name)) as core, zipfile.ZipFile(core) as wheel:
            inside = wheel.namelist()
    assert {"__init__.py", "blender_manifest.toml", "LICENSE"} <= set(names)
    packed = {Path(name).name.split("-")[0] for name in wheels}
    assert packed == {"hero_core", "av", "safetensors"}  # neither numpy, which is Blender's, nor torch
    assert not [name for name in names + inside if "__pycache__" in name or name.endswith(".pyc")]
    presets = {path.name for path in (ROOT / "rigs").glob("*.json")}
    assert presets and presets == {Path(name).name for name in inside if name.startswith("hero_core/rigs/")}
    weights = {path.name for path in (ROOT / "hero_core" / "weights").glob("*")}
    assert {"config.json"} <= weights
    assert weights == {Path(name).name for name in inside if name.startswith("hero_core/weights/")}


def test_installed_copy_does_the_main_job(archive: Path, tmp_path: Path) -> None:
    movie = write_movie(tmp_path / "clip.mp4", 60)
    script, out, profile = tmp_path / "installed.py", tmp_path / "report.json", tmp_path / "profile"
    script.write_text(INSTALLED)
    profile.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["BLENDER_USER_RESOURCES"] = str(profile)
    result = subprocess.run(
        [sys.executable, str(script), str(archive), str(movie), str(out)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0 and out.is_file(), result.stdout[-3000:] + result.stderr[-3000:]
    report = json.loads(out.read_text())
    assert report["hero_core"].startswith(str(profile))  # the installed wheel, not the checkout
    assert not report["numpy"].startswith(str(profile))
    assert report["range"][0] == 11 and report["moved"] > 1e-3
    assert report["left"] == []
