# SPDX-License-Identifier: GPL-3.0-or-later
"""PyTorch by pip, into a folder of HERO's own: never into Blender's Python, never into the extension. No bpy here.

pip runs in a process of its own, so that it can be cancelled at any time. It works in a folder with a preliminary
name; what it made is tried out by that Python before the folder gets its name. Until then nothing finds it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hero_core.errors import Cancelled, HeroError

from . import user_files

Progress = Callable[[int, int], bool]

# Address of PyTorch's own package index, without the last part that names the build; "" where the user gives it.
PYTORCH_INDEX = os.environ.get("HERO_TORCH_INDEX", "")


@dataclass(frozen=True)
class Kind:
    """A build of PyTorch: its name, what it loads and what it takes on the disk, in GB (measured, rounded up)."""

    label: str
    load: float
    disk: float


KINDS = {
    "cpu": Kind("processor", 0.3, 1.3),
    "mps": Kind("Apple's Metal", 0.2, 0.8),
    "cuda": Kind("NVIDIA graphics card (CUDA)", 3.0, 9.0),
    "rocm": Kind("AMD graphics card (ROCm)", 4.0, 18.0),
    "xpu": Kind("Intel graphics card (XPU)", 1.5, 6.0),
}

# In Python's own index: CUDA for Linux, the processor for Windows, the processor and Metal for the Mac.
_DEFAULT_INDEX = {("linux", "cuda"), ("win32", "cpu"), ("darwin", "cpu"), ("darwin", "mps")}

# One step of what a model does; runs in the process of its own that pip ran in.
SELF_TEST = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
a = torch.ones(4, 4)
assert float((a @ a).sum()) == 64.0, "4 x 4 ones times 4 x 4 ones do not sum to 64"
print(json.dumps({"torch": torch.__version__, "file": torch.__file__}))
"""


@dataclass(frozen=True)
class Choice:
    """What to install, and from where.

    kind    one of KINDS
    wheels  a folder of wheels: nothing is loaded from a network then
    index   address of a package index; "" = the one that pip is set to, where that has this kind
    proxy   "http://[user:password@]host:port"; "" = what the environment says (HTTPS_PROXY)
    """

    kind: str = "cpu"
    wheels: str = ""
    index: str = ""
    proxy: str = ""


# --- What this machine has ---


@functools.cache
def recommended() -> tuple[str, str]:
    """The kind that fits this machine, and the reason in words. Looks for drivers; takes a second at most."""
    if sys.platform == "darwin":
        return "mps", "this Mac computes with Metal"
    found = _nvidia()
    if found is not None:
        return "cuda", f"there is an NVIDIA driver ({found})" if found else "there is an NVIDIA driver"
    vendors = _graphics_vendors()
    if "0x1002" in vendors and Path("/dev/kfd").exists():
        return "rocm", "there is an AMD graphics card with its compute driver"
    if "0x8086" in vendors and _has_module("xe"):
        return "xpu", "there is an Intel graphics card with its compute driver"
    return "cpu", "no graphics card was found that PyTorch can use"


def _nvidia() -> str | None:
    """Name and compute capability of the first NVIDIA card, "" if only its driver is seen, None if not even that."""
    windows = Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvcuda.dll")
    driver = Path("/proc/driver/nvidia/version").exists() or (sys.platform == "win32" and windows.is_file())
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "" if driver else None
    try:
        result = subprocess.run(
            [tool, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
            creationflags=_NO_WINDOW,
        )
    except (OSError, subprocess.SubprocessError):
        return "" if driver else None
    lines = result.stdout.strip().splitlines()
    return lines[0] if result.returncode == 0 and lines else ("" if driver else None)


def _graphics_vendors() -> set[str]:
    cards = Path("/sys/class/drm").glob("card*/device/vendor") if sys.platform == "linux" else ()
    return {card.read_text().strip() for card in cards}


def _has_module(name: str) -> bool:
    return Path("/sys/module", name).is_dir()


def build_name(kind: str, card: str = "") -> str:
    """How PyTorch's index calls the build: 'cpu', 'cu128', ... CUDA by the card's compute capability, where known.

    Cards before Turing (7.5) are left out of newer builds; those since Blackwell (12.0) are missing in older ones.
    """
    if kind == "cuda":
        capability = re.search(r",\s*(\d+)\.(\d+)", card)
        old = capability is not None and (int(capability[1]), int(capability[2])) < (7, 5)
        return "cu126" if old else "cu128"
    return {"rocm": "rocm6.4", "xpu": "xpu"}.get(kind, "cpu")


def index_of(choice: Choice, card: str = "") -> str:
    """Address of the index for a choice; "" for the one that pip is set to.

    Raises HeroError where that index has no such build and none was given.
    """
    index = (choice.index or PYTORCH_INDEX).rstrip("/")
    if (sys.platform, choice.kind) in _DEFAULT_INDEX and not choice.index:
        return ""
    if not index:
        raise HeroError(
            f"PyTorch for the {KINDS[choice.kind].label} is not in Python's own package index on this system: copy the "
            "address after --index-url from 'Get Started' on PyTorch's site into Package Index, or choose a folder of "
            "wheels."
        )
    named = re.fullmatch(r"cpu|cu\d+|rocm[\d.]+|xpu|simple", index.rpartition("/")[2])
    return index if named else f"{index}/{build_name(choice.kind, card)}"


# --- pip ---

_NO_WINDOW = 0x08000000 if sys.platform == "win32" else 0  # CREATE_NO_WINDOW


def pip_environment(work: Path, offline: bool, python: str = sys.executable) -> dict[str, str]:
    """Environment for pip: everything that it writes goes below ``work``; offline no setting of the user counts.

    Where this Python has no pip, the one that ensurepip brings along runs out of its wheel: Blender stays untouched.
    """
    unset = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_DRY_RUN", "PYTHONPATH"}
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    if offline:
        environment = {key: value for key, value in environment.items() if not key.startswith("PIP_")}
        environment["PIP_CONFIG_FILE"] = os.devnull
    temporary = work / "tmp"
    temporary.mkdir(exist_ok=True)
    environment |= {"TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary)}
    environment |= {"PIP_CACHE_DIR": str(work / "cache"), "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    environment |= {"PYTHONNOUSERSITE": "1", "PYTHONIOENCODING": "utf-8:replace", "PYTHONUTF8": "1"}
    if importlib.util.find_spec("pip") is None and python == sys.executable:
        import ensurepip

        bundled = sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
        if not bundled:
            raise HeroError("Blender's Python has no pip; use 'PyTorch Folder' with a folder that you fill yourself.")
        environment["PYTHONPATH"] = str(bundled[-1])
    return environment


def pip_command(choice: Choice, work: Path, numpy: str, card: str = "", python: str = sys.executable) -> list[str]:
    """The pip command; ``numpy`` is the version of Blender's, which nothing that comes along may contradict."""
    constraints = work / "constraints.txt"
    constraints.write_text(f"numpy=={numpy}\n")
    command = [python, "-s", "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command += ["--no-warn-script-location", "--only-binary=:all:", "--constraint", str(constraints)]
    command += ["--target", str(work / "site")]
    if choice.wheels:
        command += ["--no-index", "--find-links", choice.wheels]
    else:
        index = index_of(choice, card)
        command += ["--index-url", index] if index else []
        command += ["--proxy", choice.proxy] if choice.proxy else []
    return [*command, "torch>=2.2"]


class Installation:
    """One installation: ``run`` does it, in any thread; ``stage`` says meanwhile what is being done.

    Raises HeroError, at once where it can be known: no permission to go online, an unknown kind, no such folder.
    """

    def __init__(
        self, choice: Choice, root: Path, numpy: str, online: bool, python: str = sys.executable, card: str = ""
    ) -> None:
        if choice.kind not in KINDS:
            raise HeroError(f"There is no PyTorch for '{choice.kind}'; choose one of {', '.join(KINDS)}.")
        if sys.platform == "darwin" and platform.machine() != "arm64":
            raise HeroError("PyTorch is no longer made for Macs with Intel processors; HERO cannot react there.")
        if choice.wheels and not list(Path(choice.wheels).glob("*.whl")):
            raise HeroError(f"'{choice.wheels}' holds no wheels (.whl); choose the folder that pip downloaded them to.")
        if not choice.wheels:
            if not online:
                raise HeroError(
                    "Blender may not go online: allow it in Preferences > System > Network, or choose a folder of "
                    "wheels."
                )
            index_of(choice, card)
        self.choice, self.stage = choice, "Getting ready"
        self._root, self._numpy, self._python, self._card = root, numpy, python, card
        self.log = root / "install.log"

    def run(self, on_progress: Progress | None = None) -> Path:
        """Install; returns the new folder, and marks older ones of this Python for removal.

        Raises HeroError with what went wrong (the log has all of it), Cancelled when ``on_progress`` said so; nothing
        is left of it then.
        """
        kind = KINDS[self.choice.kind]
        with user_files.only_one(self._root, "PyTorch"):
            self.log.unlink(missing_ok=True)
            for stale in self._root.glob(".part-*"):
                user_files.delete(stale)
            user_files.check_space(self._root, 0.0 if self.choice.wheels else kind.load + kind.disk, "PyTorch")
            older = [f for f in user_files.complete(self._root) if user_files.about(f).get("python") == _tag()]
            try:
                part = user_files.new_part(self._root)
            except OSError as err:
                raise HeroError(_disk(err, self._root)) from err
            try:
                final = self._install(part, on_progress)
            except OSError as err:
                raise HeroError(_disk(err, self._root)) from err
            finally:
                user_files.delete(part)  # nothing is there any more where it went well
            for folder in older:
                user_files.remove_at_next_start(folder, self._root)
        self.stage = "Done"
        return final

    def _install(self, part: Path, on_progress: Progress | None) -> Path:
        offline, kind = bool(self.choice.wheels), KINDS[self.choice.kind]
        environment = pip_environment(part, offline, self._python)
        command = pip_command(self.choice, part, self._numpy, self._card, self._python)
        total = 1e9 * (kind.disk + kind.load)
        if offline:
            total = 4.0 * sum(wheel.stat().st_size for wheel in Path(self.choice.wheels).glob("*.whl"))
        self.stage = "Asking for the packages"
        self._call(command, environment, part, int(total), on_progress)

        self.stage = "Trying it out"
        site = part / "site"
        for numpy in [*site.glob("numpy"), *site.glob("numpy-*"), *site.glob("numpy.libs")]:
            shutil.rmtree(numpy)  # Blender's own is what counts
        if not (site / "torch" / "__init__.py").is_file():
            raise HeroError(f"pip ended well but left no PyTorch; see {self.log}.")
        test = [self._python, "-s", "-c", SELF_TEST, str(site)]
        text = self._call(test, environment, part, 1, on_progress, polls=False)
        answer = json.loads(text.strip().splitlines()[-1])
        for item in site.iterdir():
            item.rename(part / item.name)
        site.rmdir()
        for name in ("tmp", "cache"):
            shutil.rmtree(part / name, ignore_errors=True)
        (part / "constraints.txt").unlink()
        for bytecode in part.rglob("__pycache__"):
            shutil.rmtree(bytecode, ignore_errors=True)
        if on_progress is not None and not on_progress(1, 1):
            raise Cancelled
        user_files.write_about(
            part,
            {"python": _tag(), "kind": self.choice.kind, "torch": answer["torch"], "time": time.time(),
             "bytes": user_files.size(part)},
        )  # fmt: skip
        return user_files.keep(part, f"{_tag()}-{self.choice.kind}-{answer['torch']}")

    def _call(
        self,
        command: list[str],
        environment: dict[str, str],
        part: Path,
        total: int,
        on_progress: Progress | None,
        polls: bool = True,
    ) -> str:
        """Run a process with its output in the log; returns the output."""
        output = part / "output.txt"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=part,
                creationflags=_NO_WINDOW,
                start_new_session=os.name != "nt",
            )
            done = 0
            looked = 0.0
            try:
                while process.poll() is None:
                    if polls and time.monotonic() - looked > 1.0:
                        looked = time.monotonic()
                        done = max(done, min(user_files.size(part), int(0.98 * total)))
                        self.stage = _stage(output.read_text("utf-8", "replace")) or self.stage
                    if on_progress is not None and not on_progress(done, total):
                        raise Cancelled
                    time.sleep(0.05)
            finally:
                if process.poll() is None:
                    _kill(process)
        text = output.read_text("utf-8", "replace")
        output.unlink()
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"{' '.join(_masked(command))}\n{text}\nexit code {process.returncode}\n")
        if process.returncode:
            raise HeroError(reason(text, process.returncode, self.log, polls))
        return text


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started."""
    if sys.platform == "win32":
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(process.pid)],
            capture_output=True,
            check=False,
            creationflags=_NO_WINDOW,
        )
    else:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: the group is pip and its children
    process.wait()


def _tag() -> str:
    return user_files.python_tag()


def _masked(command: list[str]) -> list[str]:
    """The command without passwords of proxies and indexes."""
    return [re.sub(r"//[^/@\s]+@", "//***@", word) for word in command]


def _stage(text: str) -> str:
    """The last thing that pip said it does, in a few words."""
    for line in reversed(text.splitlines()):
        found = re.match(r"\s*(Downloading|Using cached|Processing|Installing) (\S+)( \([\d.]+ [kMG]?B\))?", line)
        if found:
            if found[1] == "Installing":
                return "Unpacking the packages"
            name = found[2].rpartition("/")[2].split("-")[0]
            return f"Loading {name}{found[3] or ''}"
    return ""


def _disk(err: OSError, root: Path) -> str:
    if err.errno == 28:
        return f"The disk of '{root}' is full; make room and install again: nothing was changed."
    return f"'{root}' cannot be written ({err.strerror or err}); allow it and install again: nothing was changed."


def reason(text: str, code: int, log: Path, pip: bool = True) -> str:
    """One sentence for what pip, or the first step of the new PyTorch, ended with."""
    where = f"the log is {log}"
    lines = [line.strip() for line in text.splitlines() if line.strip() and "[notice]" not in line]
    last = lines[-1] if lines else "no message"
    if "No space left" in text or "not enough space on the disk" in text:
        return f"The disk is full; make room and install again: nothing was changed ({where})."
    if code < 0 or code in {137, 143}:
        return f"The installation was ended from outside (code {code}); start it again: nothing was changed ({where})."
    if not pip:
        return f"The PyTorch that was installed does not run here, so it was removed again: {last} ({where})."
    if re.search(r"DO NOT MATCH THE HASHES|BadZipFile|is invalid|bad magic|CRC-32|zlib\.error|not a zip file", text):
        damaged = re.search(r"[\w.+-]+\.whl", text)
        name = damaged[0] if damaged else "a package"
        return f"{name} is damaged; load it again, then install again: nothing was changed ({where})."
    offline = r"NewConnectionError|Name or service|name resolution|ProxyError|Timeout|SSLError|Network is unreachable"
    if re.search(offline + r"|Connection refused|getaddrinfo|Connection aborted|IncompleteRead", text):
        return (
            "The packages cannot be loaded: there is no way to the package index. Check the network and the proxy, or "
            f"choose a folder of wheels ({where})."
        )
    missing = re.search(r"No matching distribution found for (\S+)", text)
    if missing:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            f"There is no {missing[1]} for Python {version} on this system where HERO looked, or no way to get there; "
            f"choose another package index or folder of wheels ({where})."
        )
    if re.search(r"Permission denied|Read-only file system|Access is denied", text):
        return f"The folder of HERO cannot be written: {last} ({where})."
    return f"pip ended with: {last} ({where})."
