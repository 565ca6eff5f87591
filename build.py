# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of the project: ``python build.py demo | test | build | lint | lock``.

This file starts on any Python, finds the Python 3.11 that Blender's module needs, and goes on in tools/main.py with it.
"""

from __future__ import print_function

import glob
import os
import subprocess
import sys

NEEDED = (3, 11)
HERE = os.path.dirname(os.path.abspath(__file__))
PROBE = "import sys; sys.exit(0 if sys.version_info[:2] == (%d, %d) and sys.maxsize > 2**32 else 1)"


def is_python(command, version=NEEDED):
    """Whether this command starts a 64-bit Python of that version (a pyenv shim may exist and start nothing)."""
    try:
        with open(os.devnull, "w") as nowhere:
            return subprocess.call(command + ["-c", PROBE % version], stdout=nowhere, stderr=nowhere) == 0
    except OSError:
        return False


def find_python(version=NEEDED):
    """Command that starts a Python of that version, or None. HERO_PYTHON<major><minor> names one by hand."""
    name = "python%d.%d" % version
    short = "%d%d" % version
    home = os.path.expanduser("~")
    exe = "python.exe" if os.name == "nt" else "bin/python3"
    candidates = [[os.environ[key]] for key in ("HERO_PYTHON" + short,) if os.environ.get(key)]
    candidates += [[sys.executable], [name]]
    if os.name == "nt":
        candidates += [["py", "-%d.%d" % version]]
        local = os.environ.get("LOCALAPPDATA", home)
        candidates += [[os.path.join(local, "Programs", "Python", "Python" + short, "python.exe")]]
    candidates += [[os.path.join(folder, name)] for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")]
    pyenv = os.environ.get("PYENV_ROOT", os.path.join(home, ".pyenv"))
    for pattern in (
        os.path.join(pyenv, "versions", "%d.%d*" % version, exe),
        os.path.join(home, ".local", "share", "uv", "python", "cpython-%d.%d*" % version, exe),
        os.path.join(home, "*conda*", "envs", "*", exe),
    ):
        candidates += [[path] for path in sorted(glob.glob(pattern), reverse=True)]
    for command in candidates:
        if command[0] and is_python(command, version):
            return command
    return None


def main():
    if sys.version_info[:2] == NEEDED and sys.maxsize > 2**32:
        sys.path.insert(0, HERE)
        from tools.main import main as run

        return run(sys.argv[1:])
    command = find_python()
    if command is None:
        print(
            "Python %d.%d (64-bit) is missing: Blender 4.2 to 5.0 as a Python module needs exactly that version.\n"
            "Install it (python.org, 'apt install python3.11 python3.11-venv', 'brew install python@3.11', "
            "'pyenv install 3.11') and start this command again, or say where it is: "
            "HERO_PYTHON311=/path/to/python3.11 python build.py ..." % NEEDED,
            file=sys.stderr,
        )
        return 2
    return subprocess.call(command + [os.path.abspath(__file__)] + sys.argv[1:])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nStopped. What was finished is kept; start the same command to go on.", file=sys.stderr)
        sys.exit(130)
