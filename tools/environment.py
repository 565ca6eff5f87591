# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual environments below build/, made from the lock files: quick when nothing changed, made again when broken."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from build import find_python

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
LOCKS = ROOT / "requirements"


class SetupError(Exception):
    """Something of the machine is missing; the text is a sentence that says what to do."""


@dataclass(frozen=True)
class Blender:
    """One Blender that the project is tested with, as the bpy wheel."""

    bpy: str
    python: tuple[int, int] = (3, 11)

    @property
    def has_torch(self) -> bool:
        """The torch wheel is locked for Python 3.11 only; 3.13 runs what needs none."""
        return self.python == (3, 11)


BLENDERS = {
    "4.2": Blender("4.2.23"),
    "4.5": Blender("4.5.15"),
    "5.0": Blender("5.0.1"),
    "5.2": Blender("5.2.3", python=(3, 13)),
}
DEFAULT = "4.5"  # the version in requirements/run.lock.txt

# Free disk for a new environment: wheels while they unpack, and what they become (measured, rounded up).
NEEDED_GB = {"4.5": 4.0, "4.2": 2.0, "5.0": 2.0, "5.2": 2.5}


def python_in(venv: Path) -> Path:
    """The interpreter of a virtual environment."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def ensure(version: str = DEFAULT, torch_index: str | None = None) -> Path:
    """Interpreter of the environment for one Blender version, made or brought up to date first.

    torch_index: a further package index where torch is looked for. Raises SetupError with what is missing.
    """
    blender = BLENDERS[version]
    if version == DEFAULT:
        return _environment(BUILD / "venv", version, ["-r", str(LOCKS / "test.lock.txt")], torch_index)
    venv = BUILD / f"blender-{version}"
    if not blender.has_torch:
        return _environment(venv, version, ["-r", str(LOCKS / "test-py313.lock.txt")], torch_index)
    base = ensure(DEFAULT, torch_index)
    return _environment(venv, version, ["--no-deps", f"bpy=={blender.bpy}"], torch_index, base)


def _environment(
    venv: Path, version: str, packages: list[str], torch_index: str | None, base: Path | None = None
) -> Path:
    """Make ``venv`` hold ``packages``, unless its marker says that it does.

    base: interpreter of an environment whose packages stand later on the path: another Blender for the same Python
    is then one package more instead of a second copy of everything.
    """
    blender = BLENDERS[version]
    lock = _lock_text(LOCKS / "test.lock.txt") if base else _lock_text(Path(packages[1]))
    wanted = hashlib.sha256(f"{lock} {version} {blender.bpy} {ROOT}".encode()).hexdigest()
    marker = venv / "ready.txt"
    python = python_in(venv)
    made = marker.is_file() and python.is_file()
    if made and marker.read_text().strip() == wanted:
        return python
    started = time.monotonic()
    _check_disk(1.0 if made else NEEDED_GB[version])
    log = BUILD / f"setup-{venv.name}.log"
    log.write_text("")
    if not made:
        if venv.exists():
            print(f"build/{venv.name} is unfinished; it is made again.", flush=True)
            shutil.rmtree(venv)
        command = find_python(blender.python)
        if command is None:
            name = "{}.{}".format(*blender.python)
            raise SetupError(
                f"Python {name} is missing, which Blender {version} needs; install it, or say where it is with "
                f"HERO_PYTHON{name.replace('.', '')}=/path/to/python{name}."
            )
        _run("[1/2] Virtual environment", [*command, "-m", "venv", str(venv)], log, started)
    # From here to the end an interruption leaves no marker, and the next run starts afresh.
    marker.unlink(missing_ok=True)
    install = [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--only-binary=:all:"]
    if torch_index:
        install += ["--extra-index-url", torch_index]
    size = "0.4 GB" if base else "0.7 GB and more"
    _run(f"[2/2] Packages for Blender {version} (at first {size} to load)", [*install, *packages], log, started)
    if base:
        (_site_packages(python) / "default_environment.pth").write_text(f"{_site_packages(base)}\n")
    check = "import torch, bpy" if blender.has_torch else "import bpy"
    code = f"{check}; import os; os._exit(0)"
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SetupError(
            f"The packages are installed, but '{check}' fails on this machine: {_last_line(result.stderr)} "
            "Blender needs a 64-bit Linux with glibc 2.28, Windows 10 or macOS 12, and on Linux the libraries "
            "libxrender1, libxi6, libxkbcommon0, libsm6, libxxf86vm1, libxfixes3 and libgl1."
        )
    marker.write_text(wanted + "\n")
    print(f"      build/{venv.name} is ready ({_clock(started)})", flush=True)
    return python


def _lock_text(lock: Path) -> str:
    """Content of a lock file and of the files that it reads."""
    text = lock.read_text()
    for name in re.findall(r"^-r (\S+)", text, re.MULTILINE):
        text += _lock_text(lock.with_name(name))
    return text


def _site_packages(python: Path) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip())


def _check_disk(gigabytes: float) -> None:
    BUILD.mkdir(exist_ok=True)
    if not os.access(BUILD, os.W_OK):
        raise SetupError(f"The folder {BUILD} cannot be written; copy the project to a folder of your own.")
    free = shutil.disk_usage(BUILD).free / 1e9
    if free < gigabytes:
        raise SetupError(
            f"There are {free:.1f} GB free on the disk of {BUILD}, and {gigabytes:.1f} GB are needed: "
            "make room and start again."
        )


def _run(title: str, command: list[str], log: Path, started: float) -> None:
    """Run with the output in the log; a line of time that moves in a terminal, a line every 30 s elsewhere."""
    print(f"{title} ...", flush=True)
    shown = time.monotonic()
    with log.open("a") as stream, subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT) as process:
        try:
            while process.poll() is None:
                time.sleep(0.2)
                every = 0.5 if sys.stdout.isatty() else 30.0
                if time.monotonic() - shown >= every:
                    shown = time.monotonic()
                    end = "\r" if sys.stdout.isatty() else "\n"
                    print(f"      {_clock(started)}  {_last_line(log.read_text(errors='replace'))[:90]:90}", end=end)
                    sys.stdout.flush()
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise SetupError(_reason(log.read_text(errors="replace"), log))


def _reason(text: str, log: Path) -> str:
    """One sentence for what pip or venv ended with."""
    where = f"(the whole log is {log.relative_to(ROOT)})"
    if "No space left" in text:
        return f"The disk is full; make room and start again {where}."
    if "ensurepip" in text and "returned non-zero" in text:
        return f"This Python has no ensurepip; install it ('apt install python3.11-venv') and start again {where}."
    offline = r"NewConnectionError|Name or service|name resolution|ProxyError|ReadTimeout|ConnectTimeout|SSLError"
    if re.search(offline + r"|Network is unreachable|Connection refused|getaddrinfo", text):
        return (
            "The packages cannot be loaded: there is no way to the package index. Check the network or the proxy "
            "(HTTPS_PROXY), or point pip at a folder of wheels (PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels), "
            f"and start again {where}."
        )
    missing = re.search(r"No matching distribution found for (\S+)", text)
    if missing and "(from versions: none)" in text:
        return (
            f"pip finds no {missing.group(1)} at all: either there is no network, or this system (a 64-bit Linux, "
            "Windows or macOS is needed) has no such package, or pip is set to an index that does not have it "
            f"(PIP_INDEX_URL, PIP_EXTRA_INDEX_URL) {where}."
        )
    if missing:
        return (
            f"The package index that pip uses has other versions of {missing.group(1)} only; set PIP_INDEX_URL or "
            f"PIP_EXTRA_INDEX_URL to one that has the locked one {where}."
        )
    return f"pip ended with: {_last_line(text)} {where}"


def _last_line(text: str) -> str:
    """The last line that says something, without the control codes of progress bars."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))]
    return next((line for line in reversed(lines) if line), "no message")


def _clock(started: float) -> str:
    seconds = int(time.monotonic() - started)
    return f"{seconds // 60:02d}:{seconds % 60:02d}"
