# SPDX-License-Identifier: GPL-3.0-or-later
"""The rule-based listener: what works without any trained weights. It is not learned, and is named so everywhere.

Nods, smiles and brows answer the speaker's voice at moments that a rule of conversation analysis finds (Ward and
Tsukahara 2000: a region of low pitch, or here also a pause); the speaker's own smiles and brows are mimicked late and
weakly; blinks, gaze and idle motion go on by themselves. A seed decides all of it, and each take has its own. No rule
looks at what comes later, so the first seconds of a reaction stay what they are when the clip goes on otherwise.
numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from hero_core.errors import HeroError

from .curves import EYE_RANGE, FaceTrack, look
from .reaction import EXPRESSION, FPS, INDEX, Array, FaceReaction, attributes_of, sides
from .sound import Prosody, Sound, prosody

SOURCE = "rule-based listener (not learned)"
STEP = 1 / FPS


@dataclass(frozen=True)
class Options:
    """Sliders of the rule-based listener; where nothing else is said, 0 switches off and 1 is a usual amount."""

    valence: float = 0.0  # -1 gloomy .. 1 friendly
    arousal: float = 0.0  # -1 sleepy .. 1 excited
    attentiveness: float = 0.6  # 0 .. 1: how many of the moments to answer are answered, and how much it looks away
    nods: float = 1.0
    smiles: float = 1.0
    brows: float = 1.0
    tilts: float = 1.0
    mimicry: float = 1.0
    blinks: float = 1.0  # how often
    gaze: float = 1.0  # how far it looks away
    idle: float = 1.0
    delay: float = 0.0  # seconds on top of every answer

    def __post_init__(self) -> None:
        for field in fields(self):
            value, low = getattr(self, field.name), -1.0 if field.name in ("valence", "arousal") else 0.0
            high = 1.0 if field.name in ("valence", "arousal", "attentiveness") else 5.0
            if not (math.isfinite(value) and low <= value <= high):
                raise HeroError(f"The listener's {field.name} is {value}; give {low:g} to {high:g}.")


# Ward and Tsukahara 2000, English, and what is added to it.
LOW_PITCH = 26  # percentile of the pitch so far
LOW_FOR = 0.11  # seconds
SPOKEN = 0.7  # seconds of speech before
ANSWER_AFTER = 0.7  # seconds from the cue
APART = 0.8  # seconds between answers at least
PAUSE, TALK_BEFORE_PAUSE = 0.4, 1.2  # seconds: the second cue


class Cue(NamedTuple):
    """A moment at which a listener may answer, in seconds, and why."""

    time: float
    why: str  # "low pitch" or "pause"


def cues(voice: Prosody) -> list[Cue]:
    """Moments to answer; each is found from what was heard before it."""
    found: list[Cue] = []
    low_needed = max(1, math.ceil(LOW_FOR * FPS))
    talked = before = low = 0.0
    pitches: list[float] = []
    for t in range(len(voice.pitch)):
        now = (t + 1) * STEP
        pitch = float(voice.pitch[t])
        talk, pause = float(voice.talk[t]), float(voice.pause[t])
        if pitch > 0:
            pitches.append(pitch)
        if talk > 0:
            talked = talk
        # Half a minute of the past tells what is low in this voice, once there is a second of it.
        known = pitches[-750:]
        is_low = pitch > 0 and len(known) >= 25 and pitch <= float(np.percentile(known, LOW_PITCH))
        low = low + 1 if is_low else 0
        why = ""
        if low == low_needed and talk >= SPOKEN:
            why = "low pitch"
        elif before < PAUSE <= pause and talked >= TALK_BEFORE_PAUSE:
            why, talked = "pause", 0.0
        before = pause
        if why and (not found or now - found[-1].time >= APART):
            found.append(Cue(now, why))
    return found


def listen(
    sound: Sound | None = None,
    speaker: FaceTrack | None = None,
    takes: int = 1,
    seed: int = 0,
    options: Options | None = None,
    frames: int | None = None,
) -> FaceReaction:
    """Takes of a rule-based listener at 25 frames per second.

    Args:
        sound: the speaker's; None or silence: no answers, but the face lives.
        speaker: the speaker's face curves, which are mimicked; None: nothing is.
        frames: length; None = that of the sound, else of the curves.

    Raises:
        HeroError: fewer than 1 take, or nothing that says how long.
    """
    options = options or Options()
    if takes < 1:
        raise HeroError(f"{takes} takes cannot be made; ask for at least one.")
    if frames is None:
        if sound is None and speaker is None:
            raise HeroError("The listener needs the speaker's sound, face curves, or a length.")
        frames = sound.frames if sound is not None else speaker.frames if speaker is not None else 0
    if frames < 1:
        raise HeroError(f"A face of {frames} frames cannot be made; ask for at least one.")
    voice = None if sound is None else prosody(sound, frames)
    moments = [] if voice is None else cues(voice)
    faces = [_take(moments, speaker, frames, np.random.SeedSequence([seed, take]), options) for take in range(takes)]
    coefficients = np.stack(faces)
    attributes = attributes_of(coefficients[..., EXPRESSION])
    attributes[..., 15] = (attributes[..., 15] + 0.4 * options.valence).clip(-1, 1)
    attributes[..., 16] = (attributes[..., 16] + 0.4 * options.arousal).clip(-1, 1)
    notes = [] if sound is None else list(sound.notes)
    if voice is not None and not voice.speech.any():
        notes.append("no speech was heard: nothing is answered")
    return FaceReaction(coefficients, attributes, FPS, SOURCE, seed, tuple(notes))


def _take(
    moments: list[Cue], speaker: FaceTrack | None, frames: int, seed: np.random.SeedSequence, o: Options
) -> Array:
    """(frames, 58). Each behaviour draws from a generator of its own, in the order of time."""
    answer, blink, gaze, idle, mimic = (np.random.default_rng(s) for s in seed.spawn(5))
    face = np.zeros((frames, 58))
    t = np.arange(frames) * STEP
    _mood(face, o)
    _idle(face, t, idle, o)
    nods = _answers(face, t, moments, answer, o)
    if speaker is not None and o.mimicry:
        _mimic(face, speaker, mimic, o)
    pauses = [cue.time for cue in moments if cue.why == "pause"]
    _gaze(face, t, gaze, o)
    _blinks(face, t, sorted([*nods, *pauses]), blink, o)
    face[:, EXPRESSION] = face[:, EXPRESSION].clip(0, 1)
    return face.astype(np.float32)


def _smooth(x: Array) -> Array:
    """0 .. 1 with slopes of zero at both ends."""
    x = x.clip(0, 1)
    found: Array = x * x * (3 - 2 * x)
    return found


def _envelope(t: Array, start: float, attack: float, hold: float, release: float) -> Array:
    return _smooth((t - start) / attack) * (1 - _smooth((t - start - attack - hold) / release))


def _add(face: Array, name: str, curve: Array | float) -> None:
    for index in sides(name):
        face[:, index] += curve


def _mood(face: Array, o: Options) -> None:
    friendly, gloomy = max(0.0, o.valence), max(0.0, -o.valence)
    _add(face, "mouthSmile", 0.15 * friendly)
    _add(face, "cheekSquint", 0.08 * friendly)
    _add(face, "mouthFrown", 0.15 * gloomy)
    _add(face, "browDown", 0.15 * gloomy)
    _add(face, "browInnerUp", 0.12 * gloomy)
    _add(face, "eyeWide", 0.15 * max(0.0, o.arousal))
    _add(face, "browOuterUp", 0.08 * max(0.0, o.arousal))
    _add(face, "eyeSquint", 0.2 * max(0.0, -o.arousal))


def _idle(face: Array, t: Array, rng: np.random.Generator, o: Options) -> None:
    """Slow sway of less than a degree, breath, and a mouth that is never quite still."""

    def wander(size: float, low: float, high: float) -> Array:
        rates, phases = rng.uniform(low, high, 4), rng.uniform(0, 2 * np.pi, 4)
        found: Array = size * o.idle * np.sin(2 * np.pi * rates * t[:, None] + phases).mean(1)
        return found

    for axis, degrees in ((52, 0.9), (53, 1.0), (54, 0.7)):
        face[:, axis] += np.radians(wander(degrees, 0.05, 0.5))
    breath = np.sin(2 * np.pi * rng.uniform(0.22, 0.3) * t + rng.uniform(0, 2 * np.pi))
    face[:, 52] += np.radians(0.25) * o.idle * breath
    face[:, 56] += 0.001 * o.idle * breath
    for name, size in (("mouthPress", 0.05), ("browInnerUp", 0.04), ("mouthSmile", 0.03)):
        _add(face, name, np.abs(wander(size, 0.03, 0.2)))


def _answers(face: Array, t: Array, moments: list[Cue], rng: np.random.Generator, o: Options) -> list[float]:
    """Nods, smiles, brows and tilts after cues; returns when the nods began.

    What is drawn for a cue is drawn whether it is answered or not, so that one slider does not change all the rest.
    """
    nods: list[float] = []
    last = -1e9
    for cue in moments:
        d = rng.random(12)
        start = cue.time + (ANSWER_AFTER if cue.why == "low pitch" else 0.15 + 0.25 * d[0]) + o.delay
        if d[1] > 0.15 + 0.85 * o.attentiveness or start - last < APART + 1.5 * (1 - o.attentiveness) * d[2]:
            continue
        last = start
        friendly = 0.5 + 0.5 * o.valence
        weights = np.array([0.6 * o.nods, 0.5 * friendly * o.smiles, 0.15 * o.brows, 0.12 * o.tilts])
        if not weights.sum():
            continue
        form = int(np.searchsorted(np.cumsum(weights / weights.sum()), d[3], side="right").clip(0, 3))
        lively = 1 + 0.3 * o.arousal
        if form == 0:
            nods.append(start)
            degrees, cycles = (4 + 4 * d[4]) * lively * min(o.nods, 2.0), 1 + int(3 * d[5] * d[5])
            _nod(face, t, start, np.radians(degrees), cycles, (2 + d[6]) * (0.9 + 0.1 * lively))
        if form == 1 or (form == 0 and d[7] < 0.25 * friendly * min(1.0, o.smiles)):
            _smile(face, t, start, 0.2 + 0.2 * d[8] * lively, d, min(o.smiles, 2.0) * (0.6 + 0.8 * friendly))
        if form == 2 or (form == 0 and d[9] < 0.12 * min(1.0, o.brows)):
            curve = (0.35 + 0.3 * d[8]) * lively * min(o.brows, 2.0) * _envelope(t, start, 0.2, 0.4, 0.35)
            _add(face, "browInnerUp", 0.8 * curve)
            _add(face, "browOuterUp", curve)
        if form == 3:
            side = 1 if d[10] < 0.5 else -1
            angle = side * np.radians(3 + 3 * d[4]) * min(o.tilts, 2.0)
            face[:, 54] += angle * _envelope(t, start, 0.5, 0.6 + d[5], 0.7)
    return nods


def _nod(face: Array, t: Array, start: float, angle: float, cycles: int, rate: float) -> None:
    """Down and back, each time less: +pitch is down."""
    local = t - start
    inside = (local >= 0) & (local <= cycles / rate)
    down = (1 - np.cos(2 * np.pi * rate * local)) / 2
    face[:, 52] += np.where(inside, angle * down * 0.7 ** np.floor(local * rate), 0)


def _smile(face: Array, t: Array, start: float, unit: float, d: Array, scale: float) -> None:
    """AU12 with AU6, one side a little more than the other."""
    curve = scale * unit * _envelope(t, start, 0.3 + 0.2 * d[9], 0.5 + 1.5 * d[10], 0.6 + 0.4 * d[11])
    lean = 0.12 * (d[4] - 0.5)
    face[:, INDEX["mouthSmileLeft"]] += curve * (1 + lean)
    face[:, INDEX["mouthSmileRight"]] += curve * (1 - lean)
    _add(face, "cheekSquint", 0.5 * curve)
    _add(face, "eyeSquint", 0.12 * curve)


def _mimic(face: Array, speaker: FaceTrack, rng: np.random.Generator, o: Options) -> None:
    """The speaker's smile and brows, late and weak, below 1 Hz."""
    frames = len(face)
    late = round((rng.uniform(0.6, 1.0) + o.delay) * FPS)
    share = rng.uniform(0.3, 0.5) * min(o.mimicry, 2.5)
    source = speaker.coefficients.astype(np.float64)
    keep = 1 - math.exp(-2 * math.pi * 1.0 / FPS)  # one pole at 1 Hz
    for name in ("mouthSmile", "cheekSquint", "browInnerUp", "browOuterUp", "browDown", "mouthFrown"):
        for index in sides(name):
            # A face at rest is not at 0: what counts is what rises above the least so far.
            raw = source[:, index] - np.minimum.accumulate(source[:, index])
            smooth = np.zeros(frames)
            first = second = 0.0
            for n in range(frames):
                value = raw[n - late] if 0 <= n - late < len(raw) else 0.0
                first += keep * (value - first)
                second += keep * (first - second)
                smooth[n] = second
            face[:, index] += share * smooth


def _gaze(face: Array, t: Array, rng: np.random.Generator, o: Options) -> None:
    """Eyes on the speaker, short looks away, and small saccades around both."""
    left, up = np.zeros(len(t)), np.zeros(len(t))
    tremor = np.random.default_rng(rng.integers(1 << 62))
    now, away = 0.0, False
    while now < t[-1] + STEP:
        d = rng.random(5)
        held = 0.4 + 0.9 * d[0] if away else (1.5 + 4 * d[0]) * (0.6 + 0.7 * o.attentiveness)
        part = (t >= now) & (t < now + held)
        if away:
            angle = np.radians(6 + 9 * d[1]) * o.gaze
            left[part], up[part] = angle * (1 if d[2] < 0.5 else -1), angle * (0.35 - d[3])
        now, away = now + held, not away
    small = 0.0
    while small < t[-1] + STEP:  # saccades of less than a degree
        d = tremor.random(3)
        held = 0.4 + 1.2 * d[0]
        part = (t >= small) & (t < small + held)
        left[part] += np.radians(1.2) * (d[1] - 0.5)
        up[part] += np.radians(0.8) * (d[2] - 0.5)
        small += held
    # A saccade takes a frame and a half.
    for angles in (left, up):
        angles[1:] = 0.35 * angles[:-1] + 0.65 * angles[1:]
    # The eyes stay on the speaker while the head moves under them.
    look(face, (left - face[:, 53]).clip(-EYE_RANGE, EYE_RANGE), (up + face[:, 52]).clip(-EYE_RANGE, EYE_RANGE))
    _add(face, "eyeBlink", 0.25 * face[:, INDEX["eyeLookDownLeft"]])  # lids follow eyes that look down


def _blinks(face: Array, t: Array, likely: list[float], rng: np.random.Generator, o: Options) -> None:
    """A log-normal renewal process of 3.5 s on average, and more at pauses and nods: 100 ms down, 150 ms up."""
    if not o.blinks:
        return
    mean, spread = 3.5 / o.blinks / (1 + 0.3 * o.arousal), 0.6
    extra = np.random.default_rng(rng.integers(1 << 62))
    times, now = list[float](), 0.3
    while now < t[-1] + STEP:
        now += float(rng.lognormal(math.log(mean) - spread**2 / 2, spread))
        times.append(now)
    for moment in likely:
        d = extra.random(2)
        if d[0] < 0.4:
            times.append(moment + 0.1 + 0.2 * d[1])
    lids = np.zeros(len(t))
    last = -1.0
    for moment in sorted(times):
        moment = round(moment * FPS) / FPS  # on a frame, or the lids would never quite meet
        if moment - last < 0.4:
            continue
        last = moment
        lids = np.maximum(lids, _smooth((t - moment + 0.1) / 0.1) * (1 - _smooth((t - moment - 0.02) / 0.15)))
    for index in sides("eyeBlink"):
        face[:, index] = np.maximum(face[:, index], lids)
    # Closed lids neither widen nor squint.
    for name in ("eyeWide", "eyeSquint"):
        for index in sides(name):
            face[:, index] *= 1 - lids
