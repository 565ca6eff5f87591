# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheels that travel in the zips: which ones (requirements/wheels.json), where they are kept, what their terms are.

``python build.py lock`` asks the package index for every platform and Python at once, by platform tags: nothing is
built, and nothing is installed. The file names and SHA-256 that it writes are all that a build accepts afterwards.
"""

from __future__ import annotations

import email.parser
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote

from tools.environment import BUILD, LOCKS, SetupError

LOCK = LOCKS / "wheels.json"
KEPT = BUILD / "extension" / "index"

# The platforms of Blender's manifests, and what pip calls them. glibc 2.28 is what Blender itself asks for.
PLATFORMS = {
    "linux-x64": ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    "windows-x64": ("win_amd64",),
    "macos-arm64": ("macosx_14_0_arm64",),
}
# Blender 4.2 to 5.0, and 5.1 and later.
PYTHONS = ("3.11", "3.13")

# Never numpy: that of an extension would replace Blender's own for every other extension.
LITE = ("av", "safetensors")
# torch asks for setuptools too, but only to compile; what is packed is shared by all extensions, so less is better.
FULL = (
    "torch", "scipy", "filelock", "fsspec", "Jinja2", "MarkupSafe", "mpmath", "networkx", "sympy", "typing_extensions",
)  # fmt: skip


@dataclass(frozen=True)
class Wheel:
    """One file of the lock.

    file      its name, which says the package, the version and the tags
    sha256    of its bytes
    platforms which of PLATFORMS take it
    pythons   which of PYTHONS take it
    zips      "lite" for wheels of both zips, "full" for those of the full one alone
    """

    file: str
    sha256: str
    platforms: tuple[str, ...]
    pythons: tuple[str, ...]
    zips: str

    @property
    def name(self) -> str:
        return self.file.split("-")[0]

    @property
    def version(self) -> str:
        return self.file.split("-")[1]


def read_lock() -> list[Wheel]:
    """All wheels; raises SetupError where there is no lock."""
    try:
        rows = json.loads(LOCK.read_text())
    except (OSError, ValueError) as err:
        raise SetupError(f"requirements/{LOCK.name} cannot be read; make it with 'python build.py lock'.") from err
    return [
        Wheel(row["file"], row["sha256"], tuple(row["platforms"]), tuple(row["pythons"]), row["zips"]) for row in rows
    ]


def chosen(platform: str, full: bool, pythons: tuple[str, ...] = PYTHONS) -> list[Wheel]:
    """The wheels of one zip, in a fixed order; raises SetupError if the lock lacks one of them."""
    wheels = [
        wheel
        for wheel in read_lock()
        if platform in wheel.platforms and set(pythons) & set(wheel.pythons) and (full or wheel.zips == "lite")
    ]
    for python in pythons:
        have = {_plain(wheel.name) for wheel in wheels if python in wheel.pythons}
        lacking = [name for name in LITE + (FULL if full else ()) if _plain(name) not in have]
        if lacking:
            others = " ".join(other for other in PYTHONS if other != python)
            raise SetupError(
                f"requirements/{LOCK.name} has no {', '.join(lacking)} for {platform} with Python {python}: run "
                "'python build.py lock --torch-index URL' with PyTorch's own index for the CPU, or leave that Python "
                f"out (--python {others})."
            )
    return sorted(wheels, key=lambda wheel: wheel.file)


def fetch(wheels: list[Wheel], torch_index: str | None = None) -> list[Path]:
    """Paths of the files, loaded where they are missing or damaged, and kept for the next build.

    Raises SetupError: no network, or the index offers other bytes than the lock says.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        path = KEPT / wheel.file
        if path.is_file() and sha256(path) == wheel.sha256:
            continue
        path.unlink(missing_ok=True)
        wanted = KEPT / "wanted.txt"
        wanted.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        platform, python = wheel.platforms[0], wheel.pythons[0]
        print(f"loading {wheel.file} ...", flush=True)
        command = [*_pip("download", platform, python, torch_index), "--quiet", "--require-hashes"]
        _checked([*command, "--dest", str(KEPT), "-r", str(wanted)], wheel.file)
        wanted.unlink()
        if not path.is_file():
            raise SetupError(f"The package index has no {wheel.file} any more; make the lock again (build.py lock).")
    return [KEPT / wheel.file for wheel in wheels]


def make_lock(torch_index: str | None = None) -> list[str]:
    """Write requirements/wheels.json from the pinned versions; returns a line for each wheel that no index has."""
    pins = _pins()
    found: dict[str, Wheel] = {}
    missing: list[str] = []
    for platform in PLATFORMS:
        for python in PYTHONS:
            for zips, names in (("lite", LITE), ("full", FULL)):
                for name in names:
                    if name not in pins:
                        raise SetupError(f"requirements/*.lock.txt pin no {name}, which a zip packs; add it there.")
                    answer = _resolve(f"{name}=={pins[name]}", platform, python, torch_index)
                    if answer is None:
                        missing.append(f"{name} {pins[name]} for {platform}, Python {python}")
                        continue
                    file, digest = answer
                    old = found.get(file, Wheel(file, digest, (), (), zips))
                    found[file] = Wheel(
                        file,
                        digest,
                        tuple(dict.fromkeys((*old.platforms, platform))),
                        tuple(dict.fromkeys((*old.pythons, python))),
                        zips,
                    )
    rows = [asdict(found[file]) for file in sorted(found, key=str.lower)]
    LOCK.write_text("[\n" + ",\n".join(" " + json.dumps(row) for row in rows) + "\n]\n")
    return missing


def _resolve(requirement: str, platform: str, python: str, torch_index: str | None) -> tuple[str, str] | None:
    """File name and SHA-256 of the wheel that pip would take, read from the index alone; None where there is none."""
    command = [*_pip("install", platform, python, torch_index), "--dry-run", "--ignore-installed", "--quiet"]
    result = subprocess.run(
        [*command, "--target", str(KEPT / "nowhere"), "--report", "-", requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        if "No matching distribution" in result.stderr and "from versions: none" not in result.stderr:
            return None
        raise SetupError(f"pip cannot look up {requirement}: {_last(result.stderr)}")
    item = json.loads(result.stdout[result.stdout.index("{") :])["install"][0]["download_info"]
    file = unquote(item["url"].rsplit("/", 1)[-1])
    # On Linux the index's own torch is the one for CUDA, with 2 GB of libraries; the zip takes the one for the CPU.
    if file.startswith("torch-") and platform == "linux-x64" and "+cpu" not in file:
        return None
    return file, item["archive_info"]["hashes"]["sha256"]


def _pip(command: str, platform: str, python: str, torch_index: str | None) -> list[str]:
    pip = [sys.executable, "-m", "pip", command, "--no-input", "--disable-pip-version-check", "--no-deps"]
    pip += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for tag in PLATFORMS[platform]:
        pip += ["--platform", tag]
    return pip + (["--extra-index-url", torch_index] if torch_index else [])


def licence(wheel: Path) -> tuple[str, str]:
    """What a wheel says of its terms, and where it comes from."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.count("/") == 1 and n.endswith(".dist-info/METADATA"))
        meta = email.parser.Parser().parsestr(archive.read(name).decode())
    terms = meta["License-Expression"]
    classifiers = [c.rpartition(" :: ")[2] for c in meta.get_all("Classifier", []) if c.startswith("License ::")]
    plain = (meta["License"] or "").strip()
    terms = terms or (plain if plain and "\n" not in plain else "; ".join(classifiers))
    pages = [line.partition(",")[2].strip() for line in meta.get_all("Project-URL", [])]
    return terms or "see the files of the wheel", meta["Home-page"] or (pages[0] if pages else "")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pins() -> dict[str, str]:
    text = "".join((LOCKS / name).read_text() for name in ("run.lock.txt", "full.lock.txt"))
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _checked(command: list[str], what: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return
    text = result.stdout + result.stderr
    if "DO NOT MATCH THE HASHES" in text:
        raise SetupError(f"The package index offers other bytes for {what} than the lock says; nothing was taken.")
    if "No space left" in text:
        raise SetupError(f"The disk is full, so {what} was not loaded; make room and start again.")
    raise SetupError(f"{what} cannot be loaded (see the network, HTTPS_PROXY or PIP_FIND_LINKS): {_last(text)}")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and "notice" not in line]
    return lines[-1] if lines else "no message"
