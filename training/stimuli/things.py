# SPDX-License-Identifier: GPL-3.0-or-later
"""Things and beasts that come at the reactor: balls, vehicles, creatures, explosions. numpy only.

Every scene function adds its meshes to the scene, sets its duration and when it happens, and returns what the eyes
follow, (T, 3). The reactor stands at the origin and faces +Z; everything random comes from the generator of the clip.
"""

from __future__ import annotations

import numpy as np

from training.stimuli.actor import Mesh
from training.stimuli.catalogue import Stimulus
from training.stimuli.dataset import FRAMES, yaw_matrix
from training.stimuli.people import person, pick, play, stage
from training.stimuli.reactions import available, part
from training.stimuli.scene import FPS, Array, Library, Scene, at_times, picture_times


def box(size: tuple[float, float, float], at: tuple[float, float, float], color: Array) -> Mesh:
    """A box of full sizes ``size`` around ``at``."""
    corner = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return Mesh((corner * size + at)[None], faces, np.tile(color, (8, 1)))


def ball(radius: float, at: tuple[float, float, float], color: Array, rings: int = 10) -> Mesh:
    """A sphere."""
    a, b = np.meshgrid(
        np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False), indexing="ij"
    )
    verts = np.stack([np.sin(a) * np.cos(b), np.cos(a), np.sin(a) * np.sin(b)], -1).reshape(-1, 3)
    n = 2 * rings
    faces = [
        (i * n + j, i * n + (j + 1) % n, (i + 1) * n + (j + 1) % n, (i + 1) * n + j)
        for i in range(rings)
        for j in range(n)
    ]
    return Mesh((verts * radius + at)[None], faces, np.tile(color, (len(verts), 1)), smooth=True)


def wheel(radius: float, width: float, at: tuple[float, float, float]) -> Mesh:
    """A tyre that stands along Z."""
    a = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    rim = np.stack([np.zeros(20), np.cos(a) * radius, np.sin(a) * radius], -1)
    verts = np.concatenate([rim - (width / 2, 0, 0), rim + (width / 2, 0, 0)])
    faces: list[tuple[int, ...]] = [(i, (i + 1) % 20, 20 + (i + 1) % 20, 20 + i) for i in range(20)]
    faces += [tuple(range(20)), tuple(range(39, 19, -1))]
    return Mesh((verts + at)[None], faces, np.full((40, 3), 0.07))


def merge(meshes: list[Mesh]) -> Mesh:
    """Several meshes as one."""
    steps = max(len(m.verts) for m in meshes)
    faces, base = [], 0
    for m in meshes:
        faces += [tuple(v + base for v in f) for f in m.faces]
        base += m.verts.shape[1]
    verts = np.concatenate([np.broadcast_to(m.verts, (steps, *m.verts.shape[1:])) for m in meshes], 1)
    return Mesh(verts, faces, np.concatenate([m.colors for m in meshes]))


def moved(mesh: Mesh, path: Array, yaw: float = 0.0, scale: Array | float = 1.0) -> Mesh:
    """A mesh carried along a path (T, 3), turned and scaled (number or (T,))."""
    scale = np.reshape(scale, (-1, 1, 1)) if np.ndim(scale) else scale
    return Mesh((mesh.verts @ yaw_matrix(yaw).T) * scale + path[:, None], mesh.faces, mesh.colors, mesh.smooth)


def color(rng: np.random.Generator, low: float = 0.05, high: float = 0.95) -> Array:
    """Some colour, more often a quiet one."""
    c = rng.uniform(low, high, 3)
    return c.mean() + (c - c.mean()) * rng.choice([0.2, 0.6, 1.0])


def thrown_ball(
    scene: Scene, rng: np.random.Generator, start: Array, leave: float, speed: float, held: Array | None = None
) -> Array:
    """A ball flies from ``start`` at time ``leave`` to just beside the eyes and past them. Returns its path (T, 3)."""
    goal = np.array([rng.normal(0, 0.1), scene.eye[0, 1] + rng.normal(-0.12, 0.12), 0.15])
    flight = float(np.linalg.norm(goal - start)) / speed
    u = (scene.times - leave) / flight
    path = start + (goal - start) * np.clip(u, 0, 1.6)[:, None]
    path[:, 1] += 4 * flight**2 * 9.81 / 8 * np.clip(u, 0, 1) * (1 - np.clip(u, 0, 1))
    if held is not None:
        path = np.where((u < 0)[:, None], held, path)
    sphere = ball(rng.uniform(0.09, 0.22), (0, 0, 0), color(rng, 0.2))
    if rng.random() < 0.6:
        sphere.colors[np.sin(np.arange(len(sphere.colors)) * rng.uniform(0.2, 1.5)) > 0.2] = color(rng)
    scene.meshes.append(moved(sphere, path))
    scene.event = leave + flight
    return path


def throw(lib: Library, scene: Scene, rng: np.random.Generator, stim: Stimulus, split: str) -> Array:
    """Somebody throws a ball at the reactor."""
    m = lib.motions
    source = pick(rng, available(m, stim.actions, split))
    joints = play(m, [part(m, source)], scene)
    wrist_speed = np.linalg.norm(np.diff(joints[:, [20, 21]], axis=0), axis=-1)  # (N - 1, 2)
    hand = int(wrist_speed.max(0).argmax())
    leave = int(wrist_speed[:, hand].argmax()) + 1
    far = rng.uniform(2.2, 5.0)
    joints = stage(joints, 0, (rng.normal(0, 0.4), far), np.pi + rng.normal(0, 0.1))
    pace = rng.uniform(0.9, 1.3)
    ball_speed = rng.uniform(5, 11)
    scene.seconds = float(leave / FPS / pace + far / ball_speed + rng.uniform(0.1, 0.5))
    scene.times = picture_times(scene.seconds)
    hips = person(lib, scene, rng, joints, pace, "calm")
    held = at_times(joints, scene.times * pace)[:, 20 + hand]
    thrown_ball(scene, rng, joints[leave, 20 + hand], leave / FPS / pace, ball_speed, held)
    return hips


def lone_ball(scene: Scene, rng: np.random.Generator) -> Array:
    """A ball comes flying out of the distance."""
    leave, speed, far = rng.uniform(0.0, 0.4), rng.uniform(6, 12), rng.uniform(4, 9)
    scene.seconds = float(leave + far / speed + rng.uniform(0.1, 0.4))
    scene.times = picture_times(scene.seconds)
    path = thrown_ball(scene, rng, np.array([rng.normal(0, 1.5), rng.uniform(0.3, 1.8), far]), leave, speed)
    return path * 0.4 + np.array([0, 0.6 * path[:, 1].mean(), 0.6 * far])


def creature(lib: Library, scene: Scene, rng: np.random.Generator, calm: bool) -> Array:
    """A beast walks up, or a big one charges; now and then it is a bird."""
    kind = "bird" if rng.random() < 0.2 else "beast"
    cycle = lib.creatures[kind]
    mesh = Mesh(cycle.verts, cycle.faces, cycle.colors.copy())
    if rng.random() < 0.75:  # another coat: tan, brown, grey, black, white or odd, perhaps with stripes or spots
        coats = (
            (0.72, 0.53, 0.3),
            (0.45, 0.28, 0.15),
            (0.5, 0.5, 0.48),
            (0.12, 0.11, 0.11),
            (0.85, 0.83, 0.8),
            (0.85, 0.45, 0.12),
        )
        coat = np.array(coats[rng.integers(len(coats))]) * rng.uniform(0.8, 1.15) if rng.random() < 0.9 else color(rng)
        tone = mesh.colors.mean(1, keepdims=True)
        mesh.colors = np.clip(coat * (0.55 + 0.9 * tone / max(tone.mean() * 2, 1e-3)), 0, 1)
        rest = mesh.verts[0]
        pattern = rng.random()
        if pattern < 0.25:
            mesh.colors[np.sin(rest[:, 2] / np.ptp(rest[:, 2]) * rng.uniform(40, 80)) > 0.4] *= 0.3
        elif pattern < 0.45:
            mesh.colors[np.sin(rest @ rng.normal(0, 12, 3)) * np.sin(rest @ rng.normal(0, 12, 3)) > 0.35] *= 0.35
    height = rng.uniform(0.4, 0.9) if calm else rng.uniform(0.8, 2.3)
    if kind == "bird":
        height *= 0.6
    size = height / np.ptp(mesh.verts[0, :, 1])
    stretch = np.array([rng.uniform(1.3, 2.4) if kind == "beast" else 1.0, 1.0, rng.uniform(0.8, 1.05)])
    speed = rng.uniform(0.4, 1.1) if calm else rng.uniform(3.5, 8.0)
    far, near = (rng.uniform(2.2, 4.0), rng.uniform(0.7, 1.2)) if calm else (rng.uniform(6, 13), rng.uniform(-0.2, 0.6))
    near += 0.5 * np.ptp(mesh.verts[0, :, 2]) * size  # the path is of the body's middle
    start = 0.0 if calm else rng.uniform(0.0, 0.7)
    scene.event = start + (far - near) / speed * (0.4 if calm else 0.85)
    scene.seconds = float(np.clip(start + (far - near) / speed + rng.uniform(0.0, 0.5 if not calm else 1.0), 1.2, 6.0))
    scene.times = picture_times(scene.seconds)
    gone = np.clip((scene.times - start) * speed, 0, far - near)
    side = rng.normal(0, 0.8)
    path = np.stack([side * (1 - gone / (far - near)), np.zeros(FRAMES), far - gone], -1)
    moving = (gone > 0) & (gone < far - near)
    stride = (0.9 if calm else 1.5) * height + 0.1
    phase = gone / stride * len(cycle.verts)
    if kind == "bird":
        phase = scene.times * rng.uniform(25, 40)
        goal = 1.0 if calm else scene.eye[0, 1] - 0.15
        path[:, 1] = rng.uniform(1.2, 3.5) * (1 - gone / (far - near)) + goal * gone / (far - near)
    elif not calm:
        path[:, 1] = np.abs(np.sin(gone / stride * np.pi)) * 0.12 * height * moving  # bounds rather than paces
    step = np.round(phase).astype(int) % len(cycle.verts)
    verts = mesh.verts[step] * stretch * size  # (T, V, 3)
    mesh = Mesh(verts @ yaw_matrix(np.pi + np.arctan2(side, far - near)).T + path[:, None], mesh.faces, mesh.colors)
    scene.meshes.append(mesh)
    return path + (0, 0.6 * height, 0)


def vehicle(scene: Scene, rng: np.random.Generator) -> Array:
    """A car, van or lorry rushes in."""
    kind = rng.choice(["car", "van", "lorry"], p=[0.6, 0.2, 0.2])
    w, h, n = {"car": (1.75, 0.75, 4.2), "van": (1.9, 1.5, 4.8), "lorry": (2.4, 2.5, 7.0)}[kind] * rng.uniform(
        0.9, 1.1, 3
    )
    paint, glass = color(rng), np.array([0.1, 0.13, 0.17]) * rng.uniform(0.6, 1.8)
    r = 0.32 if kind != "lorry" else 0.48
    parts = [
        box((w, h, n), (0, r * 0.9 + h / 2, 0), paint),
        box((w * 0.96, 0.16, 0.1), (0, r + 0.08, n / 2 + 0.02), np.full(3, 0.12)),
    ]
    if kind == "car":
        roof = box((w * 0.88, 0.58, n * 0.48), (0, r * 0.9 + h + 0.29, -n * 0.05), glass)
        top = roof.verts[0, :, 1] > r * 0.9 + h + 0.3
        roof.verts[0, top] *= (0.85, 1, 0.75)
        parts += [roof, box((w * 0.74, 0.05, n * 0.34), (0, r * 0.9 + h + 0.6, -n * 0.05), paint)]
    else:
        parts.append(box((w * 0.9, h * 0.36, 0.06), (0, r * 0.9 + h * 0.72, n / 2 + 0.02), glass))
    parts += [wheel(r, 0.24, (sx * w * 0.48, r, sz * n * 0.32)) for sx in (-1, 1) for sz in (-1, 1)]
    lamp = np.array([1.0, 0.97, 0.85]) if rng.random() < 0.6 else np.array([0.75, 0.75, 0.72])
    parts += [box((0.32, 0.18, 0.06), (sx * w * 0.36, r + h * 0.35, n / 2 + 0.03), lamp) for sx in (-1, 1)]
    parts += [
        box((w * 0.4, 0.14, 0.06), (0, r + h * 0.3, n / 2 + 0.03), np.full(3, 0.08)),
        box((0.4, 0.1, 0.07), (0, r + 0.12, n / 2 + 0.05), np.full(3, 0.9)),
    ]
    car = merge(parts)
    speed, far = rng.uniform(6, 15), rng.uniform(10, 24)
    near = n / 2 + rng.uniform(0.4, 2.2)
    scene.event = (far - near) / speed * 0.8
    scene.seconds = float(np.clip((far - near) / speed + rng.uniform(0.0, 0.4), 1.2, 4.0))
    scene.times = picture_times(scene.seconds)
    gone = np.minimum(scene.times * speed, far - near)
    side = rng.normal(0, 1.2)
    left = 1 - gone / (far - near)
    path = np.stack([side * left, 0.01 * np.sin(scene.times * 40), far - gone], -1)
    scene.meshes.append(moved(car, path, np.pi + np.arctan2(side, far - near)))
    return path + (0, 0.9, 0)


def explosion(scene: Scene, rng: np.random.Generator) -> Array:
    """A flash, a ball of fire, smoke and flying debris."""
    at = np.array([rng.normal(0, 1.5), 0.0, rng.uniform(4.5, 13)])
    onset, size = rng.uniform(0.3, 1.2), rng.uniform(0.8, 2.4)
    scene.event = onset
    scene.seconds = float(onset + rng.uniform(1.2, 2.6))
    scene.times = picture_times(scene.seconds)
    age = scene.times - onset
    alive = age >= 0
    for _ in range(14):
        smoke = rng.random() < 0.4
        tint = (
            np.full(3, rng.uniform(0.08, 0.3))
            if smoke
            else np.array([1.0, rng.uniform(0.35, 0.9), rng.uniform(0.02, 0.3)])
        )
        puff = ball(1.0, (0, 0, 0), tint, 9)
        lump = (
            1
            + 0.25 * np.sin(puff.verts[0] @ rng.normal(0, 4, (3, 3))).mean(1, keepdims=True)
            + rng.normal(0, 0.04, (puff.verts.shape[1], 1))
        )
        puff.verts = puff.verts * lump
        puff.colors = np.clip(puff.colors * rng.uniform(0.7, 1.15, (len(puff.colors), 1)), 0, 1)
        out = rng.normal(0, 1, 3) * (1, 0.5, 1)
        rise = np.maximum(age, 0)
        grow = 1 - np.exp(-rise * (2.5 if smoke else 7))
        fade = np.clip(1.3 - rise / (1.9 if not smoke else 9), 0, 1)
        path = (
            at
            + out * size * 0.55 * grow[:, None]
            + np.stack([0 * age, 0.5 * size + rise * (1.0 if smoke else 0.6), 0 * age], -1)
        )
        scene.meshes.append(moved(puff, path, 0.0, np.where(alive, size * rng.uniform(0.3, 0.75) * grow * fade, 1e-4)))
    for _ in range(36):
        chip = box(tuple(rng.uniform(0.04, 0.3, 3)), (0, 0, 0), color(rng, 0.05, 0.5))
        velocity = rng.normal(0, 1, 3) * (4, 2.5, 4) + (0, 5, -4)
        rise = np.maximum(age, 0)[:, None]
        path = at + (0, 0.4, 0) + velocity * rise + np.array([0, -4.9, 0]) * rise**2
        path[:, 1] = np.maximum(path[:, 1], 0.05)
        spin = np.stack([yaw_matrix(a) for a in age * rng.normal(0, 10)])  # (T, 3, 3)
        chip.verts = (
            np.einsum("tij,vj->tvi", spin, chip.verts[0]) * np.where(alive, 1, 1e-4)[:, None, None] + path[:, None]
        )
        scene.meshes.append(chip)
    scene.flash = np.where(alive, np.exp(-np.maximum(age, 0) * 5), 0.0)
    scene.flash_at = at + (0, 0.7 * size, 0)
    return np.tile(at + (0, 1.1, 0), (FRAMES, 1))
