# SPDX-License-Identifier: GPL-3.0-or-later
"""What ReactDiff is told of a person, frame by frame at 25 per second.

"curves", our own: needs no other network. The streams have the widths of ``config.small``:

    va      6   head rotation and translation
    au     52   ARKit shapes
    fer    25   attributes
    mfcc    6   prosody (``sound.Prosody.columns``)
    speech 40   log-mel

"official": what the frozen networks of the paper saw. Of these the sound's 26 MFCC are computed here, and wav2vec 2.0
through the optional library transformers from weights that the user has; the video's (64 of ELIM, 25088 of
ME-GraphAU, 1408 of FER) come from files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hero_core.errors import HeroError

from .curves import FaceTrack
from .reaction import Array, centred
from .sound import RATE, Sound, kaldi_mfcc, log_mel, prosody, resampled

if TYPE_CHECKING:
    from .reactdiff import Features

MEL_BANDS = 40


def curves(sound: Sound | None, speaker: FaceTrack | None, frames: int | None = None) -> Features:
    """Features of the kind "curves"; a sense that is not known is all zeros.

    Args:
        sound: what the person says.
        speaker: what the person's face does.
        frames: length; None = that of the face, or of the sound where there is none.

    Raises:
        HeroError: neither is given.
    """
    import torch

    from .reactdiff import Features

    if sound is None and speaker is None:
        raise HeroError("A learned listener needs the speaker's sound or face curves; give at least one.")
    if frames is None:
        frames = speaker.frames if speaker is not None else sound.frames if sound is not None else 1
    return Features(torch.from_numpy(video_rows(speaker, frames)), torch.from_numpy(sound_rows(sound, frames)))


def video_rows(speaker: FaceTrack | None, frames: int, rest: Array | None = None) -> Array:
    """(T, 83): head, shapes and attributes in the model's order [va, au, fer].

    The head is relative to ``rest`` (6,), its pose when the person looks ahead; None = the clip's median, which a
    live stream does not know.
    """
    if speaker is None:
        return np.zeros((frames, 83), np.float32)
    track = speaker.fitted(frames)
    if rest is None:
        face = centred(track.coefficients)
    else:
        face = np.array(track.coefficients)
        face[:, 52:] -= np.asarray(rest, np.float32)
        face[:, 52:55] = np.angle(np.exp(1j * face[:, 52:55]))
    return np.concatenate((face[:, 52:], face[:, :52], track.attributes), 1).astype(np.float32)


def sound_rows(sound: Sound | None, frames: int) -> Array:
    """(T, 46): prosody and log-mel, the latter about -1 .. 1; zeros where there is no sound."""
    if sound is None:
        return np.zeros((frames, 6 + MEL_BANDS), np.float32)
    if sound.rate != RATE:
        sound = Sound(resampled(sound.samples, sound.rate, RATE), RATE)
    mel = (log_mel(sound, MEL_BANDS, frames) + 7) / 7
    return np.concatenate((prosody(sound, frames).columns(), mel), 1).astype(np.float32)


def official_sound(sound: Sound, wav2vec: Path, frames: int = 750) -> Array:
    """(frames, 26 + 1536): MFCC at the sound's own rate, and pairs of rows of wav2vec 2.0."""
    mfcc = held(kaldi_mfcc(sound), frames)
    return np.concatenate((mfcc, paired(wav2vec2(sound, wav2vec), frames)), 1)


def held(rows: Array, frames: int) -> Array:
    """Rows cut to, or their last one held up to, a number of frames."""
    return np.concatenate((rows, np.repeat(rows[-1:], max(0, frames - len(rows)), 0)))[:frames]


def paired(rows: Array, frames: int) -> Array:
    """Two rows at 50 per second side by side for each frame: (N, C) -> (frames, 2 C)."""
    even = held(rows, 2 * frames)
    return even.reshape(frames, 2 * rows.shape[1])


def wav2vec2(sound: Sound, folder: Path) -> Array:
    """(N, 768) last hidden states at about 50 per second, of wav2vec2-base-960h in a folder of the user's.

    Raises:
        HeroError: the library transformers or the weights are absent.
    """
    if not (folder / "config.json").is_file():
        raise HeroError(f"'{folder}' holds no wav2vec 2.0 weights; download wav2vec2-base-960h into it.")
    try:
        import transformers  # type: ignore[import-not-found, unused-ignore]
    except ImportError as err:
        raise HeroError("wav2vec 2.0 needs the Python package 'transformers'; install it or use curves.") from err
    import torch

    samples = resampled(sound.samples, sound.rate, RATE)
    samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    try:
        model = transformers.Wav2Vec2Model.from_pretrained(str(folder), local_files_only=True).eval()
    except Exception as err:  # the library raises many kinds for damaged files
        raise HeroError(f"The wav2vec 2.0 weights in '{folder}' cannot be read ({err}); copy them again.") from err
    with torch.no_grad():
        states: Array = model(torch.from_numpy(samples)[None]).last_hidden_state[0].numpy()
    return states
