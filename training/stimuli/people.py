# SPDX-License-Identifier: GPL-3.0-or-later
"""People in front of the reactor: who comes, gestures, strikes, dances. numpy only.

Every scene function adds its people to the scene, sets its duration and when it happens, and returns what the eyes
follow, (T, 3). The reactor stands at the origin and faces +Z; everything random comes from the generator of the clip.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from training.stimuli.actor import Person, frame, unit
from training.stimuli.catalogue import CC0, PAIRS, SIGNALS, STIMULI, WAITING, Source, Stimulus
from training.stimuli.dataset import Motions, heading, joined_length, place, yaw_matrix
from training.stimuli.reactions import available, part
from training.stimuli.scene import FPS, Array, Library, Scene, at_times, picture_times

ARMS = (18, 19, 20, 21)


def play(motions: Motions, parts: list[dict[str, Any]], scene: Scene) -> Array:
    """Joints of an actor's parts; their recordings are noted as sources of the picture."""
    scene.actors += [f"{p['file']}/{p['name'].partition('#')[0]}" for p in parts]
    return motions.join(parts)


def stage(joints: Array, key: int, at: tuple[float, float], yaw: float) -> Array:
    """Put an actor so that at frame ``key`` its hips are over ``at`` (x, z) and it came along, or faces, ``yaw``."""
    way = (joints[key, 0] - joints[0, 0])[[0, 2]]
    now = np.arctan2(way[0], way[1]) if np.linalg.norm(way) > 0.7 else heading(joints[key : key + 2])[0]
    turned = (joints - joints[key, 0] * (1, 0, 1)) @ yaw_matrix(yaw - now).T
    return turned + (at[0], 0.0, at[1])


def overlay_arms(joints: Array, gesture: Array) -> Array:
    """The legs of one motion with the arms of another, carried by the chest. (N, 22, 3) each; the gesture loops."""
    g = np.concatenate([gesture, gesture[::-1]])
    g = g[np.arange(len(joints)) % len(g)]

    def chest(j: Array) -> Array:
        return frame(j[:, 16] - j[:, 17], j[:, 12] - j[:, 3])

    carry = chest(joints) @ np.swapaxes(chest(g), -1, -2)
    out = np.array(joints, float)
    for j in ARMS:
        shoulder = 16 if j % 2 == 0 else 17
        out[:, j] = out[:, shoulder] + np.einsum("nij,nj->ni", carry, g[:, j] - g[:, shoulder])
    return out


# Where an arm of the right side points, upper arm and forearm, in the frame of the chest (left, up, forward).
ARM_POSES = {
    "wave": ((-0.8, -0.15, 0.5), (-0.3, 0.9, 0.25)),
    "push": ((-0.1, -0.15, 0.9), (0.12, 0.25, 1.0)),
    "drawn back": ((-0.35, -0.8, -0.5), (0.1, 0.5, 0.9)),
    "hand out": ((0.0, -0.8, 0.55), (0.05, -0.05, 1.0)),
}


def aim_arm(joints: Array, side: int, upper: Array, fore: Array, weight: Array) -> Array:
    """Turn an arm towards two directions; bones keep their length.

    side: 0 left, 1 right. upper, fore: (N, 3) world directions. weight: (N,) 0 = as it was, 1 = as told.
    """
    out = np.array(joints, float)
    start = out[:, 16 + side]
    for aim, root, tip in ((upper, 16 + side, 18 + side), (fore, 18 + side, 20 + side)):
        now = joints[:, tip] - joints[:, root]
        length = np.linalg.norm(now, axis=-1, keepdims=True)
        aim = now / length * (1 - weight[:, None]) + unit(aim) * weight[:, None]
        out[:, tip] = start + unit(aim) * length
        start = out[:, tip]
    return out


def move_arm(joints: Array, side: int, pose: str, weight: Array, swing: Array | float = 0.0) -> Array:
    """Bring an arm into a pose of ``ARM_POSES``. weight: (N,). swing: (N,) sideways sway of the forearm."""
    chest = frame(joints[:, 16] - joints[:, 17], joints[:, 12] - joints[:, 3])  # (N, 3, 3)
    aims = np.tile(np.array(ARM_POSES[pose]) * (1 if side else -1, 1, 1), (len(joints), 1, 1))  # (N, 2, 3)
    aims[:, 1, 0] += swing
    aims = np.einsum("nij,nbj->nbi", chest, aims)
    return aim_arm(joints, side, aims[:, 0], aims[:, 1], weight)


def wave_hand(joints: Array, rng: np.random.Generator) -> Array:
    """Raise one arm or both and wave."""
    frames = np.arange(len(joints))
    begin = rng.uniform(0, 12)
    weight = np.clip((frames - begin) / 7, 0, 1)
    sway = 0.55 * np.sin((frames - begin) / FPS * 2 * np.pi * rng.uniform(1.2, 2.2))
    for side in (0, 1) if rng.random() < 0.2 else (int(rng.random() < 0.75),):
        joints = move_arm(joints, side, "wave", weight, sway)
    return joints


def talk_with_hands(joints: Array, rng: np.random.Generator) -> Array:
    """Move the forearms before the chest and the face as people do who talk, sign or show something."""
    count = len(joints)
    chest = frame(joints[:, 16] - joints[:, 17], joints[:, 12] - joints[:, 3])  # (N, 3, 3)
    lively = rng.uniform(0.3, 1.0)
    for side in (0, 1) if rng.random() < 0.75 else (int(rng.random() < 0.8),):
        turns = np.cumsum(rng.uniform(4, 14, count // 4 + 2)).astype(int)  # frames at which the hand arrives
        base = np.array([0.15, rng.uniform(-0.1, 0.9), 0.7])
        way = (1 if side else -1, 1, 1)
        poses = [
            (
                unit(np.array([-0.25, -0.9, 0.3]) + rng.normal(0, 0.15, 3)) * way,
                unit(base + lively * rng.normal(0, 0.45, 3) * (1.0, 1.0, 0.5)) * way,
            )
            for _ in turns
        ]
        frames = np.arange(count)
        at = np.searchsorted(turns, frames).clip(1, len(turns) - 1)
        share = np.clip((frames - turns[at - 1]) / (turns[at] - turns[at - 1]), 0, 1)
        share = (share * share * (3 - 2 * share))[:, None]
        aims = [np.array([p[k] for p in poses]) for k in (0, 1)]
        upper, fore = (np.einsum("nij,nj->ni", chest, aim[at - 1] * (1 - share) + aim[at] * share) for aim in aims)
        pause = 0.5 + 0.5 * np.sin(frames / rng.uniform(8, 25) + rng.uniform(0, 6.3))
        weight = np.clip(rng.uniform(0.8, 1.5) - rng.uniform(0, 0.8) * pause, 0, 1)
        joints = aim_arm(joints, side, upper, fore, weight)
    return joints


def lean(joints: Array, degrees: float) -> Array:
    """Bend the body above the hips forwards."""
    a = np.radians(degrees)
    pitch = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn = yaw_matrix(heading(joints))  # (N, 3, 3)
    tilt = turn @ pitch @ np.swapaxes(turn, -1, -2)
    out = np.array(joints, float)
    upper = [3, 6, 9, *range(12, 22)]
    out[:, upper] = out[:, :1] + np.einsum("nij,nkj->nki", tilt, out[:, upper] - out[:, :1])
    return out


def pick(rng: np.random.Generator, options: list[Source]) -> Source:
    """One of them."""
    return options[rng.integers(len(options))]


def person(
    lib: Library, scene: Scene, rng: np.random.Generator, joints: Array, speed: float = 1.0, mood: str = ""
) -> Array:
    """Add a person doing ``joints`` (in world place) to the scene; returns its hips at the pictures' times, (T, 3)."""
    who = Person(lib.body, rng, child=rng.random() < 0.06, mood=mood, wardrobe=lib.wardrobe)
    poses = at_times(joints, scene.times * speed)
    scene.meshes.append(who.pose(poses))
    return poses[:, 0]


GESTURES = {
    "happy": (
        Source(CC0, "M2M_Greeting", 12, 60),
        Source(CC0, "KK11_Cheering"),
        Source(CC0, "KK11_Waving", 12, 50),
        Source(CC0, "M2M_Victory_Fist_Pump+idle", 10, 50),
        Source("cmu_extra22", "directing_traffic_4", 60, 80),
    ),
    "angry": (
        Source(CC0, "M2M_Fighting_Idle"),
        Source(CC0, "M2M_Punch_Enter+idle", 15, 40),
        Source(CC0, "M2M_Angry+idle", 5, 45),
        Source(CC0, "M2M_Reject", 10, 50),
        Source(CC0, "M2M_Fighting_Left_Jab+idle", 0, 50),
    ),
}


def walk_up(lib: Library, scene: Scene, rng: np.random.Generator, stim: Stimulus, split: str) -> Array:
    """Somebody walks up to the reactor, in the mood of the class, and stops before it."""
    m = lib.motions
    joints = play(m, [part(m, pick(rng, available(m, stim.walks, split)))], scene)
    # begin near enough to be seen well
    left = np.linalg.norm((joints[-1:, 0] - joints[:, 0])[:, [0, 2]], axis=-1)
    joints = joints[min(int(np.argmax(left < rng.uniform(2.2, 4.5))), len(joints) - 24) :]
    gestures = available(m, GESTURES.get(stim.mood, ()), split)
    if stim.mood == "happy" and rng.random() < 0.45:
        joints = wave_hand(joints, rng)
    elif gestures and rng.random() < 0.65:
        joints = overlay_arms(joints, play(m, [part(m, pick(rng, gestures))], scene))
    speed = {"calm": rng.uniform(0.75, 1.1), "happy": rng.uniform(0.95, 1.35), "angry": rng.uniform(1.2, 1.8)}[
        stim.mood
    ]
    if stim.mood == "angry":
        joints = lean(joints, rng.uniform(6, 16))
    elif stim.mood == "happy":
        joints = lean(joints, rng.uniform(-7, 0))
        joints[..., 1] += rng.uniform(0.01, 0.04) * np.abs(np.sin(np.arange(len(joints)) * 0.35))[:, None]
    arrive = (len(joints) - 1) / FPS / speed
    scene.seconds = float(np.clip(arrive * rng.uniform(0.85, 1.15), 1.6, 6.0))
    scene.times = picture_times(scene.seconds)
    end = rng.uniform(0.7, 1.5) if stim.mood != "calm" else rng.uniform(1.0, 2.2)
    joints = stage(joints, len(joints) - 1, (rng.normal(0, 0.15), end), np.pi + rng.normal(0, 0.12))
    scene.event = max(0.2, min(arrive, scene.seconds) * rng.uniform(0.45, 0.75))
    return person(lib, scene, rng, joints, speed, stim.mood)


def gesture(lib: Library, scene: Scene, rng: np.random.Generator, stim: Stimulus, split: str) -> Array:
    """Somebody stands before the reactor and waves, bows, cheers or talks."""
    m = lib.motions
    talks = lib.wardrobe is not None and "talk" in stim.reactions and "greet" not in stim.reactions
    options = stim.actions + (WAITING + WAITING + SIGNALS if talks else ())
    source = pick(rng, available(m, options, split))
    n = len(m.get(source.file, source.name))
    length = min(n, int(rng.integers(60, 110)))
    joints = play(m, [part(m, source, int(rng.integers(0, n - length + 1)), length)], scene)
    if source in WAITING:
        joints = talk_with_hands(joints, rng) if talks else wave_hand(joints, rng)
    speed = rng.uniform(0.85, 1.25)
    scene.seconds = float(np.clip(length / FPS / speed, 1.6, 5.5))
    scene.times = picture_times(scene.seconds)
    away = rng.uniform(0.7, 2.2) if talks else rng.uniform(1.2, 3.2)
    joints = stage(joints, 0, (rng.normal(0, 0.3), away), np.pi + rng.normal(0, 0.25))
    scene.event = rng.uniform(0.2, 0.9)
    return person(
        lib,
        scene,
        rng,
        joints,
        speed,
        "happy" if stim.reactions.get("greet") or stim.reactions.get("cheer") else "calm",
    )


def pass_by(lib: Library, scene: Scene, rng: np.random.Generator, stim: Stimulus, split: str) -> Array:
    """Somebody walks past, minding their own way."""
    m = lib.motions
    walk = part(m, pick(rng, available(m, stim.walks, split)))
    joints = play(m, [walk] if walk["length"] > 60 else [walk, dict(walk)], scene)
    speed = rng.uniform(0.8, 1.25)
    scene.seconds = float(np.clip(len(joints) / FPS / speed, 2.0, 5.5))
    scene.times = picture_times(scene.seconds)
    side, away = rng.choice([-1.0, 1.0]), rng.uniform(2.2, 5.5)
    yaw = side * np.pi / 2 + rng.normal(0, 0.25)
    joints = stage(joints, len(joints) // 2, (rng.normal(0, 0.4), away), yaw)
    scene.event = 0.0
    hips = person(lib, scene, rng, joints, speed, "calm")
    return hips * (rng.uniform(0.0, 0.9), 1.0, 1.0)  # the eyes follow only partly


def attack(lib: Library, scene: Scene, rng: np.random.Generator, cls: str, split: str) -> Array:
    """Somebody comes up and punches or kicks towards the eyes."""
    m, stim = lib.motions, STIMULI[cls]
    source = pick(rng, available(m, stim.actions, split))
    hit = m.get(source.file, source.name)
    kick = cls == "kick"
    limbs = [7, 8, 10, 11] if kick else [20, 21]
    flat = place(hit)
    reach_each = flat[:, limbs, 2] - flat[:, :1, 2]
    if not kick:
        reach_each = np.where(flat[:, limbs, 1] > 0.8, reach_each, 0.0)
    reach = reach_each.max(1)
    impact = int(np.argmax(reach > 0.97 * reach.max()))
    parts = []
    if rng.random() < 0.6:
        walk = part(m, pick(rng, available(m, stim.walks, split)))
        length = min(walk["length"], int(rng.integers(24, 50)))
        parts.append(walk | {"length": length, "start": int(rng.integers(0, walk["length"] - length + 1))})
    skip = max(0, min(impact - 10, int(rng.integers(0, 12)))) if parts else 0
    parts.append(part(m, source, skip))
    joints = play(m, parts, scene)
    key = joined_length([p["length"] for p in parts]) - parts[-1]["length"] + impact - skip
    joints = stage(
        joints,
        min(key, len(joints) - 1),
        (rng.normal(0, 0.06), float(reach.max()) + rng.uniform(0.2, 0.45)),
        np.pi + rng.normal(0, 0.1),
    )
    speed = rng.uniform(1.0, 1.4)
    scene.event = key / FPS / speed
    scene.seconds = float(np.clip(scene.event + rng.uniform(0.3, 0.9), 1.2, 6.0))
    scene.times = picture_times(scene.seconds)
    return person(lib, scene, rng, joints, speed, "angry")


def reach(lib: Library, scene: Scene, rng: np.random.Generator, cls: str, split: str) -> Array:
    """Somebody walks up and pushes with both hands, or holds out a hand."""
    m, stim = lib.motions, STIMULI[cls]
    walk = part(m, pick(rng, available(m, stim.walks, split)))
    length = min(walk["length"], int(rng.integers(24, 50)))
    stand = part(m, pick(rng, available(m, stim.actions, split)), 0, 45)
    joints = play(m, [walk | {"length": length, "start": walk["length"] - length}, stand], scene)
    frames = np.arange(len(joints))
    key = length + int(rng.integers(2, 9))
    if cls == "push":
        pulled = np.clip((frames - key + 12) / 6, 0, 1)
        pushed = np.clip((frames - key + 4) / 4, 0, 1)
        for side in (0, 1):
            joints = move_arm(joints, side, "drawn back", pulled * (1 - pushed))
            joints = move_arm(joints, side, "push", pushed)
        joints = np.where((pushed > 0)[:, None, None], lean(joints, 8), joints)
    else:
        joints = move_arm(joints, int(rng.random() < 0.85), "hand out", np.clip((frames - key + 10) / 10, 0, 1))
    near = rng.uniform(0.75, 1.0) if cls == "push" else rng.uniform(0.9, 1.5)
    joints = stage(joints, key, (rng.normal(0, 0.08), near), np.pi + rng.normal(0, 0.1))
    speed = rng.uniform(1.1, 1.5) if cls == "push" else rng.uniform(0.85, 1.15)
    scene.event = key / FPS / speed
    scene.seconds = scene.event + rng.uniform(0.4, 1.2)
    scene.times = picture_times(scene.seconds)
    return person(lib, scene, rng, joints, speed, "angry" if cls == "push" else "happy")


def salsa(lib: Library, scene: Scene, rng: np.random.Generator, split: str) -> Array:
    """A true pair: dancing seen from the partner's eyes, and what the partner did."""
    m = lib.motions
    names = [n for n in m.names(PAIRS) if m.split(PAIRS, n) == split]
    for _ in range(200):
        name = names[rng.integers(len(names))]
        ours, theirs = rng.permutation(["A", "B"])
        mine, other = m.get(PAIRS, f"{name}#{ours}"), m.get(PAIRS, f"{name}#{theirs}")
        length = int(rng.integers(10, 31)) * 4
        start = int(rng.integers(0, len(mine) - length))
        a, b = mine[start : start + length], other[start : start + length]
        to = b[:, 0] - a[:, 0]
        off = np.angle(np.exp(1j * (np.arctan2(to[:, 0], to[:, 2]) - heading(a))))
        if abs(off[0]) < 0.9 and np.mean(np.abs(off) < 1.5) > 0.55 and np.linalg.norm(to, axis=-1).min() > 0.4:
            break
    scene.actors.append(f"{PAIRS}/{name}")
    scene.seconds = length / FPS
    scene.times = picture_times(scene.seconds)
    turn = yaw_matrix(-heading(a[:2])[0])
    here = a[0, 0] * (1, 0, 1)
    a, b = (a - here) @ turn.T, (b - here) @ turn.T
    hips = person(lib, scene, rng, b, 1.0, "happy")
    head = at_times(a, scene.times)[:, 15]
    away = head - hips
    away[:, 1] = 0
    # a little behind the eyes, so that the partner fits into the picture
    scene.eye = (
        head
        + away / np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-6) * rng.uniform(0.25, 0.6)
        + (0, 0.08, 0)
    )
    window = {"file": PAIRS, "name": f"{name}#{ours}", "start": start, "length": length, "reverse": False}
    scene.reactions = [{"label": "partner", "mirror": scene.flip, "frames": length, "parts": [window]}]
    return hips
