# SPDX-License-Identifier: GPL-3.0-or-later
"""The numbers of ``--report`` are those of the evaluated rig: they tell a good retarget from a spoilt one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skeletons import walk

from hero_core.motion import Motion
from hero_core.retarget.options import Options

bpy = pytest.importorskip("bpy")

from characters import mixamo  # noqa: E402

from hero_blender import command, compat, rigfile  # noqa: E402
from hero_blender.report import measured  # noqa: E402

RAW = Options(pin_feet=False, smooth=False, reduce=False)


def numbers(obj: Any, options: Options, spoil: Any = None, count: int = 30, joints: Any = None) -> dict[str, Any]:
    motion = Motion((walk(count) if joints is None else joints)[None], None, np.array([count]))
    scene = bpy.context.scene
    report = rigfile.retarget_motion(obj, motion, first_frame=5, options=options)
    if spoil is not None:
        spoil(bpy.data.actions[report["action"]])
    scene.frame_set(3)
    found = measured(obj, motion, 0, report, scene, options)
    assert scene.frame_current == 3
    assert compat.assigned_action(obj)[0].name == report["action"]
    assert len(bpy.data.actions) == 1
    return found


def test_a_raw_retarget_is_exact(blend: Any) -> None:
    found = numbers(mixamo(bpy), RAW)
    assert found["mapped"] == 22
    assert found["limb_direction_degrees"]["most"] < 0.1
    assert found["hips_path_percent_of_height"] < 0.05
    assert found["inverted_knees_and_elbows"] == 0
    assert found["keys"]["share"] == 1.0
    steps = found["largest_step_degrees"]
    assert steps["rig_limbs"] == pytest.approx(steps["source_limbs"], abs=0.1)
    assert set(found["skating_cm_per_second"]) == {"before", "after"}


def test_numbers_do_not_hang_on_the_frame_rate(blend: Any) -> None:
    found = {}
    joints = np.repeat(np.asarray(walk(1), float), 40, 0)
    joints[:, [7, 8], 1], joints[:, [10, 11], 1] = 0.08, 0.02
    joints[..., 0] += 0.03 * np.sin(np.arange(40) / 4)[:, None]  # all of it slides to and fro
    joints[:, 15:, 2] += 0.05 * np.sin(np.arange(40) / 3)[:, None]
    for fps in (20, 30, 60):
        bpy.context.scene.render.fps = fps
        found[fps] = numbers(mixamo(bpy, f"at {fps}"), RAW, count=40, joints=joints)
        bpy.data.actions.remove(bpy.data.actions[0])
    for path in (("skating_cm_per_second", "before"), ("skating_cm_per_second", "after")):
        values = [each[path[0]][path[1]] for each in found.values()]
        assert values[0] is not None
        assert values[1:] == pytest.approx(values[:1] * 2, rel=0.1), path


def test_what_few_keys_cost(blend: Any) -> None:
    found = numbers(mixamo(bpy), Options(pin_feet=False, smooth=False), count=60)
    assert found["keys"]["share"] < 0.4
    assert found["keys"]["cost"]["degrees_most"] < 0.52
    assert found["keys"]["cost"]["millimetres_most"] < 6.0
    assert 0.0 < found["keys"]["cost"]["millimetres_mean"] < 3.0


def test_what_is_spoilt_is_seen(blend: Any) -> None:
    obj = mixamo(bpy)

    def spoil(action: Any) -> None:
        for curve in compat.fcurves_of(action, obj):
            if "LeftLeg" in curve.data_path and curve.array_index == 1:
                for key in curve.keyframe_points:
                    key.co[1] *= -3
                curve.update()
            if "Hips" in curve.data_path and curve.data_path.endswith("location"):
                for key in curve.keyframe_points:
                    key.co[1] *= 0.8
                curve.update()

    found = numbers(obj, RAW, spoil)
    assert found["limb_direction_degrees"]["most"] > 5
    assert found["inverted_knees_and_elbows"] > 3
    assert found["hips_path_percent_of_height"] > 1


def test_on_the_command_line(blend: Any, tmp_path: Path) -> None:
    mixamo(bpy, "knight")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "rig.blend"))
    np.save(tmp_path / "walk.npy", walk(20))
    fit = "--root object --preserve 0.5 --no-pin --no-smooth --limits --controls fk --degrees 1 --millimetres 10"
    files = ["--motion", tmp_path / "walk.npy", "--rig", tmp_path / "rig.blend", "--out", tmp_path / "o.blend"]
    call = ["retarget", *files, "--report", tmp_path / "r.json", *fit.split(), "--action", "replace"]
    assert command.main([str(part) for part in call], standalone=True) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["measured"]["mapped"] == 22
    assert report["found"]["pelvis"]["how"]
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "o.blend"))
    obj = bpy.data.objects["knight"]
    action = compat.assigned_action(obj)[0]
    assert [curve.data_path for curve in compat.fcurves_of(action, obj)].count("location") == 3
    assert command.main([str(part) for part in [*call, "--every-frame", "--preserve", "2"]], standalone=True) == 1
