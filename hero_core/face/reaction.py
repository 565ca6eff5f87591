# SPDX-License-Identifier: GPL-3.0-or-later
"""What a face does, as plain arrays: ARKit's 52 shapes, head pose, and the 25 attributes of the REACT challenge.

numpy only, so that a face can be keyed without torch.

The 58 coefficients of a frame are ARKit's 52 blend shapes in alphabetical order (FaceVerse 2's expressions, which the
REACT data sets call 3DMM, have that order), the head's rotation about x, y, z in radians, and its translation.
In our frame, Y is up, Z points out of the face and X to the person's own left, as the body of ``hero_core.motion``
stands; rotations are right-handed about the axes and applied in the order x, y, z. So +x nods down, +y turns to the
person's left, and +z tilts the head towards the person's right.

The 25 attributes are 15 action units (FACS), valence and arousal (-1 .. 1), and 8 probabilities of expressions.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hero_core.errors import HeroError
from hero_core.output import check_output, whole_file

FPS = 25.0
Array = npt.NDArray[Any]

ARKIT = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
POSE = ("headPitch", "headYaw", "headRoll", "headX", "headY", "headZ")
COEFFICIENTS = (*ARKIT, *POSE)
AUS = (1, 2, 4, 6, 7, 9, 10, 12, 14, 15, 17, 23, 24, 25, 26)
EMOTIONS = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
ATTRIBUTES = (*(f"AU{n}" for n in AUS), "valence", "arousal", *EMOTIONS)

EXPRESSION = slice(0, 52)
ROTATION = slice(52, 55)
TRANSLATION = slice(55, 58)
ACTION_UNITS = slice(0, 15)
VALENCE, AROUSAL = 15, 16
PROBABILITIES = slice(17, 25)
BLINKS = (8, 9)
GAZE = slice(10, 18)
INDEX = {name: i for i, name in enumerate(COEFFICIENTS)}
# A shape's other side, for mirrored faces.
MIRRORED = tuple(
    INDEX[n.replace("Left", "*").replace("Right", "Left").replace("*", "Right")] for n in ARKIT
)  # fmt: skip


@dataclass
class FaceReaction:
    """One or several takes of what a face does.

    coefficients  (takes, N, 58) float32: ARKit's 52 shapes, head rotation (radians) and translation, see the module
    attributes    (takes, N, 25) float32: action units, valence, arousal, expressions
    source        who made it: "rule-based listener" or the name of the learned model
    """

    coefficients: Array
    attributes: Array
    fps: float = FPS
    source: str = ""
    seed: int = 0
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        self.coefficients = np.asarray(self.coefficients, np.float32)
        self.attributes = np.asarray(self.attributes, np.float32)
        for name, array, width in (("coefficients", self.coefficients, 58), ("attributes", self.attributes, 25)):
            if array.ndim != 3 or array.shape[2] != width or not array.shape[0] or not array.shape[1]:
                raise HeroError(f"The face has {name} of shape {array.shape}; (takes, N, {width}) is needed.")
            if not np.isfinite(array).all():
                raise HeroError(f"The face holds NaN or infinite {name}; generate it again or repair the file.")
        if self.coefficients.shape[:2] != self.attributes.shape[:2]:
            raise HeroError(
                f"The face's coefficients {self.coefficients.shape} and attributes {self.attributes.shape} "
                "differ in takes or frames; make them alike."
            )
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise HeroError(f"The face's rate of {self.fps} frames per second cannot be; give one above 0.")

    @property
    def takes(self) -> int:
        return len(self.coefficients)

    @property
    def frames(self) -> int:
        return self.coefficients.shape[1]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write face.npz; the file appears whole or not at all."""
        target = check_output(path, ".npz")
        with whole_file(target) as part:
            np.savez(
                part,
                coefficients=self.coefficients,
                attributes=self.attributes,
                fps=np.array(self.fps),
                source=np.array(self.source),
                seed=np.array(self.seed),
                notes=np.array(self.notes, np.str_),
                coefficient_names=np.array(COEFFICIENTS),
                attribute_names=np.array(ATTRIBUTES),
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FaceReaction:
        """Read what ``save`` wrote; raises HeroError where the file is absent, damaged or of another kind."""
        source = Path(path)
        if not source.is_file():
            raise HeroError(f"There is no face file '{source}'.")
        try:
            with np.load(source, allow_pickle=False) as loaded:
                data = {key: loaded[key] for key in loaded.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as err:
            raise HeroError(f"'{source}' is not a face .npz that can be read ({err}).") from err
        if not {"coefficients", "attributes"} <= set(data):
            raise HeroError(f"'{source}' has no arrays named coefficients and attributes; it is no face file.")
        return cls(
            data["coefficients"],
            data["attributes"],
            float(data.get("fps", FPS)),
            str(data.get("source", "")),
            int(data.get("seed", 0)),
            tuple(str(note) for note in data.get("notes", ())),
        )


def mirrored(coefficients: Array) -> Array:
    """The same face with left and right swapped: (..., 58) -> (..., 58)."""
    x = np.asarray(coefficients)
    out = x.copy()
    out[..., EXPRESSION] = x[..., list(MIRRORED)]
    out[..., [53, 54, 55]] = -x[..., [53, 54, 55]]  # yaw, roll and the way to the side
    return out


def centred(coefficients: Array, axis: int = -2) -> Array:
    """Coefficients of a tracked clip (..., N, 58) with head rotation and translation relative to the clip's median.

    That takes out where the camera stood, and FaceVerse's pitch, which is pi for an upright head. Differences of angles
    are wound to -pi .. pi. With FaceVerse's public projection code (rotation Rz Ry Rx, picture's x to the right, y
    up, z to the camera) the axes are those of our frame; which of its shapes are the person's left was not checked on
    a model file, so :func:`mirrored` is the user's to apply.
    """
    out = np.array(coefficients, np.float32)
    rotation = out[..., ROTATION].astype(np.float64)
    # Angles near pi jump to -pi: their mean direction is the centre that the median is then taken around.
    centre = np.angle(np.exp(1j * rotation).mean(axis=axis, keepdims=True))
    wound = np.angle(np.exp(1j * (rotation - centre)))
    out[..., ROTATION] = wound - np.median(wound, axis=axis, keepdims=True)
    out[..., TRANSLATION] -= np.median(out[..., TRANSLATION], axis=axis, keepdims=True)
    return out


# --- action units and shapes --------------------------------------------------------------------------------------

# Which shapes an action unit moves at full strength, and how far: defaults to be edited by an artist. There is no
# authoritative table; the pairs follow the muscles that FACS names and Apple's texts on ARFaceAnchor's blend shapes.
# A name without a side is of both sides.
AU_SHAPES: dict[int, dict[str, float]] = {
    1: {"browInnerUp": 1.0},
    2: {"browOuterUp": 1.0},
    4: {"browDown": 1.0},
    6: {"cheekSquint": 1.0, "eyeSquint": 0.25},
    7: {"eyeSquint": 0.8, "eyeBlink": 0.1},
    9: {"noseSneer": 1.0, "mouthUpperUp": 0.2, "browDown": 0.2},
    10: {"mouthUpperUp": 0.9},
    12: {"mouthSmile": 0.9},
    14: {"mouthDimple": 0.9, "mouthPress": 0.15},
    15: {"mouthFrown": 0.9},
    17: {"mouthShrugLower": 0.8, "mouthShrugUpper": 0.35},
    23: {"mouthPress": 0.35, "mouthRollLower": 0.25, "mouthRollUpper": 0.25},
    24: {"mouthPress": 0.9},
    25: {"mouthLowerDown": 0.3, "mouthUpperUp": 0.1, "jawOpen": 0.05},
    26: {"jawOpen": 0.45},
}


def sides(name: str) -> list[int]:
    """Indices of a shape, or of both its sides where the name has none."""
    found = [INDEX[n] for n in (name, f"{name}Left", f"{name}Right") if n in INDEX]
    if not found:
        raise HeroError(f"'{name}' is no ARKit shape; use names as in {', '.join(ARKIT[:3])}.")
    return found


def au_matrix(table: dict[int, dict[str, float]] | None = None) -> Array:
    """(15, 52) weights of the shapes that each action unit moves."""
    matrix = np.zeros((len(AUS), 52), np.float32)
    for number, shapes in (AU_SHAPES if table is None else table).items():
        if number not in AUS:
            raise HeroError(f"AU{number} is none of the {len(AUS)} of the attributes; leave it out of the table.")
        for name, weight in shapes.items():
            matrix[AUS.index(number), sides(name)] = weight
    return matrix


def expression_of(attributes: Array, table: dict[int, dict[str, float]] | None = None) -> Array:
    """Shapes from action units: (..., 25) -> (..., 52) in 0 .. 1.

    Blinks, gaze and sides are not in the attributes, so those shapes stay at rest. ``table`` replaces AU_SHAPES.
    """
    units = np.clip(np.asarray(attributes, np.float32)[..., ACTION_UNITS], 0, 1)
    shapes: Array = units @ au_matrix(table)
    one, two, four, parted, dropped = (units[..., AUS.index(n)] for n in (1, 2, 4, 25, 26))
    # Units that act on the same skin do not add up: a raised brow is drawn together, or held by the outer brow.
    shapes[..., INDEX["browInnerUp"]] *= 1 - 0.3 * two - 0.4 * four * (1 - 0.3 * two)
    shapes[..., sides("browDown")] *= 1 - 0.6 * one[..., None]
    shapes[..., INDEX["jawOpen"]] = np.maximum(shapes[..., INDEX["jawOpen"]], 0.5 * np.minimum(parted, dropped))
    clipped: Array = np.clip(shapes, 0, 1)
    return clipped


def action_units_of(expression: Array) -> Array:
    """Estimated action units from shapes: (..., 52) -> (..., 15) in 0 .. 1.

    Each unit is read from the shape that shows it most purely; the inverse of ``expression_of`` for a unit that
    acts alone, an estimate where several share a shape (AU23 reads AU24's lips).
    """
    e = np.clip(np.asarray(expression, np.float32), 0, 1)

    def mean(name: str) -> Array:
        found: Array = e[..., sides(name)].mean(-1)
        return found

    press, roll = mean("mouthPress"), (mean("mouthRollLower") + mean("mouthRollUpper")) / 2
    jaw, lower = mean("jawOpen"), mean("mouthLowerDown")
    parted = np.maximum(lower / 0.3, jaw / 0.15)
    tightened = np.minimum(roll / 0.25, press / 0.35)
    squint = (mean("eyeSquint") - 0.25 * mean("cheekSquint")) / 0.8
    units = [
        mean("browInnerUp"), mean("browOuterUp"), mean("browDown") - 0.2 * mean("noseSneer"), mean("cheekSquint"),
        squint, mean("noseSneer"), (mean("mouthUpperUp") - 0.2 * mean("noseSneer") - 0.1 * lower / 0.3) / 0.9,
        mean("mouthSmile") / 0.9, mean("mouthDimple") / 0.9, mean("mouthFrown") / 0.9, mean("mouthShrugLower") / 0.8,
        tightened, (press - 0.35 * np.clip(tightened, 0, 1) - 0.15 * mean("mouthDimple") / 0.9) / 0.9, parted,
        (jaw - 0.05) / 0.45,
    ]  # fmt: skip
    stacked: Array = np.clip(np.stack(units, -1), 0, 1)
    return stacked


def attributes_of(expression: Array, threshold: float | None = None) -> Array:
    """Estimated attributes from shapes: (..., 52) -> (..., 25).

    Action units by :func:`action_units_of` (0 or 1 where a ``threshold`` is given, as the data sets' are). Valence,
    arousal and expressions are read off the units that EMFACS names for each emotion: a label for display and for
    emotion presets, no measurement.
    """
    units = action_units_of(expression)
    shown = units if threshold is None else (units > threshold).astype(np.float32)
    u = {n: units[..., i] for i, n in enumerate(AUS)}
    wide = np.clip(np.asarray(expression, np.float32)[..., sides("eyeWide")].mean(-1), 0, 1)
    strengths = np.stack(
        [
            np.maximum(u[12], 0.5 * (u[6] + u[12])),  # happy
            np.mean([u[1], u[4], u[15]], 0) + 0.3 * u[15],  # sad
            np.mean([u[1], u[2], np.maximum(u[26], wide)], 0),  # surprise
            np.mean([u[1], u[2], u[4], wide], 0) * (u[4] > 0.2),  # fear
            np.maximum(u[9], 0.6 * u[10]),  # disgust
            np.mean([u[4], u[7], np.maximum(u[23], u[24])], 0),  # anger
            0.6 * u[14] * (1 - u[12]),  # contempt
        ],
        -1,
    )
    powers = np.exp(4 * strengths) - 1
    probabilities = np.concatenate((np.ones_like(powers[..., :1]), powers), -1)
    probabilities /= probabilities.sum(-1, keepdims=True)
    happy, sad, surprise, fear, disgust, anger, contempt = np.moveaxis(probabilities[..., 1:], -1, 0)
    valence = 0.8 * happy - 0.7 * sad - 0.6 * fear - 0.6 * disgust - 0.6 * anger - 0.4 * contempt + 0.1 * surprise
    arousal = 0.4 * happy - 0.3 * sad + 0.7 * surprise + 0.7 * fear + 0.3 * disgust + 0.6 * anger + 0.1 * contempt
    return np.concatenate((shown, valence[..., None], arousal[..., None], probabilities), -1).astype(np.float32)


def resampled(values: Array, times: Array, fps: float = FPS, duration: float | None = None) -> Array:
    """Rows (N, C) measured at ``times`` (N,) seconds, linearly at 0, 1/fps, ...: (M, C) float32.

    M = round(duration fps), and covers the last time where no duration is given. Held at the ends.
    """
    times = np.asarray(times, np.float64)
    frames = max(1, round((float(times[-1]) * fps) + 1 if duration is None else duration * fps))
    at = np.arange(frames) / fps
    right = np.searchsorted(times, at, "left").clip(1, max(1, len(times) - 1))
    if len(times) == 1:
        return np.repeat(np.asarray(values, np.float32), frames, 0)
    left = right - 1
    gap = np.maximum(times[right] - times[left], 1e-9)
    part = ((at - times[left]) / gap).clip(0, 1)[:, None]
    rows = np.asarray(values, np.float64)
    return ((1 - part) * rows[left] + part * rows[right]).astype(np.float32)
