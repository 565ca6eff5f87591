# SPDX-License-Identifier: GPL-3.0-or-later
"""A part of an Action in another: the keys outside stay to the bit, the rig moves on without a jump."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skeletons import walk

from hero_core.motion import Motion
from hero_core.retarget.options import Options

bpy = pytest.importorskip("bpy")

from characters import mixamo  # noqa: E402

from hero_blender import compat, rigfile, seam, takes  # noqa: E402
from hero_blender.seam import Join  # noqa: E402

Array = npt.NDArray[Any]
COUNT, LEFT, RIGHT, FADE = 60, 25, 45, 5.0
FEW, EVERY = Options(), Options(reduce=False)
INSIDE = slice(LEFT - 10 + 1, RIGHT - 10)  # poses; the first one stands at frame 10


def other_walk() -> Array:
    """Equal outside of the part; inside it walks with other knees and elbows and looks aside."""
    joints, changed = walk(COUNT), walk(COUNT, heading=25.0, bend=0.6)
    joints[INSIDE] = changed[INSIDE] - changed[INSIDE, :1] + joints[INSIDE, :1]
    return joints


def put(obj: Any, joints: Array, options: Options) -> Any:
    bpy.context.scene.render.fps = 20
    motion = Motion(joints[None], None, np.array([len(joints)]))
    return bpy.data.actions[rigfile.retarget_motion(obj, motion, first_frame=10, options=options)["action"]]


def rigify(bpy: Any) -> Any:
    bpy.ops.preferences.addon_enable(module="rigify")
    bpy.ops.object.armature_basic_human_metarig_add()
    meta = bpy.context.object
    bpy.ops.pose.rigify_generate()
    return next(obj for obj in bpy.data.objects if obj.type == "ARMATURE" and obj != meta)


def keys_of(action: Any) -> dict[tuple[str, int], Array]:
    """Curve -> (K, 3, 2) place and handles."""
    found = {}
    for curve in takes.curves(action):
        points = np.empty((3, 2 * len(curve.keyframe_points)), np.float32)
        for row, name in enumerate(("co", "handle_left", "handle_right")):
            curve.keyframe_points.foreach_get(name, points[row])
        found[curve.data_path, curve.array_index] = points.reshape(3, -1, 2).swapaxes(0, 1)
    return found


def shown(obj: Any, action: Any, frames: range, matrices: Any) -> Array:
    compat.assign_action(obj, None)
    compat.assign_action(obj, action)
    found = []
    for frame in frames:
        bpy.context.scene.frame_set(frame)
        found.append([np.array(matrix) for matrix in matrices()])
    return np.array(found)


def poses(obj: Any, action: Any, frames: range) -> Array:
    """(N, B, 4, 4) of all bones but those that only show where a pole is, which are stretched out far."""

    def matrices() -> list[Any]:
        bones = obj.evaluated_get(bpy.context.evaluated_depsgraph_get()).pose.bones
        return [bone.matrix for bone in bones if not bone.name.startswith("VIS_")]

    return shown(obj, action, frames, matrices)


def basis(obj: Any, action: Any, frames: range) -> Array:
    """(N, B, 4, 4) what the keys alone say."""
    return shown(obj, action, frames, lambda: [bone.matrix_basis for bone in obj.pose.bones])


def turns(found: Array) -> Array:
    """(N - 1, B) degrees by which bones turn from frame to frame."""
    rotation = found[..., :3, :3] / np.linalg.norm(found[..., :3, :3], axis=-2, keepdims=True)
    between = np.einsum("nbji,nbjk->nbik", rotation[:-1], rotation[1:])
    return np.degrees(np.arccos(np.clip((np.trace(between, axis1=2, axis2=3) - 1) / 2, -1, 1)))


def outside_is_verbatim(old: dict[Any, Array], new: dict[Any, Array], left: float = LEFT, right: float = RIGHT) -> None:
    for name, keys in old.items():
        for part in ("before", "behind"):
            rows = keys[:, 0, 0] <= left if part == "before" else keys[:, 0, 0] >= right
            mine = keys[rows]
            frames = new[name][:, 0, 0]
            found = new[name][frames <= left + 1e-3 if part == "before" else frames >= right - 1e-3]
            if len(mine) == 0:
                continue
            if part == "before":
                found = found[: len(mine)]
                np.testing.assert_array_equal(found[:, :2], mine[:, :2])  # the last handle ahead is cut
                np.testing.assert_array_equal(found[:-1], mine[:-1])
            else:
                found = found[-len(mine) :]
                if (found[:, 0, 1] == -mine[:, 0, 1]).all():
                    found = found * [1, -1]  # the same rotation
                np.testing.assert_array_equal(found[:, ::2], mine[:, ::2])
                np.testing.assert_array_equal(found[1:], mine[1:])


@pytest.mark.parametrize("options", [FEW, EVERY], ids=["few keys", "every pose"])
@pytest.mark.parametrize("kind", [mixamo, rigify])
def test_outside_all_is_as_it_was_and_nothing_jumps(blend: Any, kind: Any, options: Options) -> None:
    obj = kind(blend)
    old, new = put(obj, walk(COUNT), options), put(obj, other_walk(), options)
    frames = range(8, 74)
    before, fitted, keys = poses(obj, old, frames), poses(obj, new, frames), keys_of(old)
    name = new.name
    made = seam.join(obj, old, new, Join(0, LEFT, RIGHT), FADE)
    assert made.name == name
    assert compat.assigned_action(obj)[0] == made
    assert {action.name for action in bpy.data.actions} == {old.name, name}
    after = poses(obj, made, frames)
    at = np.array(frames)
    outside = (at <= LEFT) | (at >= RIGHT)
    # Straight limbs on IK amplify the last bit of a number.
    np.testing.assert_allclose(after[outside], before[outside], atol=1e-6 if kind is mixamo else 2e-5)
    np.testing.assert_allclose(basis(obj, made, frames)[outside], basis(obj, old, frames)[outside], atol=1e-6)
    assert np.abs(after[~outside] - before[~outside]).max() > 0.05
    middle = (at >= LEFT + 8) & (at <= RIGHT - 8)
    np.testing.assert_allclose(after[middle], fitted[middle], atol=1e-5 if options is EVERY else 0.05)
    outside_is_verbatim(keys, keys_of(made))
    np.testing.assert_array_equal(poses(obj, old, frames), before)
    near = ((at[:-1] >= LEFT - 1) & (at[:-1] <= LEFT + FADE)) | ((at[:-1] >= RIGHT - FADE - 1) & (at[:-1] <= RIGHT))
    allowed = 1.2 * np.maximum(turns(before).max(0), turns(fitted).max(0)) + 0.5
    assert (turns(after)[near].max(0) <= allowed).all()


def test_keys_set_by_hand_survive(blend: Any) -> None:
    obj = mixamo(blend)
    old, new = put(obj, walk(COUNT), FEW), put(obj, other_walk(), FEW)
    arm = 'pose.bones["mixamorig:LeftArm"].rotation_quaternion'
    curves = {(curve.data_path, curve.array_index): curve for curve in takes.curves(old)}
    for index in range(4):
        key = curves[arm, index].keyframe_points.insert(18.5, 0.3 + 0.1 * index)
        key.handle_left_type = key.handle_right_type = "VECTOR"
        key.interpolation, key.type = "BEZIER", "EXTREME"
        late = curves[arm, index].keyframe_points.insert(55, 0.5)
        late.interpolation, late.easing, late.amplitude, late.period = "ELASTIC", "EASE_OUT", 0.3, 7.0
    extra = compat.new_fcurve(compat.place_of(old, obj), 'pose.bones["mixamorig:Head"].scale', 1, "mixamorig:Head")
    for frame, value in ((12, 1.0), (35, 1.5), (60, 0.8)):
        extra.keyframe_points.insert(frame, value)
    curves[arm, 0].modifiers.new("NOISE").strength = 0.05
    frames = range(8, 74)
    before, keys = poses(obj, old, frames), keys_of(old)
    made = seam.join(obj, old, new, Join(0, LEFT, RIGHT), FADE)
    at = np.array(frames)
    outside = (at <= LEFT) | (at >= RIGHT)
    np.testing.assert_allclose(poses(obj, made, frames)[outside], before[outside], atol=1e-6)
    outside_is_verbatim(keys, keys_of(made))
    np.testing.assert_array_equal(keys_of(made)[extra.data_path, 1], keys[extra.data_path, 1])
    found = {(curve.data_path, curve.array_index): curve for curve in takes.curves(made)}[arm, 2]
    (mine,) = [key for key in found.keyframe_points if key.co[0] == 18.5]
    assert (mine.type, mine.handle_left_type) == ("EXTREME", "VECTOR")
    (late,) = [key for key in found.keyframe_points if key.co[0] == 55]
    assert (late.interpolation, late.easing) == ("ELASTIC", "EASE_OUT")
    assert (late.amplitude, late.period) == pytest.approx((0.3, 7.0))


def test_all_channels_of_a_bone_stay_on_the_same_frames(blend: Any) -> None:
    obj = mixamo(blend)
    old, new = put(obj, walk(COUNT), FEW), put(obj, other_walk(), FEW)
    made = seam.join(obj, old, new, Join(0, LEFT, RIGHT), FADE)
    frames: dict[str, set[tuple[float, ...]]] = {}
    for (path, _), keys in keys_of(made).items():
        frames.setdefault(path.rpartition(".")[0], set()).add(tuple(np.round(keys[:, 0, 0], 3)))
    assert all(len(each) == 1 for each in frames.values())


@pytest.mark.parametrize("mode", ["XYZ", "ZXY", "QUATERNION", "AXIS_ANGLE"])
def test_rotations_are_written_as_they_were(blend: Any, mode: str) -> None:
    """The old ones with other signs or turns: the limbs must not spin on the way to them."""
    obj = mixamo(blend)
    for bone in obj.pose.bones:
        bone.rotation_mode = mode
    old, new = put(obj, walk(COUNT), EVERY), put(obj, other_walk(), EVERY)
    frames = range(8, 74)
    fitted = poses(obj, new, frames)
    for curve in takes.curves(old):
        channel = curve.data_path.rpartition(".")[2]
        for key in curve.keyframe_points:
            late = key.co[0] > 35  # where nothing of it is seen: inside the part
            if channel == "rotation_euler":
                value = key.co[1] + (4 * math.pi if late else 2 * math.pi)
                key.co[1] = value if curve.array_index == 0 else key.co[1]
            elif channel.startswith("rotation") and not late:
                key.co[1] = -key.co[1]
        curve.update()
    before = poses(obj, old, frames)
    made = seam.join(obj, old, new, Join(0, LEFT, RIGHT), FADE)
    after, at = poses(obj, made, frames), np.array(frames)
    outside = (at <= LEFT) | (at >= RIGHT)
    np.testing.assert_allclose(after[outside], before[outside], atol=2e-6)
    inside = (at[:-1] >= LEFT) & (at[:-1] < RIGHT)
    assert (turns(after)[inside].max(0) <= 1.2 * turns(fitted).max(0) + 1.5).all()


def test_one_border_alone(blend: Any) -> None:
    obj = mixamo(blend)
    frames = range(8, 74)
    at = np.array(frames)
    for where in (Join(0, LEFT, None), Join(0, None, RIGHT)):
        old, new = put(obj, walk(COUNT), FEW), put(obj, other_walk(), FEW)
        before, fitted = poses(obj, old, frames), poses(obj, new, frames)
        after = poses(obj, seam.join(obj, old, new, where, FADE), frames)
        stays = at <= LEFT if where.right is None else at >= RIGHT
        is_new = at > LEFT + 12 if where.right is None else at < RIGHT - 12
        np.testing.assert_allclose(after[stays], before[stays], atol=1e-6)
        np.testing.assert_allclose(after[is_new], fitted[is_new], atol=1e-5)


def test_more_at_the_end(blend: Any) -> None:
    obj = mixamo(blend)
    longer = walk(COUNT + 20)
    old, new = put(obj, longer[:COUNT], FEW), put(obj, longer, FEW)
    before, frames = poses(obj, old, range(8, 70)), range(8, 94)
    keys = keys_of(old)
    made = seam.join(obj, old, new, Join(0, 10 + COUNT - 1, None), FADE)
    np.testing.assert_allclose(poses(obj, made, frames)[: len(before)], before, atol=1e-6)
    outside_is_verbatim(keys, keys_of(made), 10 + COUNT - 1, 1e6)
    assert made.frame_range[1] == 10 + COUNT + 20 - 1


def test_properties_switch_and_come_back(blend: Any) -> None:
    obj = mixamo(blend)
    bone = obj.pose.bones["mixamorig:Head"]
    bone["ik"] = 0.0
    path = 'pose.bones["mixamorig:Head"]["ik"]'
    old, new = put(obj, walk(COUNT), FEW), put(obj, other_walk(), FEW)
    for action, values in ((old, ((10, 0.25), (50, 0.75))), (new, ((10, 1.0),))):
        curve = compat.new_fcurve(compat.place_of(action, obj), path, 0, "mixamorig:Head")
        for frame, value in values:
            curve.keyframe_points.insert(frame, value).interpolation = "LINEAR"
    made = seam.join(obj, old, new, Join(0, LEFT, RIGHT), FADE)
    curve = next(curve for curve in takes.curves(made) if curve.data_path == path)
    found = [round(curve.evaluate(frame), 4) for frame in (10, 20, 25, 26, 35, 44, 45, 50, 60)]
    line = [round(0.25 + 0.5 * (frame - 10) / 40, 4) for frame in (10, 20, 25, 45)]
    assert found == [*line[:3], 1.0, 1.0, 1.0, line[3], 0.75, 0.75]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_cut_curve_has_the_same_shape(blend: Any, data: st.DataObject) -> None:
    """Any handles, also such that overlap, and any place for the cut, also outside of the keys."""
    action = bpy.data.actions.new("shape")
    curve = compat.new_fcurve(compat.new_action("a", bpy.data.objects.new("o", None))[1], "location", 0, "g")
    frames = sorted(data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=6, unique=True)))
    straight = data.draw(st.booleans())  # outside of the keys; other curves are keyed densely, which ends that
    curve.extrapolation = "LINEAR" if straight else "CONSTANT"
    kinds = ["BEZIER", "LINEAR", "CONSTANT"] if straight else ["BEZIER", "SINE", "BOUNCE"]
    longest = 0.3 if straight else 30.0
    value = st.floats(-5, 5, width=32)
    for frame in frames:
        key = curve.keyframe_points.insert(frame, data.draw(value))
        key.interpolation = data.draw(st.sampled_from(kinds))
        key.handle_left_type = key.handle_right_type = data.draw(st.sampled_from(["FREE", "AUTO_CLAMPED", "VECTOR"]))
    for key in curve.keyframe_points:
        if key.handle_left_type == "FREE":
            key.handle_left = key.co[0] - data.draw(st.floats(0.1, longest)), data.draw(value)
            key.handle_right = key.co[0] + data.draw(st.floats(0.1, longest)), data.draw(value)
    curve.update()
    whole = np.arange(-10, 71)
    before = np.array([curve.evaluate(float(frame)) for frame in whole])
    at = float(data.draw(st.integers(-5, 65)))
    left, right = seam._cut(seam._kept(seam._read(curve)), at, curve)
    seam._write(curve, seam._chain_at(left, right))
    after = np.array([curve.evaluate(float(frame)) for frame in whole])
    bpy.data.actions.remove(action)
    np.testing.assert_allclose(after, before, atol=2e-4 + 1e-5 * np.abs(before).max())
