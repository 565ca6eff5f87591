# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the face takes: rule-based listener against real time, and keys of 30 s on an ARKit head in Blender.

    python -m tests.benchmarks.bench_face [--runs 9]

Times are medians. A ratio says how many times faster than the sound lasts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hero_core.face import keys, listener
from tests.hero_core.face.voices import talk

SECONDS = 30.0


def median(runs: int, work: Callable[[], Any]) -> float:
    """Seconds."""
    taken = []
    for _ in range(runs):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    sound = talk(SECONDS)
    spent = median(runs, lambda: listener.listen(sound, None, 1, 0))
    found: dict[str, Any] = {
        "listener": {"seconds": round(spent, 4), "times_real_time": round(SECONDS / spent, 1)},
    }
    face = listener.listen(sound, None, 1, 0)
    tracks = keys.play(face).channels[:, :52].T[..., None]
    found["reduce"] = {
        "milliseconds": round(1000 * median(runs, lambda: keys.few_keys(tracks, 0.01)), 2),
        "keys": sum(len(each.rows) for each in keys.few_keys(tracks, 0.01)),
        "of": tracks.size,
    }
    with contextlib.suppress(ImportError):
        import bpy
        from heads import head

        from hero_blender import face_keys, face_rig

        bpy.ops.wm.read_factory_settings(use_empty=True)
        scene = bpy.context.scene
        scene.render.fps = 25
        _, mesh = head(bpy, armature=False)
        alone = face_rig.find(None, mesh)
        found["blender"] = bpy.app.version_string
        for name, options in (("few_keys", keys.Options()), ("every_frame", keys.Options(reduce=False))):
            spent = median(runs, lambda o=options: face_keys.write_face(alone, face, "clip", 1, scene, o))
            found[f"key_52_shapes_{name}_milliseconds"] = round(1000 * spent, 1)
        rig, _ = head(bpy, others=True)
        all_of_it = face_rig.find(rig)
        spent = median(runs, lambda: face_keys.write_face(all_of_it, face, "clip", 1, scene))
        found["key_3_meshes_neck_and_head_milliseconds"] = round(1000 * spent, 1)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    import os

    os._exit(0)  # Blender's own tear-down may hang
