# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole Blender with a window system of its own, on Debian: ``python -m tools.gui_setup trixie``.

Debian's Blender and its PyTorch are put into a folder of their own, build/gui/<suite> (about 2 GB): nothing is put
beside the machine's programs. build/gui/blender-<suite> starts that Blender as if it were installed; tests/gui
takes it as HERO_BLENDER. For root, on Debian, with mmdebstrap and xvfb installed; packages come from the mirror that
this machine's own apt uses.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.environment import BUILD, ROOT, SetupError

PACKAGES = (
    "blender", "python3-torch", "python3-safetensors", "python3-numpy", "libgl1", "libegl1", "libgl1-mesa-dri",
    "fonts-dejavu-core", "python3-cattr",
)  # fmt: skip
NEEDED_GB = 3.5  # 2.0 installed, and the packages while they unpack
# Manuals and translations are half of the files.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")

# The mounts live as long as the program: they are in a mount namespace of its own. The tests' files are seen inside
# at the same paths.
STARTER = """#!/bin/sh
# Starts the Blender of {root} as if it were installed. Written by tools/gui_setup.py.
exec unshare --mount --propagation private sh -c '
root=$1; shift
mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount --rbind /sys "$root/sys" &&
mount --rbind /tmp "$root/tmp" && mkdir -p "$root{project}" && mount --rbind "{project}" "$root{project}" &&
exec chroot "$root" env HOME=/tmp PATH=/usr/bin:/bin blender "$@"' sh '{root}' "$@"
"""


def set_up(suite: str, stale_mirror: bool = False) -> Path:
    """The program to start; made first where it is not there. Raises SetupError with what is missing."""
    folder, root = BUILD / "gui", BUILD / "gui" / suite
    starter = folder / f"blender-{suite}"
    if starter.is_file() and (root / "usr/bin/blender").exists():
        return starter
    for program, package in (("mmdebstrap", "mmdebstrap"), ("unshare", "util-linux"), ("Xvfb", "xvfb")):
        if shutil.which(program) is None:
            raise SetupError(f"{program} is missing; install it: apt-get install {package}")
    if os.geteuid() != 0:
        raise SetupError("Only root may change its root folder; run this as root, or in a container where you are it.")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    if free < NEEDED_GB:
        raise SetupError(f"{NEEDED_GB} GB are needed below '{folder}', and {free:.1f} GB are free; make room first.")
    if root.exists():
        print(f"{root} is unfinished; it is made again.", flush=True)
        shutil.rmtree(root)
    command = ["mmdebstrap", "--variant=apt", f"--include={','.join(PACKAGES)}"]
    command += ['--aptopt=APT::Install-Recommends "false"']
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    if stale_mirror:
        command += ['--aptopt=Acquire::Check-Valid-Until "false"']
    log = folder / f"{suite}.log"
    print(f"Debian {suite} with Blender and PyTorch, into {root} (0.7 GB to load; see {log})", flush=True)
    with log.open("w") as out:
        code = subprocess.run([*command, suite, str(root), mirror()], stdout=out, stderr=out, check=False).returncode
    if code:
        shutil.rmtree(root, ignore_errors=True)
        errors = [line[3:] for line in log.read_text().splitlines() if line.startswith("E: ")]
        hint = " Add --stale-mirror where the mirror is an old copy." if "expired" in " ".join(errors) else ""
        raise SetupError(f"Debian {suite} cannot be set up: {errors[0] if errors else f'see {log}'}.{hint}")
    starter.write_text(STARTER.format(root=root, project=ROOT))
    starter.chmod(0o755)
    return starter


def mirror() -> str:
    """Address of the Debian mirror that apt takes on this machine."""
    found = []
    if shutil.which("apt-get"):
        command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(SITE)", "Created-By: Packages"]
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        found = [line.split()[1] for line in lines if line.startswith("Debian ") and "security" not in line]
    if not found:
        raise SetupError("This machine's apt knows no Debian mirror; run 'apt-get update' on a Debian machine first.")
    return found[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.gui_setup", description=__doc__)
    parser.add_argument("suite", choices=["trixie", "sid"], help="trixie has Blender 4.3, sid (unstable) 5.x")
    parser.add_argument("--stale-mirror", action="store_true", help="the mirror is a copy that is older than it may be")
    options = parser.parse_args()
    try:
        starter = set_up(options.suite, options.stale_mirror)
    except SetupError as err:
        print(err, file=sys.stderr)
        return 2
    print(f"HERO_BLENDER={starter} python -m pytest tests/gui")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
