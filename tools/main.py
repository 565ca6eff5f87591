# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of build.py."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from build import find_python
from tools.environment import BLENDERS, DEFAULT, ROOT, SetupError, ensure
from tools.wheels import PLATFORMS, PYTHONS

# A test process that takes longer hangs: on two free cores the whole command takes a quarter of an hour.
TEST_SECONDS = 2400


def main(argv: list[str]) -> int:
    """Run one command; returns the exit code."""
    options = _options(argv)
    if not options.command:
        _parser().print_help()
        return 2
    started = time.monotonic()
    try:
        if options.command == "demo":
            code = _demo(options)
        elif options.command == "test":
            code = _test(options)
        elif options.command == "lint":
            code = _lint(ensure(DEFAULT, options.torch_index))
        else:
            code = _pack(options)
    except SetupError as err:
        print(f"\n{err}", file=sys.stderr)
        return 2
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    print(f"\n{options.command}: {'ok' if code == 0 else f'FAILED (exit code {code})'}, {minutes} min {seconds} s")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build.py", description="Make a demo, run the tests, pack the extension. All results are below build/."
    )
    commands = parser.add_subparsers(dest="command", metavar="demo | test | build | lint | lock")
    demo = commands.add_parser("demo", help="build/demo: a .blend with a reaction, a preview movie, a contact sheet")
    demo.add_argument("--video", type=Path, help="react to this video (default: the clip that ships)")
    demo.add_argument("--seed", type=int, default=20, help="which reaction (default 20, picked by eye)")
    test = commands.add_parser("test", help="ruff, mypy and all tests; further arguments go to pytest")
    test.add_argument(
        "--blender",
        choices=[*sorted(BLENDERS), "all"],
        default=DEFAULT,
        help=f"default {DEFAULT}; all: one after the other, those whose Python is on this machine",
    )
    build = commands.add_parser("build", help="build/extension: a zip for Blender on each platform")
    build.add_argument("--full", action="store_true", help="also the zips with torch (0.3 to 0.5 GB each to load)")
    build.add_argument("--platform", action="append", choices=list(PLATFORMS), help="only this one; may be repeated")
    build.add_argument(
        "--python", nargs="+", choices=list(PYTHONS), help="which Pythons the full zips are for (default: all)"
    )
    lint = commands.add_parser("lint", help="ruff and mypy alone")
    lock = commands.add_parser("lock", help="requirements/wheels.json: look up again which wheels the zips hold")
    for command in (demo, test, build, lint, lock):
        command.add_argument(
            "--torch-index",
            metavar="URL",
            default=os.environ.get("HERO_TORCH_INDEX"),
            help="also look for torch here (on Linux the default index holds the CUDA build, 2.5 GB; PyTorch's own "
            "CPU index holds one of 0.2 GB); also HERO_TORCH_INDEX",
        )
    return parser


def _options(argv: list[str]) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if rest and options.command != "test":
        parser.error(f"unknown argument: {' '.join(rest)}")
    options.pytest = [argument for argument in rest if argument != "--"]
    return options


def _call(title: str, command: list[str], timeout: float | None = None, **extra: str) -> int:
    """Run in the project's folder with its packages on the path; returns the exit code, 124 when time was up."""
    print(f"\n== {title}", flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **extra}
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=timeout, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"'{title}' did not end within {timeout:.0f} s and was stopped.", file=sys.stderr)
        return 124


def _lint(python: Path) -> int:
    checks = [
        ("ruff check", ["-m", "ruff", "check", "."]),
        ("ruff format", ["-m", "ruff", "format", "--check", "."]),
        ("mypy: hero_core, tools (strict)", ["-m", "mypy", "-p", "hero_core", "-p", "tools"]),
        ("mypy: hero_blender, demo", ["-m", "mypy", "-p", "hero_blender", "-p", "demo"]),
    ]
    codes = [_call(title, [str(python), *arguments]) for title, arguments in checks]
    return max(codes)


def _test(options: argparse.Namespace) -> int:
    if options.blender == "all":
        return _test_all(options)
    python = ensure(options.blender, options.torch_index)
    pytest = [str(python), "-m", "pytest", "-q"]
    chosen = [argument for argument in options.pytest if Path(argument.split("::")[0]).exists()]
    if options.pytest and chosen:
        # Named tests: nothing else is run. One process, so bpy and hero_core tests are named one at a time.
        return _call("pytest", [*pytest, *options.pytest], TEST_SECONDS)
    codes = []
    if options.blender == DEFAULT:
        codes.append(_lint(python))
    core = ["tests/hero_core", "tests/training", "tests/tools", "tests/test_house.py", "tests/test_setup.py"]
    if not BLENDERS[options.blender].has_torch:
        core = ["tests/hero_core/retarget"]
    # hero_core's tests never see bpy, so that an import of it there is found out; the others share one Blender.
    if options.blender in (DEFAULT, "5.2"):
        codes.append(_call("hero_core", [*pytest, *core, *options.pytest], TEST_SECONDS))
    title = f"hero_blender in Blender {BLENDERS[options.blender].bpy}"
    codes.append(_call(title, [*pytest, "tests/hero_blender", *options.pytest], TEST_SECONDS))
    # pytest's 5: the expression in -k fits no test of one of the two processes.
    codes = [code for code in codes if not (options.pytest and code == 5)]
    return max((abs(code) for code in codes), default=5)


def _demo(options: argparse.Namespace) -> int:
    python = ensure(DEFAULT, options.torch_index)
    arguments = ["--seed", str(options.seed)]
    if options.video:
        arguments += ["--video", str(options.video.resolve())]
    return _call("demo", [str(python), "-m", "demo", *arguments])


def _test_all(options: argparse.Namespace) -> int:
    """The suite in every Blender; a failure in one does not keep the others from their turn."""
    codes: dict[str, int] = {}
    for version, blender in BLENDERS.items():
        if find_python(blender.python) is None:
            print("\nNo Python {}.{} here: Blender {} is left out.".format(*blender.python, version), flush=True)
            continue
        print(f"\n==== Blender {version}", flush=True)
        codes[version] = _test(argparse.Namespace(**{**vars(options), "blender": version}))
    print("\n" + "\n".join(f"Blender {version}: {'ok' if code == 0 else 'FAILED'}" for version, code in codes.items()))
    return max(codes.values(), default=5)


def _pack(options: argparse.Namespace) -> int:
    python = ensure(DEFAULT, options.torch_index)
    arguments = ["--torch-index", options.torch_index] if options.torch_index else []
    if options.command == "lock":
        return _call("lock", [str(python), "-m", "tools.extension", "--lock", *arguments])
    arguments += ["--full"] if options.full else []
    arguments += ["--python", *options.python] if options.python else []
    for platform in options.platform or ():
        arguments += ["--platform", platform]
    return _call("extension", [str(python), "-m", "tools.extension", *arguments])
