# SPDX-License-Identifier: GPL-3.0-or-later
"""Sound as a listener hears it: log-mel, MFCC and prosody, one row for each frame at 25 per second.

numpy only; PyAV for files. All but :func:`kaldi_mfcc` is causal: row n knows the sound up to the end of frame n
and nothing after it, so that a reaction may be driven live.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hero_core.errors import HeroError

from .reaction import FPS, Array

RATE = 16000
Floats = npt.NDArray[np.float64]
LOWEST, HIGHEST = 60.0, 400.0  # Hz, of a voice's pitch


@dataclass(frozen=True)
class Sound:
    """Mono sound: samples (N,) float32 in -1 .. 1, and their rate."""

    samples: Array
    rate: int = RATE
    notes: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        return len(self.samples) / self.rate

    @property
    def frames(self) -> int:
        """Frames at 25 per second that it lasts, at least one."""
        return max(1, round(self.duration * FPS))


def mono(samples: Array, rate: int) -> Sound:
    """A Sound from samples (N,) or (N, channels), integers or floats; channels are averaged.

    Raises:
        HeroError: no samples, a rate below 1000, or NaN.
    """
    x = np.asarray(samples)
    if x.ndim not in (1, 2) or not x.size or rate < 1000:
        raise HeroError(f"Sound of shape {x.shape} at {rate} Hz cannot be used; give (N,) or (N, channels) samples.")
    if x.dtype.kind in "iu":
        middle = 128 if x.dtype == np.uint8 else 0
        x = (x.astype(np.float32) - middle) / float(np.iinfo(x.dtype).max - middle + 1)
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise HeroError("The sound holds NaN or infinite samples; export it again.")
    channels = 1 if x.ndim == 1 else x.shape[1]
    if x.ndim == 2:
        x = x.mean(1, dtype=np.float32)
    notes = [f"{channels} channels were averaged"] if channels > 2 else []
    if float((np.abs(x) >= 0.999).mean()) > 0.001:
        notes.append("the sound is clipped")
    if float(np.abs(x).max()) < 1e-4:
        notes.append("the sound is silent")
    return Sound(x, rate, tuple(notes))


def read(path: str | os.PathLike[str]) -> Sound:
    """The first sound of a movie or sound file, channels averaged, at 16 kHz.

    Raises:
        HeroError: the file is missing, cannot be read, or has no sound.
    """
    source = Path(path)
    if not source.is_file():
        raise HeroError(f"There is no file '{source}' to hear.")
    try:
        import av
    except ImportError as err:
        raise HeroError("Reading sound from a file needs PyAV; install it with: pip install av") from err
    parts: list[Array] = []
    rate = channels = 0
    try:
        with av.open(str(source)) as container:
            if not container.streams.audio:
                raise HeroError(f"'{source}' has no sound; choose a clip with sound, or react without it.")
            stream = container.streams.audio[0]
            # Only the format is changed: how channels are mixed is ours to say, the same in every program. Packed
            # samples, because PyAV 18 reads past the end of a frame with a plane for each of 8 channels.
            resampler = av.AudioResampler(format="flt", layout=None, rate=None)
            for frame in _decoded(container, stream):
                for piece in resampler.resample(frame):
                    rate, channels = piece.sample_rate, piece.layout.nb_channels
                    parts.append(piece.to_ndarray().reshape(-1, channels).mean(1, dtype=np.float32))
    except HeroError:
        raise
    except Exception as err:  # PyAV raises many kinds for damaged files
        raise HeroError(f"The sound of '{source}' cannot be read ({err}); export it again.") from err
    if not parts:
        raise HeroError(f"'{source}' has no sound that can be decoded; export it again.")
    whole = mono(np.concatenate(parts).clip(-4, 4), rate)
    said = (f"{channels} channels were averaged",) if channels > 2 else ()
    return Sound(resampled(whole.samples, rate, RATE), RATE, said + whole.notes)


def _decoded(container: Any, stream: Any) -> Any:
    """Frames up to the end, or to where the file is broken off."""
    import av

    frames = container.decode(stream)
    while True:
        try:
            yield next(frames)
        except (StopIteration, av.error.InvalidDataError):
            return


def resampled(samples: Array, rate: int, target: int) -> Array:
    """(N,) samples at another rate: low-pass by a windowed sinc where it is lower, then linear interpolation."""
    x = np.asarray(samples, np.float32)
    if rate == target or not len(x):
        return x
    if target < rate:
        half = 16 * rate // target
        n = np.arange(-half, half + 1)
        cut = 0.9 * target / rate
        kernel = cut * np.sinc(cut * n) * np.blackman(len(n))
        x = _filtered(x, (kernel / kernel.sum()).astype(np.float32))
    count = max(1, int(len(x) * target / rate))
    return np.interp(np.arange(count) * (rate / target), np.arange(len(x)), x).astype(np.float32)


def _filtered(x: Array, kernel: Array) -> Array:
    """Convolution of the same length, in pieces by FFT (overlap-add)."""
    size = 1 << 15
    width = 1 << (size + len(kernel) - 1).bit_length()
    spectrum = np.fft.rfft(kernel, width)
    out = np.zeros(len(x) + width, np.float32)
    for start in range(0, len(x), size):
        piece = np.fft.irfft(np.fft.rfft(x[start : start + size], width) * spectrum, width)
        out[start : start + width] += piece
    half = len(kernel) // 2
    return out[half : half + len(x)]


# --- features -------------------------------------------------------------------------------------------------------


def windows(sound: Sound, seconds: float, frames: int | None = None, fps: float = FPS) -> Array:
    """(T, n) samples that end with each frame; before the start there is silence, and after the end."""
    n = round(seconds * sound.rate)
    count = sound.frames if frames is None else frames
    ends = np.round((np.arange(count) + 1) / fps * sound.rate).astype(np.int64)
    x = np.concatenate((np.zeros(n, np.float32), sound.samples, np.zeros(max(0, ends[-1] - len(sound.samples)))))
    view = np.lib.stride_tricks.sliding_window_view(x, n)
    found: Array = view[ends].astype(np.float32)
    return found


def mel_filters(bands: int, size: int, rate: int, low: float = 20.0, high: float | None = None) -> Floats:
    """(bands, size / 2 + 1) triangles that are even on the mel scale 1127 ln(1 + f / 700)."""

    def mel(f: Any) -> Any:
        return 1127.0 * np.log(1.0 + np.asarray(f) / 700.0)

    edges = np.linspace(mel(low), mel(high or rate / 2), bands + 2)
    at = mel(np.arange(size // 2 + 1) * rate / size)
    up = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    found: Floats = np.maximum(0, np.minimum(up, down))
    return found


def log_mel(sound: Sound, bands: int = 40, frames: int | None = None) -> Array:
    """(T, bands) natural logarithm of the mel energies of 64 ms that end with each frame, plus 1e-6."""
    x = windows(sound, 0.064, frames)
    size = 1 << (x.shape[1] - 1).bit_length()
    power = np.abs(np.fft.rfft(x * np.hanning(x.shape[1]), size)) ** 2 / x.shape[1]
    found: Array = np.log(power @ mel_filters(bands, size, sound.rate).T + 1e-6).astype(np.float32)
    return found


def kaldi_mfcc(
    sound: Sound,
    ceps: int = 26,
    bands: int = 26,
    length: float = 0.040,
    shift: float = 0.040,
    energy: bool = True,
) -> Array:
    """(rows, ceps) MFCC as Kaldi computes them, without dither; the defaults are those of the official ReactDiff.

    Pre-emphasis 0.97, Povey window, mel energies from 20 Hz up, orthonormal cosines, lifter 22; the first one is the
    log energy (at least 0, Kaldi's floor of 1) where ``energy`` is on. Rows whose window passes the end are left out.
    """
    n, step = int(length * sound.rate), int(shift * sound.rate)
    if len(sound.samples) < n:
        raise HeroError(f"The sound lasts {sound.duration:.3f} s; MFCC need at least {length} s.")
    x = np.lib.stride_tricks.sliding_window_view(sound.samples.astype(np.float64), n)[::step]
    x = x - x.mean(1, keepdims=True)
    loud = np.log(np.maximum((x**2).sum(1), np.finfo(np.float32).eps))
    x = x - 0.97 * np.concatenate((x[:, :1], x[:, :-1]), 1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / (n - 1))) ** 0.85
    size = 1 << (n - 1).bit_length()
    power = np.abs(np.fft.rfft(x * window, size)) ** 2
    filters = mel_filters(bands, size, sound.rate)
    filters[:, -1] = 0  # Kaldi leaves out the highest bin
    mel = np.log(np.maximum(power @ filters.T, np.finfo(np.float32).eps))
    place = np.arange(bands)
    cosines = np.cos(np.pi / bands * (place + 0.5)[:, None] * np.arange(ceps)) * np.sqrt(2 / bands)
    cosines[:, 0] = np.sqrt(1 / bands)
    out = (mel @ cosines) * (1 + 11 * np.sin(np.pi * np.arange(ceps) / 22))
    if energy:
        out[:, 0] = np.maximum(loud, 0)
    return out.astype(np.float32)


@dataclass(frozen=True)
class Prosody:
    """What a voice does, each (T,) at 25 frames per second.

    energy   dB relative to full scale, -80 in silence
    pitch    Hz, 0 where there is no voice
    voicing  0 .. 1, how periodic the sound is
    speech   bool, with hysteresis: a short dip is no pause
    talk     seconds since speech began, 0 in pauses
    pause    seconds since speech ended, 0 in speech; from the start, as if it had just ended
    """

    energy: Array
    pitch: Array
    voicing: Array
    speech: Array
    talk: Array
    pause: Array

    def columns(self) -> Array:
        """(T, 6) about -1 .. 1, for a network; nothing in it depends on later frames."""
        pitch = np.where(self.pitch > 0, np.log2(np.maximum(self.pitch, 1) / 150), 0)
        seconds = np.stack((self.talk, self.pause), 1)
        rest = np.stack((self.energy / 40 + 1, pitch, self.voicing, self.speech), 1)
        return np.concatenate((rest, seconds.clip(0, 4) / 4), 1).astype(np.float32)


def prosody(sound: Sound, frames: int | None = None) -> Prosody:
    """Energy, pitch, voicing and pauses by rules that know only the past.

    Pitch is the highest peak of the normalised autocorrelation of 64 ms between 60 and 400 Hz. Speech begins where
    the energy rises 12 dB above the background's and ends 6 dB above it; the background follows falling energy
    at once and rising energy by 2 dB a second.
    """
    x = windows(sound, 0.064, frames).astype(np.float64)
    recent = x[:, -round(sound.rate / FPS) :]
    energy = 10 * np.log10(np.maximum(recent.var(1), 1e-8))  # a constant is no sound
    pitch, voicing = _pitch(x, sound.rate)
    heard = (energy > -60) & (voicing > 0.5)
    pitch = np.where(heard, pitch, 0.0)
    count = len(energy)
    speech, talk, pause = np.zeros(count, bool), np.zeros(count), np.zeros(count)
    # A clip may begin in the middle of speech: until it falls, the background is taken to lie well below.
    floor = max(-70.0, min(-45.0, float(energy[0]) - 20)) if count else -60.0
    talking, quiet = False, 0
    for t in range(count):
        level = float(energy[t])
        floor = level if level < floor else min(floor + 2 / FPS, level)
        floor = min(max(floor, -70.0), -30.0)
        over = level - floor > (6 if talking else 12) and level > -55
        quiet = 0 if over else quiet + 1
        talking = over or (talking and quiet < 5)  # 200 ms
        speech[t] = talking
        talk[t] = talk[t - 1] + 1 / FPS if talking and t else (1 / FPS if talking else 0)
        pause[t] = 0 if talking else (pause[t - 1] if t else 0) + 1 / FPS
    return Prosody(_single(energy), _single(pitch), _single(voicing), speech, _single(talk), _single(pause))


def _single(x: Array) -> Array:
    return x.astype(np.float32)


def _pitch(x: Floats, rate: int) -> tuple[Floats, Floats]:
    """(T, n) samples -> pitch in Hz, and how periodic it is, 0 .. 1 (Boersma 1993: the window's own is divided out)."""
    n = x.shape[1]
    window = np.hanning(n)
    x = (x - x.mean(1, keepdims=True)) * window
    size = 1 << (2 * n - 1).bit_length()

    def correlated(y: Floats) -> Floats:
        found: Floats = np.fft.irfft(np.abs(np.fft.rfft(y, size)) ** 2, size)[..., :n]
        return found

    r, own = correlated(x), correlated(window)
    shortest, longest = int(rate / HIGHEST), min(int(rate / LOWEST), n * 3 // 4)
    r = r / np.maximum(r[:, :1], 1e-9) / (own / own[0]).clip(0.05)
    lags = r[:, shortest : longest + 1]
    # Of peaks that are nearly as high the shortest lag is taken: twice the period fits as well as the period.
    peak = lags.max(1, keepdims=True)
    inner = (lags[:, 1:-1] >= lags[:, :-2]) & (lags[:, 1:-1] >= lags[:, 2:]) & (lags[:, 1:-1] > peak - 0.08)
    first = np.where(inner.any(1), inner.argmax(1) + 1, lags.argmax(1))
    lag = first + shortest
    rows = np.arange(len(x))
    before, at, after = (r[rows, np.clip(lag + d, 0, n - 1)] for d in (-1, 0, 1))
    bend = before - 2 * at + after
    shift = np.where(np.abs(bend) > 1e-9, 0.5 * (before - after) / np.where(bend == 0, 1, bend), 0).clip(-0.5, 0.5)
    return rate / (lag + shift), at.clip(0, 1)
