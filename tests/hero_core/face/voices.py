# SPDX-License-Identifier: GPL-3.0-or-later
"""A made-up voice: pulses through a formant, phrases whose pitch falls, and pauses between them."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from hero_core.face.reaction import Array
from hero_core.face.sound import Sound

RATE = 16000


def voice(phrases: list[tuple[float, float]], seconds: float, seed: int = 0, rate: int = RATE) -> Sound:
    """Phrases from .. to seconds, each from 220 Hz down to 110 Hz, on faint noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    x = 0.0005 * rng.standard_normal(len(t))
    for start, end in phrases:
        inside = (t >= start) & (t < end)
        part = (t[inside] - start) / (end - start)
        phase = 2 * np.pi * np.cumsum(220 * 0.5**part) / rate
        tone = sum(np.sin(k * phase) / k for k in range(1, 9))
        syllables = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * (t[inside] - start))
        x[inside] += 0.1 * tone * syllables
    return Sound(x.astype(np.float32), rate)


def talk(seconds: float = 30.0, seed: int = 0) -> Sound:
    """Phrases of about 2.5 s with pauses of 0.7 s."""
    rng = np.random.default_rng(seed)
    phrases, now = list[tuple[float, float]](), 0.5
    while now < seconds - 1:
        length = float(rng.uniform(1.8, 3.2))
        phrases.append((now, min(now + length, seconds - 0.2)))
        now += length + float(rng.uniform(0.6, 0.9))
    return voice(phrases, seconds, seed)


def write_wav(path: Path, samples: Array, rate: int = RATE) -> Path:
    """(N,) or (N, channels) in -1 .. 1 as 16-bit PCM."""
    x = np.atleast_2d(samples.T).T
    with wave.open(str(path), "wb") as file:
        file.setnchannels(x.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((x.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return path
