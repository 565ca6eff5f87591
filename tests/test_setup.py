# SPDX-License-Identifier: GPL-3.0-or-later
"""build.py on machines where something is missing: one sentence that says what, and a setup that mends itself."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools import environment
from tools.environment import SetupError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build folder of the test's own, in which the two slow commands are only noted."""
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "BUILD", tmp_path / "build")
    return tmp_path / "build"


def installer(monkeypatch: pytest.MonkeyPatch, fail: bool = False) -> list[str]:
    """Replace venv and pip; returns the list of what was started."""
    started: list[str] = []

    def run(title: str, command: list[str], log: Path, at: float) -> None:
        started.append("venv" if "venv" in command else "pip")
        if "venv" in command:
            python = environment.python_in(Path(command[-1]))
            python.parent.mkdir(parents=True)
            python.write_text("#!/bin/sh\nexit 0\n")  # stands for a Python that imports everything
            python.chmod(0o755)
        elif fail:
            raise SetupError("pip ended")

    monkeypatch.setattr(environment, "_run", run)
    return started


def test_build_py_can_be_read_by_old_pythons() -> None:
    """It has to start there to say which Python is needed."""
    tree = ast.parse((ROOT / "build.py").read_text(encoding="utf-8"))
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.AsyncFunctionDef, ast.Starred, ast.Match)
    assert not [node for node in ast.walk(tree) if isinstance(node, newer)]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert functions and not [f for f in functions if f.returns or any(a.annotation for a in f.args.args)]


def test_a_machine_without_the_right_python_is_told(tmp_path: Path) -> None:
    """build.py from a Python that is not 3.11, where none is found."""
    code = (
        "import sys; sys.version_info = (3, 9, 0); sys.argv = ['build.py', 'test']\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import build; build.find_python = lambda *a: None\n"
        "sys.exit(build.main())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 2
    assert "Python 3.11 (64-bit) is missing" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Python is a shell script")
def test_setup_is_done_once_and_again_when_the_lock_changes(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = build.parent / "requirements"
    shutil.copytree(ROOT / "requirements", locks)
    monkeypatch.setattr(environment, "LOCKS", locks)
    started = installer(monkeypatch)
    python = environment.ensure()
    assert started == ["venv", "pip"] and python == environment.python_in(build / "venv")
    environment.ensure()
    assert started == ["venv", "pip"]
    lock = locks / "run.lock.txt"
    lock.write_text(lock.read_text() + "newcomer==1.0\n")
    environment.ensure()
    assert started == ["venv", "pip", "pip"]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Python is a shell script")
def test_an_interrupted_setup_is_made_again(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installer(monkeypatch, fail=True)
    with pytest.raises(SetupError):
        environment.ensure()
    leftover = build / "venv" / "half_a_package"
    leftover.write_text("")
    started = installer(monkeypatch)
    environment.ensure()
    assert started == ["venv", "pip"] and not leftover.exists()


def test_too_little_disk_is_said_before_anything_is_loaded(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = installer(monkeypatch)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: SimpleNamespace(free=1.5e9))
    with pytest.raises(SetupError, match=r"1\.5 GB free .* 4\.0 GB are needed"):
        environment.ensure()
    assert not started


def test_a_missing_python_for_another_blender_is_named(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_python", lambda _: None)
    with pytest.raises(SetupError, match=r"Python 3\.13 is missing, which Blender 5\.2 needs.*HERO_PYTHON313="):
        environment.ensure("5.2")


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError(...)'\n"
            "ERROR: No matching distribution found for av==1",
            "no way to the package index",
        ),
        (
            "ERROR: Could not find a version (from versions: none)\nERROR: No matching distribution found for bpy==4",
            "finds no bpy==4 at all",
        ),
        (
            "ERROR: Could not find a version (from versions: 1.0)\nERROR: No matching distribution found for torch==2",
            "other versions of torch==2 only",
        ),
        ("ensurepip ... returned non-zero exit status 1", "python3.11-venv"),
        ("a line\n\x1b[31mERROR: something new\x1b[0m\n", "pip ended with: ERROR: something new"),
    ],
)
def test_what_pip_says_becomes_one_sentence(build: Path, log: str, said: str) -> None:
    sentence = environment._reason(log, environment.BUILD / "setup-venv.log")
    assert said in sentence and "setup-venv.log" in sentence and "\n" not in sentence
