# SPDX-License-Identifier: GPL-3.0-or-later
"""The place where the character is seen: materials, a floor with a grid, lights, a camera that holds the motion."""

from __future__ import annotations

import math
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt
from mathutils import Matrix, Vector

Array = npt.NDArray[np.float64]

CLAY = (0.42, 0.385, 0.35, 1.0)
ACCENT = (0.95, 0.22, 0.02, 1.0)
FLOOR = (0.105, 0.115, 0.13, 1.0)
LINES = (0.30, 0.33, 0.37, 1.0)
SKY = (0.055, 0.062, 0.075, 1.0)
VIEW = math.radians(28.0)  # the camera stands this far to the character's left of its front


def _material(name: str, colour: tuple[float, ...], roughness: float) -> tuple[Any, Any, Any]:
    """Material, its node tree, and its surface shader."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    material.diffuse_color = colour
    material.roughness = roughness
    tree = material.node_tree
    shader = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Base Color"].default_value = colour
    shader.inputs["Roughness"].default_value = roughness
    return material, tree, shader


def _math(tree: Any, operation: str, *inputs: Any) -> Any:
    """Output of a Math node; an input is a number or the output of another node."""
    node = tree.nodes.new("ShaderNodeMath")
    node.operation = operation
    for socket, value in zip(node.inputs, inputs, strict=False):
        if isinstance(value, (int, float)):
            socket.default_value = value
        else:
            tree.links.new(value, socket)
    return node.outputs[0]


def _blend(tree: Any, factor: Any, first: tuple[float, ...], second: tuple[float, ...], target: Any) -> None:
    node = tree.nodes.new("ShaderNodeMix")
    node.data_type = "RGBA"
    node.inputs["A"].default_value = first
    node.inputs["B"].default_value = second
    tree.links.new(factor, node.inputs["Factor"])
    tree.links.new(node.outputs["Result"], target)


def paint(skin: Any) -> None:
    """Clay with the accent colour where the mesh attribute of that name is positive."""
    material, tree, shader = _material("Clay", CLAY, 0.55)
    attribute = tree.nodes.new("ShaderNodeAttribute")
    attribute.attribute_name = "accent"
    _blend(tree, _math(tree, "GREATER_THAN", attribute.outputs["Fac"], 0.0), CLAY, ACCENT, shader.inputs["Base Color"])
    skin.data.materials.append(material)


def floor(scene: Any, centre: Array) -> Any:
    """A wide plane at z = 0 with a line every metre, in the colour of the sky so that it has no edge."""
    mesh = bpy.data.meshes.new("Floor")
    size = 60.0
    mesh.from_pydata([(-size, -size, 0), (size, -size, 0), (size, size, 0), (-size, size, 0)], [], [(0, 1, 2, 3)])
    material, tree, shader = _material("Floor", FLOOR, 0.9)
    place = tree.nodes.new("ShaderNodeNewGeometry").outputs["Position"]
    split = tree.nodes.new("ShaderNodeSeparateXYZ")
    tree.links.new(place, split.inputs[0])
    near = []
    for axis in ("X", "Y"):
        # distance to the nearest whole metre
        whole = _math(tree, "PINGPONG", split.outputs[axis], 0.5)
        near.append(_math(tree, "LESS_THAN", whole, 0.006))
    line = _math(tree, "MAXIMUM", *near)
    # The grid fades with the distance, where its lines would only flicker.
    away = _math(tree, "POWER", split.outputs["X"], 2.0)
    away = _math(tree, "ADD", away, _math(tree, "POWER", split.outputs["Y"], 2.0))
    fade = _math(tree, "EXPONENT", _math(tree, "MULTIPLY", away, -0.03))
    _blend(tree, _math(tree, "MULTIPLY", line, fade), FLOOR, LINES, shader.inputs["Base Color"])
    haze, mix = tree.nodes.new("ShaderNodeEmission"), tree.nodes.new("ShaderNodeMixShader")
    haze.inputs["Color"].default_value = SKY
    output = next(node for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
    tree.links.new(fade, mix.inputs[0])
    tree.links.new(haze.outputs[0], mix.inputs[1])
    tree.links.new(shader.outputs[0], mix.inputs[2])
    tree.links.new(mix.outputs[0], output.inputs["Surface"])
    mesh.materials.append(material)
    plane = bpy.data.objects.new("Floor", mesh)
    plane.location = (round(float(centre[0])), round(float(centre[1])), 0.0)
    scene.collection.objects.link(plane)
    return plane


def lights(scene: Any, centre: Array) -> None:
    """A warm key from the front, a weak fill, a cool rim from behind; nearly black sky."""
    for name, place, watt, size, colour in (
        ("Key", (3.2, -2.6, 3.9), 400.0, 0.7, (1.0, 0.95, 0.88)),
        ("Fill", (-4.0, -2.4, 2.2), 40.0, 3.0, (0.80, 0.90, 1.0)),
        ("Rim", (-1.6, 3.8, 3.6), 330.0, 1.2, (0.85, 0.93, 1.0)),
    ):
        data = bpy.data.lights.new(name, "AREA")
        data.energy, data.size, data.color = watt, size, colour
        lamp = bpy.data.objects.new(name, data)
        lamp.location = Vector(place) + Vector((centre[0], centre[1], 0.0))
        aim = Vector((centre[0], centre[1], 1.0)) - lamp.location
        lamp.rotation_euler = aim.to_track_quat("-Z", "Y").to_euler()
        scene.collection.objects.link(lamp)
    world = bpy.data.worlds.new("Sky")
    world.use_nodes = True
    shader = next(node for node in world.node_tree.nodes if node.type == "BACKGROUND")
    shader.inputs["Color"].default_value = SKY
    scene.world = world


def camera(scene: Any, points: Array, aspect: float) -> Any:
    """A camera from the front left that sees every point of (P, 3); it does not move, so the motion is seen to move."""
    data = bpy.data.cameras.new("Camera")
    data.lens, data.sensor_fit, data.sensor_width = 50.0, "HORIZONTAL", 36.0
    eye = bpy.data.objects.new("Camera", data)
    scene.collection.objects.link(eye)
    scene.camera = eye
    back = Vector((math.sin(VIEW), -math.cos(VIEW), 0.16)).normalized()
    turn = back.to_track_quat("Z", "Y").to_matrix()
    local = points @ np.array(turn)  # (P, 3) in the camera's axes: right, up, back
    half_x = 0.5 * data.sensor_width / data.lens
    half_y = half_x / aspect
    # For each side the frame needs |x| <= half_x * (distance - depth); solve for centre and distance of both axes.
    need = []
    mid = []
    for axis, half in ((0, half_x), (1, half_y)):
        high = (local[:, axis] + half * local[:, 2]).max()
        low = (-local[:, axis] + half * local[:, 2]).max()
        need.append((high + low) / (2.0 * half))
        mid.append((high - low) / 2.0)
    spot = Vector((mid[0], mid[1], max(need)))
    eye.matrix_world = Matrix.Translation(turn @ spot) @ turn.to_4x4()
    data.clip_end = 200.0
    return eye


def path_of(rig: Any, scene: Any, frames: range) -> Array:
    """(P, 3) world places of the deform bones' ends over the frames, with room for the flesh around them."""
    bones = [bone for bone in rig.pose.bones if bone.bone.use_deform]
    places = []
    for frame in frames:
        scene.frame_set(frame)
        world = rig.matrix_world
        places += [world @ end for bone in bones for end in (bone.head, bone.tail)]
    found = np.array(places)  # (P, 3)
    room = np.array([(x, y, z) for x in (-0.12, 0.12) for y in (-0.12, 0.12) for z in (-0.05, 0.12)])
    out: Array = (found[:, None] + room[None]).reshape(-1, 3)
    return out
