# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension as a zip for Blender: staged, built and validated by Blender's own tool, the same bytes each time.

In the zip: hero_blender's files at the root, and wheels that Blender installs: hero_core (with weights and presets),
safetensors and av. Not in it: numpy, which is Blender's and shared by all extensions, and torch.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from tools.environment import BUILD, ROOT, SetupError

OUT = BUILD / "extension"
# Only these, without what they depend on: numpy of an extension would replace Blender's for every other extension.
WHEELS = ("av", "safetensors")
EPOCH = (2026, 1, 1, 0, 0, 0)


def build() -> Path:
    """Path of the zip for this platform; raises SetupError with what Blender's tool or pip complains about."""
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text())
    wheels = [_core_wheel(), *_locked_wheels()]
    stage = OUT / "stage"
    if stage.exists():
        shutil.rmtree(stage)
    shutil.copytree(ROOT / "hero_blender", stage, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    shutil.copy(ROOT / "LICENSE", stage)
    (stage / "wheels").mkdir()
    for wheel in wheels:
        shutil.copy(wheel, stage / "wheels")
    # Top-level keys have to stand before the first table of the manifest.
    names = ",\n    ".join(json.dumps(f"./wheels/{wheel.name}") for wheel in wheels)
    head, tables = (ROOT / "blender_manifest.toml").read_text().split("\n[", 1)
    added = f'platforms = ["{blender_platform()}"]\nwheels = [\n    {names},\n]\n'
    (stage / "blender_manifest.toml").write_text(f"{head}\n{added}\n[{tables}")

    suffix = blender_platform().replace("-", "_")
    target = OUT / f"{manifest['id']}-{manifest['version']}-{suffix}.zip"
    _blender_tool("validate", str(stage))
    _blender_tool("build", "--source-dir", str(stage), "--output-filepath", str(target))
    _settle(target)
    _blender_tool("validate", str(target))
    return target


def blender_platform() -> str:
    """This machine in the words of Blender's manifests."""
    system = {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")
    machine = "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "x64"
    return f"{system}-{machine}"


def _core_wheel() -> Path:
    """The hero_core wheel; hatchling gives all files the same date, so it is reproducible."""
    folder = OUT / "core"
    if folder.exists():
        shutil.rmtree(folder)
    _checked([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)])
    return next(folder.glob("hero_core-*.whl"))


def _locked_wheels() -> list[Path]:
    """The locked wheels for this platform, unmodified, kept from one build to the next."""
    folder = OUT / "index"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (ROOT / "requirements" / "run.lock.txt").read_text()
    found = []
    for name in WHEELS:
        pin = re.search(rf"^{name}==(\S+)$", lock, re.MULTILINE)
        if pin is None:
            raise SetupError(f"requirements/run.lock.txt does not pin {name}, which the extension packs; add it there.")
        pattern = f"{name}-{pin.group(1)}-*.whl"
        if not any(folder.glob(pattern)):
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            _checked([*pip, "--disable-pip-version-check", "--dest", str(folder), f"{name}=={pin.group(1)}"])
        found.append(next(folder.glob(pattern)))
    return found


def _blender_tool(*arguments: str) -> None:
    """Blender's own builder and validator, which runs without Blender."""
    spec = importlib.util.find_spec("bpy")
    if spec is None or spec.origin is None:
        raise SetupError("Blender's module bpy is not in this environment; start this through 'python build.py build'.")
    tool = next(Path(spec.origin).parent.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"))
    _checked([sys.executable, str(tool), *arguments])


def _settle(archive: Path) -> None:
    """Sort the zip and give every file one date: Blender's tool writes in the order and with the times of the disk."""
    with zipfile.ZipFile(archive) as source:
        content = {name: source.read(name) for name in source.namelist()}
    part = archive.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for name in sorted(content):
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = 0o644 << 16
            # Wheels are compressed already.
            info.compress_type = zipfile.ZIP_STORED if name.endswith(".whl") else zipfile.ZIP_DEFLATED
            target.writestr(info, content[name])
    part.replace(archive)


def _checked(command: list[str]) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SetupError(f"'{Path(command[1]).name} {command[2]}' failed:\n{(result.stdout + result.stderr).strip()}")


def main() -> int:
    try:
        target = build()
    except SetupError as err:
        print(err, file=sys.stderr)
        return 1
    with zipfile.ZipFile(target) as archive:
        wheels = [Path(name).name for name in archive.namelist() if name.endswith(".whl")]
    print(f"{target.relative_to(ROOT)}  {target.stat().st_size / 1e6:.1f} MB, validated by Blender")
    print("wheels in it: " + ", ".join(wheels))
    print("torch is not in it: Blender's Python needs torch in its site-packages, or its folder in the preferences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
