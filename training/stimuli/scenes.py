# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the script of one clip: who and what moves, where, seen by which eyes, and the reactions that fit. numpy only.

The reactor stands at the origin and faces +Z; metres, Y up. Everything random comes from the generator of the clip.
"""

from __future__ import annotations

import numpy as np

from training.stimuli.actor import Mesh
from training.stimuli.catalogue import REACTIONS, STIMULI
from training.stimuli.dataset import FRAMES
from training.stimuli.people import attack, gesture, pass_by, reach, salsa, walk_up
from training.stimuli.reactions import available, reactions
from training.stimuli.scene import Array, Library, Scene, picture_times
from training.stimuli.things import ball, box, color, creature, explosion, lone_ball, merge, throw, vehicle

CLOSE = ("approach", "chat", "wave", "hand_out", "bow", "cheer", "pass_by")  # people who mean no harm


def ground(rng: np.random.Generator, road: bool) -> Mesh:
    """A floor whose pattern lets one see motion: grass, asphalt, tiles, planks, carpet."""
    cell = 0.4
    xs, zs = np.arange(-16, 16.1, cell), np.arange(-4, 34.1, cell)
    x, z = np.meshgrid(xs, zs, indexing="ij")
    base = color(rng, 0.2, 0.75) if not road else np.full(3, rng.uniform(0.25, 0.45))
    base = base.mean() + 0.6 * (base - base.mean())
    kind = rng.choice(["noise", "tiles", "planks"])
    tone = rng.normal(0, 0.06, x.shape)
    if kind == "tiles":
        step = rng.integers(1, 4)
        tone = tone * 0.3 + 0.12 * (
            ((np.arange(len(xs))[:, None] // step + np.arange(len(zs))[None] // step) % 2) - 0.5
        )
    elif kind == "planks":
        tone = tone * 0.3 + rng.normal(0, 0.08, (len(xs), 1))
    colors = np.clip(base + tone[..., None], 0, 1).reshape(-1, 3)
    verts = np.stack([x, np.zeros_like(x), z], -1).reshape(1, -1, 3)
    n = len(zs)
    faces: list[tuple[int, ...]] = [
        (i * n + j, i * n + j + 1, (i + 1) * n + j + 1, (i + 1) * n + j)
        for i in range(len(xs) - 1)
        for j in range(n - 1)
    ]
    return Mesh(verts, faces, colors)


def surroundings(scene: Scene, rng: np.random.Generator, outdoors: bool, road: bool) -> None:
    """Floor, sky and what stands around: a room with furniture, or houses, trees and posts."""
    scene.meshes.append(ground(rng, road))
    day = np.array([[0.35, 0.55, 0.85], [0.75, 0.85, 0.95]])
    scene.sky = np.clip(day * rng.uniform(0.5, 1.1) + rng.normal(0, 0.08, (2, 3)), 0, 1)
    things: list[Mesh] = []
    if outdoors:
        for _ in range(rng.integers(2, 9)):
            x = rng.choice([-1, 1]) * rng.uniform(4.0 if not road else 6.0, 15)
            z, tall = rng.uniform(3, 32), rng.uniform(2.5, 11)
            things.append(
                box(
                    (rng.uniform(3, 8), tall, rng.uniform(3, 8)),
                    (x + np.sign(x) * 3, tall / 2, z),
                    color(rng, 0.2, 0.9),
                )
            )
        for _ in range(rng.integers(0, 9)):
            x, z, tall = (
                rng.choice([-1, 1]) * rng.uniform(2.6 if not road else 4, 12),
                rng.uniform(3, 26),
                rng.uniform(1.5, 5),
            )
            things.append(box((0.18, tall, 0.18), (x, tall / 2, z), np.array([0.32, 0.23, 0.16])))
            if rng.random() < 0.75:
                crown = ball(rng.uniform(0.6, 1.6), (x, tall, z), np.array([0.2, 0.4, 0.15]) * rng.uniform(0.5, 1.5), 7)
                crown.verts = crown.verts + rng.normal(0, 0.1, crown.verts.shape)
                things.append(crown)
        if rng.random() < 0.5:  # what closes the view
            things.append(box((60, rng.uniform(1, 9), 0.2), (0, 1.5, 33.5), color(rng, 0.15, 0.6)))
        if road:
            things += [
                box((0.14, 0.01, 1.6), (rng.uniform(1.2, 2.2), 0.006, z), np.full(3, 0.9))
                for z in np.arange(1, 32, 4.0)
            ]
            things += [
                box((2.5, 0.14, 40), (s * rng.uniform(4, 5), 0.07, 15), np.full(3, rng.uniform(0.45, 0.7)))
                for s in (-1, 1)
            ]
    else:
        wide, deep, tall = rng.uniform(2.5, 6), rng.uniform(6.5, 13), rng.uniform(2.5, 3.6)
        wall = color(rng, 0.4, 0.95)
        things += [
            box((2 * wide, tall, 0.1), (0, tall / 2, deep), wall),
            box((0.1, tall, deep + 4), (-wide, tall / 2, deep / 2 - 2), wall * rng.uniform(0.85, 1)),
            box((0.1, tall, deep + 4), (wide, tall / 2, deep / 2 - 2), wall * rng.uniform(0.85, 1)),
            box((2 * wide, 0.1, deep + 4), (0, tall, deep / 2 - 2), np.full(3, rng.uniform(0.7, 0.95))),
        ]
        for i in range(rng.integers(2, 9)):  # pictures, windows, doors
            size = rng.uniform(0.4, 1.6, 2)
            at = (rng.uniform(-wide + 0.8, wide - 0.8), rng.uniform(0.9, 2.0), deep - 0.06 - 0.01 * i)
            things.append(box((size[0], size[1], 0.04), at, color(rng)))
        for _ in range(rng.integers(1, 7)):  # furniture
            s = rng.uniform(0.3, 1.3, 3) * (1, 1, 1)
            x = rng.choice([-1, 1]) * rng.uniform(1.4, wide - 0.2)
            things.append(box(tuple(s), (x, s[1] / 2, rng.uniform(1.5, deep - 0.5)), color(rng, 0.1, 0.8)))
    scene.meshes.append(merge(things))


def eyes(scene: Scene, rng: np.random.Generator, focus: Array, tracking: float) -> None:
    """Aim the eyes: they follow ``focus`` (T, 3) with a weight of ``tracking``, and shake like a hand or a head."""
    steady = focus.mean(0) * 0.5 + focus[0] * 0.5
    scene.look = focus * tracking + steady * (1 - tracking)
    t = scene.times[:, None]
    wave = sum(np.sin(t * rng.uniform(1, 9, 3) + rng.uniform(0, 6.3, 3)) for _ in range(3)) / 3
    shake = rng.gamma(2.0, 0.6)  # 0 = a tripod, 1 = a hand, 4 = a startled person
    scene.eye = scene.eye + wave * 0.008 * shake
    reach = np.linalg.norm(scene.look - scene.eye, axis=-1, keepdims=True)
    wave = sum(np.sin(t * rng.uniform(1, 9, 3) + rng.uniform(0, 6.3, 3)) for _ in range(3)) / 3
    jolt = np.exp(-np.maximum(scene.times - scene.event, 0) * 6) * (scene.times >= scene.event) * rng.uniform(0, 1)
    scene.look = (
        scene.look
        + reach * 0.012 * shake * wave
        + reach * 0.06 * jolt[:, None] * rng.normal(0, 1, (FRAMES, 3)) * (shake > 1.5)
    )
    scene.roll = np.radians(rng.normal(0, 1.5) + 0.6 * shake * np.sin(scene.times * rng.uniform(1, 4)))


def quiet(scene: Scene, rng: np.random.Generator) -> Array:
    """Nobody there: eyes that rest, or wander a little."""
    scene.seconds = float(rng.uniform(1.5, 5.0))
    scene.times = picture_times(scene.seconds)
    ahead = np.array([rng.normal(0, 1.5), rng.uniform(0.6, 1.7), rng.uniform(4, 12)])
    drift = rng.normal(0, 0.4, 3) * (rng.random() < 0.5)
    return ahead + (scene.times / scene.seconds)[:, None] * drift


def write(lib: Library, cls: str, split: str, rng: np.random.Generator) -> Scene | None:
    """The script of one clip of a class, or None where the split has no recording for it."""
    stim, m = STIMULI[cls], lib.motions
    scene = Scene(2.0, picture_times(2.0))
    scene.flip = bool(rng.random() < 0.5)
    for needed in (stim.walks, stim.actions):
        if needed and not available(m, needed, split):
            return None
    if stim.reactions and not any(available(m, REACTIONS[k], split) for k in stim.reactions):
        return None
    height = rng.uniform(1.48, 1.74) if rng.random() < 0.9 else rng.uniform(1.05, 1.35)
    scene.eye = np.tile([0.0, height, 0.0], (FRAMES, 1))
    tracking = rng.uniform(0.3, 1.0)
    if stim.mood:
        focus = walk_up(lib, scene, rng, stim, split)
        focus = focus + (0, rng.uniform(0.15, 0.5), 0)
    elif cls in ("push", "hand_out"):
        focus = reach(lib, scene, rng, cls, split) + (0, rng.uniform(0.2, 0.45), 0)
    elif cls in ("punch", "kick"):
        focus = attack(lib, scene, rng, cls, split) + (0, rng.uniform(0.2, 0.5), 0)
    elif cls == "pass_by":
        focus = pass_by(lib, scene, rng, stim, split) + (0, 0.3, 0)
    elif cls == "salsa":
        focus, tracking = salsa(lib, scene, rng, split) + (0, 0.3, 0), 1.0
    elif cls == "throw":
        focus = throw(lib, scene, rng, stim, split) + (0, 0.3, 0)
    elif cls == "ball":
        focus = lone_ball(scene, rng)
    elif cls.startswith("creature"):
        focus = creature(lib, scene, rng, cls == "creature_calm")
    elif cls == "vehicle":
        focus = vehicle(scene, rng)
    elif cls == "explosion":
        focus = explosion(scene, rng)
    elif cls == "quiet":
        focus = quiet(scene, rng)
    else:
        focus = gesture(lib, scene, rng, stim, split) + (0, rng.uniform(0.1, 0.4), 0)
    if stim.reactions:
        # Their own generator: other reactions may be chosen for the same picture.
        scene.reactions = reactions(m, split, stim, scene.event, np.random.default_rng(rng.integers(2**63)))
    outside = 0.5 if cls == "quiet" else {"animal": 0.75, "scene": 0.85, "human": 0.4}[stim.broad]
    outdoors = bool(rng.random() < outside) or cls in (
        "vehicle",
        "explosion",
        "ball",
    )
    if lib.photos:
        pool = lib.photos["train" if split == "train" else "held out"]
        scene.photo = pool[rng.integers(len(pool))]
    else:
        surroundings(scene, rng, outdoors, cls == "vehicle")
    eyes(scene, rng, focus, tracking)
    scene.aspect = float(rng.choice([16 / 9, 4 / 3, 1.0, 9 / 16], p=[0.5, 0.2, 0.2, 0.1]))
    scene.fov = rng.uniform(58, 88) if scene.aspect >= 1 else rng.uniform(45, 60)
    if cls == "salsa":
        scene.fov += 8
    if lib.wardrobe is not None and cls.startswith(CLOSE) and rng.random() < 0.6:
        # Films show people closer than eyes do: a longer lens, at breast or face.
        scene.fov *= rng.uniform(0.25 if cls == "chat" else 0.45, 0.8)
        scene.look = scene.look + (0, rng.uniform(0.05, 0.3), 0)
    scene.light = {
        "studio": str(
            rng.choice(
                ["Default", "outdoor.sl", "basic.sl", "studio.sl", "paint.sl", "rim.sl"],
                p=[0.35, 0.2, 0.15, 0.15, 0.1, 0.05],
            )
        ),
        "direction": [float(v) for v in (rng.normal(0, 0.5), rng.normal(0, 0.4), rng.uniform(0.5, 1.2))],
        "shadows": bool(rng.random() < 0.35),
        "cavity": bool(rng.random() < 0.3),
    }
    scene.look_grade = {
        "exposure": float(np.clip(rng.normal(0.45, 0.08), 0.28, 0.65)),
        "gamma": float(np.exp(rng.normal(0, 0.15))),
        "white": [float(v) for v in np.exp(rng.normal(0, 0.06, 3))],
        "noise": float(rng.gamma(1.5, 1.2)),
        "blur": float(rng.choice([0.0, 0.6, 1.2], p=[0.6, 0.25, 0.15])),
        "contrast": float(np.exp(rng.normal(0, 0.12))),
    }
    return scene
