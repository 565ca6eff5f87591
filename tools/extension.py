# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension as zips for Blender, one for each platform: validated by Blender's own tool, the same bytes each time.

``lite``: hero_blender's files at the root, and wheels that Blender installs: hero_core (with weights and presets),
safetensors and av. ``full``: torch for the CPU (on a Mac also for Metal) and scipy besides, for the Pythons of Blender
4.2 to 5.0 and of 5.1 and later. numpy is in neither: it is Blender's, and shared by all extensions.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from tools import wheels
from tools.environment import BUILD, ROOT, SetupError

OUT = BUILD / "extension"
EPOCH = (2026, 1, 1, 0, 0, 0)
# Python's version changes with this Blender; a zip for one Python alone says so in its manifest.
PYTHON_CHANGES = "5.1.0"


def build(
    system: str | None = None,
    full: bool = False,
    pythons: tuple[str, ...] = wheels.PYTHONS,
    torch_index: str | None = None,
) -> Path:
    """Path of one zip.

    system   one of wheels.PLATFORMS, None = this machine's
    full     with torch and scipy
    pythons  which Pythons the wheels of a full zip are for

    Raises SetupError with what Blender's tool or pip complains about.
    """
    system = system or blender_platform()
    if system not in wheels.PLATFORMS:
        known = ", ".join(wheels.PLATFORMS)
        raise SetupError(f"There is no torch and no Blender to pack for {system}; the platforms are {known}.")
    taken = wheels.chosen(system, full, pythons if full else wheels.PYTHONS)
    files = [_core_wheel(), *wheels.fetch(taken, torch_index)]
    for file in files:
        if file.name.lower().startswith("numpy"):
            raise SetupError("numpy must never be packed: it would replace Blender's own for all extensions.")
    stage = OUT / "stage"
    if stage.exists():
        shutil.rmtree(stage)
    shutil.copytree(ROOT / "hero_blender", stage, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    shutil.copy(ROOT / "LICENSE", stage)
    (stage / "LICENCES.md").write_text(_licences(files))
    (stage / "wheels").mkdir()
    for file in files:
        _link(file, stage / "wheels" / file.name)
    manifest = _manifest(system, files, pythons if full else wheels.PYTHONS)
    (stage / "blender_manifest.toml").write_text(manifest)

    target = OUT / zip_name(system, full, pythons)
    _blender_tool("validate", str(stage))
    _pack(stage, target)
    _blender_tool("validate", str(target))
    shutil.rmtree(stage)
    return target


def zip_name(system: str, full: bool, pythons: tuple[str, ...] = wheels.PYTHONS) -> str:
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text())
    kind = "full" if full else "lite"
    if full and pythons != wheels.PYTHONS:
        kind += "-py" + "-py".join(python.replace(".", "") for python in pythons)
    return f"{manifest['id']}-{manifest['version']}-{system.replace('-', '_')}-{kind}.zip"


def blender_platform() -> str:
    """This machine in the words of Blender's manifests."""
    system = {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")
    machine = "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "x64"
    return f"{system}-{machine}"


def _manifest(system: str, files: list[Path], pythons: tuple[str, ...]) -> str:
    """The manifest of one zip: top-level keys have to stand before the first table."""
    head, tables = (ROOT / "blender_manifest.toml").read_text().split("\n[", 1)
    names = ",\n    ".join(json.dumps(f"./wheels/{file.name}") for file in files)
    added = f'platforms = ["{system}"]\nwheels = [\n    {names},\n]\n'
    if pythons == wheels.PYTHONS[:1]:
        added = f'blender_version_max = "{PYTHON_CHANGES}"\n{added}'
    elif pythons == wheels.PYTHONS[1:]:
        minimum = tomllib.loads(head)["blender_version_min"]
        head = head.replace(f'blender_version_min = "{minimum}"', f'blender_version_min = "{PYTHON_CHANGES}"')
    return f"{head}\n{added}\n[{tables}"


def _licences(files: list[Path]) -> str:
    """Every part of the zip with its terms; the full texts lie inside the wheels."""
    rows = ["| part | terms | from |", "|---|---|---|"]
    rows += ["| HERO for Blender, bone maps and weights | GPL-3.0-or-later (LICENSE; data: the model card) | |"]
    for file in sorted(files, key=lambda path: path.name.lower()):
        terms, page = wheels.licence(file)
        if not file.name.startswith("hero_core"):
            rows.append(f"| {file.name} | {terms} | {page} |")
    text = "The wheels are packed as they were published. Each holds the texts of its licences, and of what it bundles,"
    sums = [f"{wheels.sha256(file)}  {file.name}" for file in sorted(files, key=lambda path: path.name.lower())]
    return "\n".join(["# Parts and their licences", "", text, "in the folder `*.dist-info`.", "", *rows, "",
                      "SHA-256:", "", "```", *sums, "```", ""])  # fmt: skip


def _core_wheel() -> Path:
    """The hero_core wheel; hatchling gives all files the same date, so it is reproducible."""
    folder = OUT / "core"
    if folder.exists():
        shutil.rmtree(folder)
    _checked([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)])
    return next(folder.glob("hero_core-*.whl"))


def _blender_tool(*arguments: str) -> None:
    """Blender's own validator, which runs without Blender."""
    spec = importlib.util.find_spec("bpy")
    if spec is None or spec.origin is None:
        raise SetupError("Blender's module bpy is not in this environment; start this through 'python build.py build'.")
    tool = next(Path(spec.origin).parent.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"))
    _checked([sys.executable, str(tool), *arguments])


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the disk has none: the wheels of a full zip are large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _pack(stage: Path, archive: Path) -> None:
    """Zip a folder, sorted and with one date, so that the same content gives the same bytes; whole or not at all."""
    part = archive.with_suffix(".part")
    try:
        with zipfile.ZipFile(part, "w") as target:
            for path in sorted(stage.rglob("*"), key=lambda path: path.relative_to(stage).as_posix()):
                if not path.is_file():
                    continue
                info = zipfile.ZipInfo(path.relative_to(stage).as_posix(), EPOCH)
                info.create_system = 3  # as on Unix, wherever this runs
                info.external_attr = 0o644 << 16
                info.file_size = path.stat().st_size
                # Wheels are compressed already.
                info.compress_type = zipfile.ZIP_STORED if path.suffix == ".whl" else zipfile.ZIP_DEFLATED
                with path.open("rb") as source, target.open(info, "w") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
        part.replace(archive)
    except OSError as err:
        raise SetupError(f"'{archive}' cannot be written: {err.strerror or err}; make room and start again.") from err
    finally:
        part.unlink(missing_ok=True)


def _checked(command: list[str]) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SetupError(f"'{Path(command[1]).name} {command[2]}' failed:\n{(result.stdout + result.stderr).strip()}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="build.py build")
    parser.add_argument("--lock", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--platform", action="append", choices=list(wheels.PLATFORMS))
    parser.add_argument("--python", nargs="+", choices=list(wheels.PYTHONS), default=list(wheels.PYTHONS))
    parser.add_argument("--torch-index")
    options = parser.parse_args(argv)
    try:
        if options.lock:
            missing = wheels.make_lock(options.torch_index)
            print(f"{wheels.LOCK.relative_to(ROOT)} is written.")
            for line in missing:
                print(f"  no index has {line}; on Linux torch needs --torch-index with PyTorch's own for the CPU")
            return 1 if missing else 0
        pythons = tuple(python for python in wheels.PYTHONS if python in options.python)
        for system in options.platform or wheels.PLATFORMS:
            for full in (False, True) if options.full else (False,):
                target = build(system, full, pythons, options.torch_index)
                size, digest = target.stat().st_size / 1e6, wheels.sha256(target)
                print(f"{target.relative_to(ROOT)}  {size:.1f} MB, validated by Blender\n  sha256 {digest}", flush=True)
    except SetupError as err:
        print(err, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
