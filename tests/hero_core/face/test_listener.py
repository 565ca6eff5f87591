# SPDX-License-Identifier: GPL-3.0-or-later
"""The rule-based listener answers at the right moments, lives by itself, and does what its sliders say."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hero_core.errors import HeroError
from hero_core.face import listener
from hero_core.face.curves import FaceTrack
from hero_core.face.listener import Options, cues, listen
from hero_core.face.reaction import INDEX, Array, sides
from hero_core.face.sound import Sound, prosody
from tests.hero_core.face.voices import RATE, talk, voice

PITCH, YAW, ROLL, BLINK = 52, 53, 54, 8
ATTENTIVE = Options(attentiveness=1.0)


def peaks(x: Array, height: float) -> int:
    return int(((x[1:-1] > height) & (x[1:-1] >= x[:-2]) & (x[1:-1] > x[2:])).sum())


def moving(face: Array, name: str) -> float:
    return float(np.ptp(face[..., sides(name)]))


def test_it_says_what_it_is() -> None:
    face = listen(talk(8.0), takes=2, seed=1)
    assert face.source == "rule-based listener (not learned)"
    assert face.coefficients.shape == (2, 200, 58) and face.attributes.shape == (2, 200, 25)


def test_cues_follow_pauses_and_low_pitch() -> None:
    found = cues(prosody(voice([(0.5, 3.5), (4.5, 7.5)], 9.0)))
    pauses = [c.time for c in found if c.why == "pause"]
    np.testing.assert_allclose(pauses, [3.9, 7.9], atol=0.35)
    low = [c.time for c in found if c.why == "low pitch"]
    assert low and all(1.2 <= t <= 3.8 or 5.2 <= t <= 7.8 for t in low)
    assert np.diff([c.time for c in found]).min() >= listener.APART
    assert not cues(prosody(voice([(1.0, 1.4)], 4.0)))  # too short to be answered


def test_seeds_and_takes() -> None:
    sound = talk(10.0)
    one, same, other = (listen(sound, takes=3, seed=s).coefficients for s in (4, 4, 5))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert np.abs(one[0] - one[1]).max() > 0.1
    assert np.array_equal(listen(sound, takes=1, seed=4).coefficients[0], one[0])


def test_nods_answer_speech_and_not_silence() -> None:
    only = Options(attentiveness=1, smiles=0, brows=0, tilts=0, idle=0, gaze=0)
    sound = talk(20.0)
    head = listen(sound, options=only, takes=4).coefficients[..., PITCH]
    degrees = np.degrees(head)
    assert 3 < degrees.max() < 12 and degrees.min() > -0.01
    assert all(2 <= peaks(take, 2.0) <= 40 for take in degrees)
    first = min(c.time for c in cues(prosody(sound)))
    assert not head[:, : int(first * 25)].any()
    quiet = listen(Sound(np.zeros(20 * RATE, np.float32)), options=only)
    assert not quiet.coefficients[..., PITCH].any()
    assert "the sound" in " ".join(quiet.notes) or "no speech was heard" in " ".join(quiet.notes)


def test_sliders() -> None:
    sound = talk(12.0)

    def face(**changes: float) -> Array:
        return listen(sound, options=Options(**{"attentiveness": 1.0, **changes}), takes=4).coefficients  # type: ignore[arg-type]

    assert np.abs(face(nods=0)[..., PITCH]).max() < np.abs(face()[..., PITCH]).max()
    smile = INDEX["mouthSmileLeft"]
    assert face(valence=1)[..., smile].mean() > face()[..., smile].mean() > face(valence=-1)[..., smile].mean()
    assert face(valence=-1)[..., INDEX["mouthFrownLeft"]].min() > 0.1
    assert face(arousal=1)[..., INDEX["eyeWideLeft"]].mean() > 0.1 > face()[..., INDEX["eyeWideLeft"]].mean()
    assert not face(blinks=0, gaze=0, idle=0)[..., BLINK].max() > 0.3
    busy, absent = (np.abs(np.diff(face(attentiveness=a)[..., PITCH])).sum() for a in (1.0, 0.0))
    assert busy > 1.5 * absent
    late, soon = (face(delay=d, smiles=0, brows=0, tilts=0, idle=0, gaze=0)[0, :, PITCH] for d in (0.4, 0.0))
    assert np.flatnonzero(late)[0] - np.flatnonzero(soon)[0] == pytest.approx(10, abs=1)
    attributes = listen(sound, options=Options(valence=1)).attributes
    assert attributes[..., 15].mean() > 0.3


def test_blinks() -> None:
    lids = listen(frames=25 * 120, takes=3, seed=2).coefficients[..., BLINK]
    for take in lids:
        assert 20 <= peaks(take, 0.95) <= 60  # a mean of 3.5 s
        closed = np.flatnonzero(take > 0.95)
        assert take[closed].min() > 0.95 and np.diff(closed).max() < 25 * 15
    assert lids.max() > 0.99  # they meet
    single = lids[0, np.flatnonzero(lids[0] > 0.95)[0] - 4 :][:10]
    assert (single > 0.3).sum() <= 5


def test_gaze_and_idle() -> None:
    face = listen(frames=25 * 60, options=Options(blinks=0)).coefficients[0]
    away = face[:, [INDEX[n] for n in ("eyeLookOutLeft", "eyeLookOutRight")]].max(1) > 0.12
    assert 0.03 < away.mean() < 0.4
    head = np.degrees(face[:, 52:55])
    assert (np.abs(head).max(0) < 1.5).all() and (head.std(0) > 0.05).all()
    # Eyes that look to the person's left turn out on the left and in on the right.
    left, right = face[:, INDEX["eyeLookOutLeft"]], face[:, INDEX["eyeLookInRight"]]
    np.testing.assert_allclose(left, right, atol=1e-6)
    still = listen(frames=100, options=Options(idle=0, gaze=0, blinks=0)).coefficients[0]
    assert np.abs(still[:, 52:55]).max() == 0


def test_mimicry_is_late_and_weak() -> None:
    speaker = np.zeros((150, 58), np.float32)
    speaker[50:100, sides("mouthSmile")] = 0.8
    track = FaceTrack(speaker, np.zeros((150, 25), np.float32), frozenset(["mouthSmileLeft"]), "mediapipe")
    only = Options(idle=0, blinks=0, gaze=0)
    for take in listen(speaker=track, options=only, takes=5).coefficients:
        smile = take[:, INDEX["mouthSmileLeft"]]
        assert not smile[:65].any() and 0.2 < smile.max() < 0.41
        assert 60 < smile.argmax() < 135
    assert not moving(listen(speaker=track, options=Options(idle=0, mimicry=0)).coefficients, "mouthSmile")


def test_it_sees_no_future() -> None:
    whole = talk(12.0)
    rng = np.random.default_rng(1)
    changed = Sound(np.concatenate((whole.samples[: 6 * RATE], rng.normal(0, 0.1, 6 * RATE))).astype(np.float32))
    one, other = (listen(s, takes=3, seed=3, options=ATTENTIVE).coefficients for s in (whole, changed))
    np.testing.assert_array_equal(one[:, :150], other[:, :150])
    assert np.abs(one[:, 150:] - other[:, 150:]).max() > 0.01
    np.testing.assert_array_equal(listen(whole, frames=100).coefficients, listen(whole).coefficients[:, :100])


def test_fast_enough() -> None:
    sound = talk(30.0)
    listen(sound, takes=1)
    started = time.process_time()
    face = listen(sound, takes=1)
    assert face.frames == 750 and time.process_time() - started < 30 / 50


def test_in_range_at_the_sliders_ends() -> None:
    sound = talk(10.0)
    for valence in (-1, 1):
        o = Options(valence, valence, 1, 5, 5, 5, 5, 5, 5, 5, 5, 0)
        face = listen(sound, options=o, takes=2)
        shapes = face.coefficients[..., :52]
        assert shapes.min() >= 0 and shapes.max() <= 1 and np.abs(face.coefficients[..., 52:55]).max() < 0.8


def test_bad_requests() -> None:
    with pytest.raises(HeroError, match="valence is 2; give -1 to 1"):
        Options(valence=2)
    with pytest.raises(HeroError, match="nods is nan"):
        Options(nods=float("nan"))
    with pytest.raises(HeroError, match="0 takes"):
        listen(frames=5, takes=0)
    with pytest.raises(HeroError, match="or a length"):
        listen()
    with pytest.raises(HeroError, match="0 frames"):
        listen(frames=0)
