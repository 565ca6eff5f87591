# SPDX-License-Identifier: GPL-3.0-or-later
"""A person to look at: MakeHuman's mesh, shaped, dressed in vertex colours, skinned to 22-joint motion. numpy only.

The mesh, its shape targets and its weights are CC0 (MakeHuman / MPFB). Everything is in metres, Y up, the body
facing +Z, its left side at +X, which is also how the motions are stored.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.stimuli.wardrobe import Wardrobe, sample

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]  # of vertices

# Bones that are posed: (name, parent, cube of its head in base.obj, weight groups of the rig that follow it).
# The collar bones stay with the chest: turned to the 22-joint collars they puff the shoulders.
_ARM = ("HandFinger1", "FingerBase", "Hand")
BONES = (
    ("pelvis", -1, "joint-pelvis", ("Hips", "LHipJoint", "RHipJoint")),
    ("spine", 0, "joint-spine-4", ("LowerBack",)),
    ("belly", 1, "joint-spine-2", ("Spine",)),
    ("chest", 2, "joint-spine-1", ("Spine1", "LeftShoulder", "RightShoulder")),
    ("neck", 3, "joint-neck", ("Neck", "Neck1")),
    ("head", 4, "joint-head", ("Head",)),
    ("l_thigh", 0, "joint-l-upper-leg", ("LeftUpLeg",)),
    ("r_thigh", 0, "joint-r-upper-leg", ("RightUpLeg",)),
    ("l_shin", 6, "joint-l-knee", ("LeftLeg",)),
    ("r_shin", 7, "joint-r-knee", ("RightLeg",)),
    ("l_foot", 8, "joint-l-ankle", ("LeftFoot", "LeftToeBase")),
    ("r_foot", 9, "joint-r-ankle", ("RightFoot", "RightToeBase")),
    ("l_arm", 3, "joint-l-shoulder", ("LeftArm",)),
    ("r_arm", 3, "joint-r-shoulder", ("RightArm",)),
    ("l_forearm", 12, "joint-l-elbow", ("LeftForeArm",)),
    ("r_forearm", 13, "joint-r-elbow", ("RightForeArm",)),
    ("l_hand", 14, "joint-l-hand", ("LThumb", *(f"Left{n}" for n in _ARM))),
    ("r_hand", 15, "joint-r-hand", ("RThumb", *(f"Right{n}" for n in _ARM))),
)
INDEX = {bone[0]: i for i, bone in enumerate(BONES)}

# Limbs: bone, the joints it runs between, the bone at whose head it ends. A limb swings from its parent's pose.
LIMBS = (
    ("l_thigh", 1, 4, "l_shin"),
    ("l_shin", 4, 7, "l_foot"),
    ("r_thigh", 2, 5, "r_shin"),
    ("r_shin", 5, 8, "r_foot"),
    ("l_arm", 16, 18, "l_forearm"),
    ("l_forearm", 18, 20, "l_hand"),
    ("r_arm", 17, 19, "r_forearm"),
    ("r_forearm", 19, 21, "r_hand"),
)
STANDING_FOOT = np.array([0.0, -0.085, 0.113])  # ankle to toe of the recordings while the foot is flat, shin upright

SKIN = ((0.93, 0.76, 0.66), (0.87, 0.66, 0.53), (0.74, 0.53, 0.39), (0.55, 0.37, 0.26), (0.38, 0.25, 0.18))
HAIR = (
    (0.09, 0.07, 0.06),
    (0.25, 0.15, 0.09),
    (0.45, 0.3, 0.16),
    (0.72, 0.56, 0.32),
    (0.62, 0.6, 0.58),
    (0.5, 0.2, 0.1),
)


def unit(v: Array) -> Array:
    """Vectors of length 1."""
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def swing(a: Array, b: Array) -> Array:
    """Smallest rotations that turn directions a into b. (..., 3) each -> (..., 3, 3)."""
    a, b = np.broadcast_arrays(unit(a), unit(b))
    v, c = np.cross(a, b), np.sum(a * b, -1)
    k = np.zeros((*c.shape, 3, 3))
    k[..., 0, 1], k[..., 0, 2], k[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    k -= np.swapaxes(k, -1, -2)
    # opposite directions have no smallest rotation; the clamp leaves them finite
    return np.eye(3) + k + k @ k / np.maximum(1 + c, 1e-2)[..., None, None]


def frame(left: Array, up: Array) -> Array:
    """Rotations whose columns are left (X), up made orthogonal (Y), forward (Z). (..., 3) -> (..., 3, 3)."""
    x = unit(left)
    z = unit(np.cross(x, up))
    return np.stack([x, np.cross(z, x), z], -1)


def mean_rotation(r: Array, q: Array, weight: float) -> Array:
    """The rotation nearest to the weighted mean of two not far apart. (..., 3, 3)."""
    u, _, vt = np.linalg.svd(r * (1 - weight) + q * weight)
    return u @ vt


def _dyed(rgb: Array, rng: np.random.Generator) -> Array:
    """A garment in another colour, often; its folds and seams stay. (V, 3) in [0, 1]."""
    if rng.random() < 0.35:
        return rgb
    grey = rgb.mean(1, keepdims=True)
    dye = rng.uniform(0.15, 1.3) * rng.dirichlet([1.5, 1.5, 1.5]) * 3
    keep = rng.uniform(0.0, 0.6)
    return np.clip(keep * rgb + (1 - keep) * grey / max(float(grey.mean()), 0.05) * 0.45 * dye, 0, 1)


@dataclass
class Mesh:
    """Vertices of every picture, (T, V, 3) or (1, V, 3) if they rest; faces as vertex indices; sRGB colours (V, 3)."""

    verts: Array
    faces: Sequence[tuple[int, ...]]
    colors: Array
    smooth: bool = False


class Body:
    """What is read from disk once: mesh, targets, weights."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        verts: list[list[float]] = []
        uv: list[list[float]] = []
        corner: dict[int, int] = {}  # vertex -> texture coordinate
        self.groups: dict[str, list[tuple[int, ...]]] = {}
        group = ""
        with (folder / "base.obj").open() as lines:
            for line in lines:
                if line.startswith("v "):
                    verts.append([float(x) for x in line.split()[1:4]])
                elif line.startswith("vt "):
                    uv.append([float(x) for x in line.split()[1:3]])
                elif line.startswith("g "):
                    group = line.split()[1]
                elif line.startswith("f "):
                    words = [word.split("/") for word in line.split()[1:]]
                    face = tuple(int(word[0]) - 1 for word in words)
                    corner |= {int(word[0]) - 1: int(word[1]) - 1 for word in words}
                    self.groups.setdefault(group, []).append(face)
        self.verts = np.array(verts) * 0.1  # decimetres
        self.uv = np.array([uv[corner.get(v, 0)] for v in range(len(verts))])
        self.targets = {path.name.split(".")[0]: self._target(path) for path in folder.glob("*.target.gz")}
        weights = json.loads((folder / "weights.cmu_mb.json").read_text())["weights"]
        self.weights = np.zeros((len(verts), len(BONES)))
        for i, (_, _, _, names) in enumerate(BONES):
            for name in names:
                for vertex, weight in weights[name]:
                    self.weights[vertex, i] += weight
        self.weights /= np.maximum(self.weights.sum(1, keepdims=True), 1e-9)

    def _target(self, path: Path) -> Array:
        offset = np.zeros_like(self.verts)
        with gzip.open(path, "rt") as lines:
            for line in lines:
                words = line.split()
                if len(words) == 4 and words[0] != "#":
                    offset[int(words[0])] = [float(x) * 0.1 for x in words[1:]]
        return offset


class Person:
    """One body with its clothes.

    rng: decides everything about the looks. child: a smaller, rounder body. mood: ``happy`` lifts the corners
    of the mouth, ``angry`` lowers them and the inner brows, reddens the face and clenches the hands. wardrobe: skin,
    clothes and hair from photographs; without one they are painted.
    """

    def __init__(
        self,
        body: Body,
        rng: np.random.Generator,
        child: bool = False,
        mood: str = "",
        wardrobe: Wardrobe | None = None,
    ) -> None:
        t = body.targets
        adults = [t["african-male-old"], t["caucasian-female-young"], t["caucasian-male-young"]]
        gender = str(rng.choice(["male", "female"])) if wardrobe is not None else ""
        likely = {"male": [0.6, 0.2, 1.6], "female": [0.2, 1.8, 0.2]}.get(gender, [0.6, 1.0, 1.0])
        share = rng.dirichlet(likely) * (0.35 if child else 1.0)
        verts = body.verts + sum(w * a for w, a in zip(share, adults, strict=True))
        verts += (0.65 if child else 0.0) * t["asian-female-child"]
        verts += rng.beta(1, 3) * t["universal-male-old-averagemuscle-maxweight"]
        scale = rng.uniform(0.95, 1.05)
        verts = verts * scale
        if wardrobe is not None:
            self._wear(body, verts, scale, wardrobe, gender, rng, mood)
            return

        faces = list(body.groups["body"]) + body.groups["helper-l-eye"] + body.groups["helper-r-eye"]
        long_hair, skirt = rng.random() < 0.35, rng.random() < 0.2
        if long_hair:  # the helper is a curtain all around: keep what hangs beside and behind the face
            ear = verts[np.unique(body.groups["helper-l-eye"])].mean(0)
            faces += [f for f in body.groups["helper-hair"] if self._beside(verts[list(f)].mean(0), ear)]
        faces += body.groups["helper-skirt"] if skirt else []
        used = np.unique([v for face in faces for v in face])
        renumber = np.zeros(len(verts), int)
        renumber[used] = np.arange(len(used))
        self.faces = [tuple(int(renumber[v]) for v in face) for face in faces]

        def members(group: str) -> Mask:
            return np.isin(used, np.unique([v for face in body.groups[group] for v in face]))

        self._joints(body, verts)
        self.rest, self.weights = verts[used], body.weights[used]
        self.colors = self._dress(
            rng,
            members("helper-l-eye") | members("helper-r-eye"),
            members("helper-hair") & long_hair,
            members("helper-skirt") & skirt,
            mood,
        )

    def _joints(self, body: Body, verts: Array) -> None:
        """Heads of the bones and length of a leg."""
        self.heads = np.array(
            [verts[np.unique([v for face in body.groups[cube] for v in face])].mean(0) for _, _, cube, _ in BONES]
        )
        self.leg = float(self.heads[INDEX["l_thigh"], 1] - self.heads[INDEX["l_foot"], 1])

    def _wear(
        self,
        body: Body,
        verts: Array,
        scale: float,
        wardrobe: Wardrobe,
        gender: str,
        rng: np.random.Generator,
        mood: str,
    ) -> None:
        """Skin, a suit, shoes, hair and eyebrows of the wardrobe, in colours of their own."""

        def one(options: list[Any]) -> Any:
            return options[rng.integers(len(options))]

        self._joints(body, verts)
        suit, shoes, hair, brows = (
            one(options)
            for options in (wardrobe.suits[gender], wardrobe.shoes, wardrobe.hair[gender], wardrobe.eyebrows)
        )
        bald = gender == "male" and rng.random() < 0.12
        worn = [suit, shoes, brows] + ([] if bald else [hair])
        hidden = np.zeros(len(verts), bool)
        for garment in (suit, shoes):
            hidden[garment.hides] = True
        eyes = body.groups["helper-l-eye"] + body.groups["helper-r-eye"]
        faces = [f for f in body.groups["body"] if not hidden[list(f)].all()] + eyes
        used = np.unique([v for face in faces for v in face])
        renumber = np.zeros(len(verts), int)
        renumber[used] = np.arange(len(used))
        of_eyes = np.isin(used, np.unique([v for face in eyes for v in face]))
        skin = sample(one(wardrobe.skins[gender]), body.uv[used])[:, :3] * rng.uniform(0.85, 1.1)
        shade = rng.uniform(0.5, 1.6) * (1 + rng.normal(0, 0.08, 3))  # of the hair
        whole = verts.copy()
        self.rest, self.weights, self.colors = verts[used], body.weights[used], skin.astype(float)
        self._features(of_eyes, np.zeros(len(used), bool), mood, rng)
        whole[used] = self.rest
        self.faces = [tuple(int(renumber[v]) for v in face) for face in faces]
        parts = [(self.rest, self.weights, self.colors)]
        count = len(used)
        for garment in worn:
            rgba = garment.colors
            rgb = rgba[:, :3] * shade if garment is hair or garment is brows else _dyed(rgba[:, :3], rng)
            visible = rgba[:, 3] > (0.35 if garment is hair else 0.25)
            self.faces += [tuple(count + v for v in f) for f in garment.faces if visible[list(f)].sum() * 2 >= len(f)]
            parts.append((garment.fit(whole, scale), garment.share(body.weights), rgb))
            count += len(rgba)
        self.rest, self.weights, colors = (np.concatenate(column) for column in zip(*parts, strict=True))
        self.colors = np.clip(colors * (1 + rng.normal(0, 0.01, (count, 1))), 0, 1)

    @staticmethod
    def _beside(point: Array, eye: Array) -> bool:
        """Whether a piece of hair leaves the face free and ends above the waist."""
        return bool(point[1] > eye[1] - 0.32 and (point[2] < eye[2] - 0.055 or point[1] > eye[1] + 0.075))

    def _dress(self, rng: np.random.Generator, eyes: Mask, hair: Mask, skirt: Mask, mood: str) -> Array:
        """sRGB colour of each vertex; clothed skin is pushed out a little so that it reads as cloth."""
        x = self.rest
        part = np.array([bone[0] for bone in BONES])[self.weights.argmax(1)]
        skin = np.array(SKIN[rng.integers(len(SKIN))]) * rng.uniform(0.9, 1.05)
        colors = np.tile(skin, (len(x), 1))

        def cloth() -> Array:
            hue = rng.random(3)
            grey = rng.random() < 0.4
            return np.clip(
                (hue.mean() + (hue - hue.mean()) * (0.15 if grey else 1.0)) * rng.uniform(0.3, 1.3), 0.03, 0.97
            )

        shirt, trousers, shoes = cloth(), cloth(), cloth() * 0.6
        shoulder, elbow = self.heads[INDEX["l_arm"]], self.heads[INDEX["l_forearm"]]
        hip, knee = self.heads[INDEX["l_thigh"], 1], self.heads[INDEX["l_shin"], 1]
        waist = hip + rng.uniform(0.02, 0.12)
        reach = np.linalg.norm(elbow - shoulder) * rng.choice([0.5, 0.95, 2.0])  # short, to the elbow, long sleeves
        arms = np.char.find(part, "arm") >= 0
        sleeve = arms & (
            np.abs(x[:, 0]) < shoulder[0] + reach * (elbow[0] - shoulder[0]) / np.linalg.norm(elbow - shoulder)
        )
        torso = np.isin(part, ["spine", "belly", "chest", "pelvis"]) & (x[:, 1] > waist)
        torso |= (part == "neck") & (x[:, 1] < shoulder[1] + rng.uniform(0.02, 0.06))
        cuff = knee + rng.uniform(0.0, 0.08) if rng.random() < 0.25 else -9.0
        legs = (np.char.find(part, "thigh") >= 0) | (np.char.find(part, "shin") >= 0) | (part == "pelvis")
        legs &= (x[:, 1] <= waist) & (x[:, 1] > cuff)
        feet = np.char.find(part, "foot") >= 0

        shirt_colors = np.tile(shirt, (len(x), 1))
        if rng.random() < 0.3:  # stripes
            stripe = np.sin(x[:, 1] * rng.uniform(60, 160)) > rng.uniform(-0.3, 0.5)
            shirt_colors[stripe] = cloth()
        body = torso | sleeve
        colors[body], colors[legs | skirt], colors[feet] = shirt_colors[body], trousers, shoes
        head_top = self.heads[INDEX["head"]]
        height = x[part == "head", 1].max() - head_top[1]
        scalp = (
            (part == "head")
            & ~eyes
            & (x[:, 1] > head_top[1] + height * (0.45 + 0.27 * np.clip((x[:, 2] - 0.03) / 0.09, 0, 1)))
        )
        scalp |= (part == "head") & ~eyes & (x[:, 2] < head_top[2] + 0.005) & (x[:, 1] > head_top[1])
        hair_color = np.array(HAIR[rng.integers(len(HAIR))])
        if rng.random() < 0.92:
            colors[scalp] = hair_color
        colors[hair] = hair_color
        self.colors = colors
        self._features(eyes, hair, mood, rng, hair_color)
        self._bulge(body, rng.uniform(0.004, 0.018))
        self._bulge(legs, rng.uniform(0.004, 0.02))
        self._bulge(feet, 0.008)
        return np.clip(colors * (1 + rng.normal(0, 0.015, (len(x), 1))), 0, 1)

    def _features(
        self, eyes: Mask, hair: Mask, mood: str, rng: np.random.Generator, hair_color: Array | None = None
    ) -> None:
        """Eyes and expression; with a colour of the hair also brows and lips are painted."""
        x, colors = self.rest, self.colors
        part = np.array([bone[0] for bone in BONES])[self.weights.argmax(1)]
        # brows, lips and pupils, found by where they lie on the head
        front = x[eyes, 2].max()
        eye_y = x[eyes, 1].mean()
        face = (part == "head") & ~eyes & ~hair & (x[:, 2] > front - 0.03)
        brow = face & (np.abs(x[:, 1] - eye_y - 0.022) < 0.005) & (np.abs(np.abs(x[:, 0]) - 0.033) < 0.02)
        lips = face & (np.abs(x[:, 1] - eye_y + 0.062) < 0.008) & (np.abs(x[:, 0]) < 0.02) & (x[:, 2] > front - 0.01)
        if hair_color is not None:
            colors[brow] = hair_color * 0.6
            colors[lips] = np.clip(colors[lips] * (0.92, 0.68, 0.68), 0, 1)
        smile = {"happy": 1.0, "angry": -1.0}.get(mood, 0.0)
        for side in (-1, 1):
            corner = np.exp(-((x[:, 0] - side * 0.024) ** 2 + (x[:, 1] - eye_y + 0.062) ** 2) / 0.014**2)
            inner = np.exp(-((x[:, 0] - side * 0.016) ** 2 + (x[:, 1] - eye_y - 0.02) ** 2) / 0.012**2)
            x[:, 1] += face * (0.011 * smile * corner + 0.008 * min(smile, 0.0) * inner)
        if mood == "angry":
            colors[face & ~brow] *= (1.0, 0.86, 0.84)
        colors[eyes] = 0.93
        pupil = eyes & (x[:, 2] > front - 0.004)
        colors[pupil] = rng.uniform(0.05, 0.3, 3)
        if mood == "angry":
            self._clench()

    def _clench(self) -> None:
        """Draw the fingers in: whatever reaches beyond the knuckles is pressed together along the hand."""
        x, bone = self.rest, self.weights.argmax(1)
        for hand in ("l_hand", "r_hand"):
            pick = bone == INDEX[hand]
            wrist = self.heads[INDEX[hand]]
            along = unit(x[pick].mean(0) - wrist)
            far = (x[pick] - wrist) @ along
            knuckles = 0.5 * far.max()
            x[pick] -= (np.maximum(far - knuckles, 0) * 0.75)[:, None] * along

    def _bulge(self, where: Mask, by: float) -> None:
        """Push vertices out from the bone they hang on."""
        x = self.rest
        bone = self.weights.argmax(1)
        tips = {INDEX[a]: INDEX[b] for a, _, _, b in LIMBS} | {
            INDEX["pelvis"]: INDEX["chest"],
            INDEX["chest"]: INDEX["neck"],
        }
        for i in np.unique(bone[where]):
            a, b = self.heads[i], self.heads[tips.get(i, i)]
            axis = unit(b - a) if tips.get(i, i) != i else np.zeros(3)
            pick = where & (bone == i)
            out = x[pick] - a
            out -= (out @ axis)[:, None] * axis
            x[pick] += unit(out) * by

    def rotations(self, joints: Array) -> Array:
        """World rotation of every bone. joints (T, 22, 3) -> (T, bones, 3, 3)."""
        j = np.asarray(joints, float)
        r = np.zeros((len(j), len(BONES), 3, 3))
        r[:, 0] = frame(j[:, 1] - j[:, 2], j[:, 6] - j[:, 0])
        r[:, 3] = frame(j[:, 16] - j[:, 17], j[:, 12] - j[:, 3])
        r[:, 1] = mean_rotation(r[:, 0], r[:, 3], 1 / 3)
        r[:, 2] = mean_rotation(r[:, 0], r[:, 3], 2 / 3)
        nod = swing(r[:, 3, :, 1], j[:, 15] - j[:, 12])
        r[:, 5] = nod @ r[:, 3]
        r[:, 4] = mean_rotation(r[:, 3], r[:, 5], 0.5)
        for bone, start, end, tip in LIMBS:
            i = INDEX[bone]
            parent = r[:, BONES[i][1]]
            rest = parent @ (self.heads[INDEX[tip]] - self.heads[i])
            r[:, i] = swing(rest, j[:, end] - j[:, start]) @ parent
        for bone, shin, ankle, toe in (("l_foot", "l_shin", 7, 10), ("r_foot", "r_shin", 8, 11)):
            parent = r[:, INDEX[shin]]
            r[:, INDEX[bone]] = swing(parent @ STANDING_FOOT, j[:, toe] - j[:, ankle]) @ parent
        r[:, INDEX["l_hand"]], r[:, INDEX["r_hand"]] = r[:, INDEX["l_forearm"]], r[:, INDEX["r_forearm"]]
        return r

    def pose(self, joints: Array, grounded: bool = True) -> Mesh:
        """Skin the body to a motion (T, 22, 3); the hips' height follows the legs' length, the feet stand on y = 0."""
        j = np.asarray(joints, float)
        r = self.rotations(j)
        leg = np.linalg.norm(j[0, 4] - j[0, 1]) + np.linalg.norm(j[0, 7] - j[0, 4])
        p = np.zeros((len(j), len(BONES), 3))
        p[:, 0] = j[:, 0] * (1, self.leg / leg, 1)
        for i, (_, parent, _, _) in enumerate(BONES):
            if parent >= 0:
                p[:, i] = p[:, parent] + r[:, parent] @ (self.heads[i] - self.heads[parent])
        shift = p - np.einsum("tbij,bj->tbi", r, self.heads)  # (T, bones, 3): v -> r v + shift
        transform = np.concatenate([r, shift[..., None]], -1).reshape(len(j), len(BONES), 12)
        verts = np.empty((len(j), len(self.rest), 3))
        for t in range(len(j)):
            m = (self.weights @ transform[t]).reshape(-1, 3, 4)  # (V, 3, 4)
            verts[t] = np.einsum("vij,vj->vi", m[:, :, :3], self.rest) + m[:, :, 3]
        if grounded:
            verts[..., 1] -= np.percentile(verts[..., 1].min(1), 30)
        return Mesh(verts, self.faces, self.colors, smooth=True)
