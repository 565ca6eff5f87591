# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m hero_blender react …``, ``bake …``, ``retarget …`` and ``map …``: with Blender's Python module alone."""

from __future__ import annotations

import os
import sys
import traceback


def main() -> int:
    try:
        import bpy  # noqa: F401
    except ImportError:
        print("error: this needs Blender's Python module; install it with: pip install bpy", file=sys.stderr)
        return 1
    from . import bone_map, command

    bone_map.register()  # before a file is opened: the maps that its armatures keep
    try:
        return command.main(sys.argv[1:], standalone=True)
    except Exception:  # noqa: BLE001 - a defect of ours; the process must still end
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Blender's own tear-down may hang or abort; everything is written by now.
    os._exit(code)
