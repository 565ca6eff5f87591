# SPDX-License-Identifier: GPL-3.0-or-later
"""Sound from files of all kinds, and what is heard in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hero_core.errors import HeroError
from hero_core.face import features, sound
from hero_core.face.curves import FaceTrack
from hero_core.face.sound import Sound, kaldi_mfcc, log_mel, mono, prosody, read, resampled
from tests.hero_core.face.voices import RATE, talk, voice, write_wav


@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_files(tmp_path: Path, channels: int, rate: int) -> None:
    t = np.arange(rate) / rate
    x = 0.5 * np.sin(2 * np.pi * 300 * t)
    shares = np.linspace(0, 2, channels) if channels > 1 else np.ones(1)  # mean 1
    got = read(write_wav(tmp_path / "a.wav", x[:, None] * shares * 0.5, rate))
    assert got.rate == RATE and abs(got.duration - 1) < 0.01 and got.frames == 25
    wanted = 0.25 * np.sin(2 * np.pi * 300 * np.arange(len(got.samples)) / RATE)
    np.testing.assert_allclose(got.samples[500:-500], wanted[500:-500], atol=0.02)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    assert "the sound is silent" in read(write_wav(tmp_path / "s.wav", np.zeros(RATE))).notes
    loud = (3 * np.sin(np.arange(RATE))).clip(-1, 1)
    assert "the sound is clipped" in read(write_wav(tmp_path / "c.wav", loud)).notes
    assert "8 channels were averaged" in mono(np.ones((9, 8)) / 2, RATE).notes
    with pytest.raises(HeroError, match="no file"):
        read(tmp_path / "none.wav")
    (tmp_path / "t.wav").write_text("text")
    with pytest.raises(HeroError, match="cannot be read"):
        read(tmp_path / "t.wav")
    for bad in (np.zeros(0), np.zeros((2, 2, 2))):
        with pytest.raises(HeroError, match="cannot be used"):
            mono(bad, RATE)
    with pytest.raises(HeroError, match="NaN"):
        mono(np.array([0, np.nan]), RATE)
    assert mono(np.array([0, 16384], np.int16), RATE).samples.tolist() == [0, 0.5]


def test_a_movie_without_sound(tmp_path: Path) -> None:
    from tests.movies import write_movie

    with pytest.raises(HeroError, match="has no sound"):
        read(write_movie(tmp_path / "m.mp4", 5))
    assert read(write_movie(tmp_path / "s.mp4", 25, sound=True)).duration == pytest.approx(1, abs=0.1)


def test_resampling_keeps_tones_and_drops_what_would_fold() -> None:
    t = np.arange(48000) / 48000
    kept = resampled(np.sin(2 * np.pi * 1000 * t).astype(np.float32), 48000, RATE)
    np.testing.assert_allclose(kept[200:-200], np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)[200:-200], atol=0.01)
    folded = resampled(np.sin(2 * np.pi * 9000 * t).astype(np.float32), 48000, RATE)
    assert np.abs(folded[200:-200]).max() < 0.01


# Kaldi's numbers (torchaudio 2.11, compliance.kaldi.mfcc) of this sound: three coefficients of rows 0, 20, 49.
KALDI = [[4.0333, 51.686, 67.2983], [3.8349, 19.7847, 74.1018], [2.619, 7.3343, 113.5176]]


def test_mfcc_are_kaldis() -> None:
    t = np.arange(2 * RATE) / RATE
    x = 0.3 * np.sin(2 * np.pi * 180 * t) * (1 + np.sin(2 * np.pi * 3 * t)) + 0.05 * np.sin(2 * np.pi * 2500 * t * t)
    rows = kaldi_mfcc(Sound(x.astype(np.float32)))
    assert rows.shape == (50, 26)
    np.testing.assert_allclose(rows[[0, 20, 49], :3], KALDI, rtol=1e-3, atol=1e-3)
    with pytest.raises(HeroError, match="at least"):
        kaldi_mfcc(Sound(x[:100]))


def test_pitch_and_voicing() -> None:
    for hertz in (80, 140, 250, 380):
        t = np.arange(RATE) / RATE
        tone = sum(np.sin(2 * np.pi * hertz * k * t) / k for k in range(1, 6))
        heard = prosody(Sound((0.1 * tone).astype(np.float32)))
        np.testing.assert_allclose(heard.pitch[3:], hertz, rtol=0.02)
        assert heard.voicing[3:].min() > 0.8
    noise = prosody(Sound(np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)))
    assert float((noise.pitch > 0).mean()) < 0.1


def test_pauses() -> None:
    heard = prosody(voice([(1.0, 3.0), (4.0, 6.0)], 7.0))
    spoken = np.flatnonzero(np.diff(heard.speech.astype(int)))
    np.testing.assert_allclose((spoken + 1) / 25, [1.0, 3.2, 4.0, 6.2], atol=0.12)
    assert heard.talk[int(2.9 * 25)] == pytest.approx(1.9, abs=0.15) and heard.pause[24] > 0.8
    assert not heard.speech[0] and heard.energy[10] < -55 and heard.columns().shape == (175, 6)
    # A clip that begins in the middle of speech.
    assert prosody(voice([(0.0, 3.0)], 3.0)).speech[2:].all()


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.ones(RATE), np.zeros(1), np.full(RATE, 0.001)])
def test_no_voice(samples: np.ndarray) -> None:  # type: ignore[type-arg]
    heard = prosody(Sound(samples.astype(np.float32)))
    assert not heard.speech[5:].any() and np.isfinite(heard.columns()).all()
    assert np.isfinite(log_mel(Sound(samples.astype(np.float32)))).all()


def test_what_is_heard_does_not_depend_on_what_comes() -> None:
    whole = talk(8.0)
    cut = Sound(np.concatenate((whole.samples[: 4 * RATE], np.random.default_rng(1).normal(0, 0.2, 4 * RATE))))
    first, second = features.sound_rows(whole, 200), features.sound_rows(cut, 200)
    np.testing.assert_allclose(first[:100], second[:100], atol=1e-5)
    assert np.abs(first[100:] - second[100:]).max() > 0.1


def test_curves_for_a_network() -> None:
    track = FaceTrack(np.full((50, 58), 0.3, np.float32), np.zeros((50, 25), np.float32), frozenset(), "mediapipe")
    both = features.curves(talk(4.0), track)
    assert both.video.shape == (50, 83) and both.audio.shape == (50, 46)
    assert not both.video[:, :6].any()  # the head, relative to itself
    np.testing.assert_allclose(features.video_rows(track, 50, np.full(6, 0.1))[:, :6], 0.2, atol=1e-6)
    assert features.curves(talk(4.0), None).video.shape == (100, 83)
    assert not features.curves(None, track, 60).audio.any()
    with pytest.raises(HeroError, match="give at least one"):
        features.curves(None, None)
    rows = np.arange(10.0).reshape(5, 2)
    assert features.paired(rows, 3).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 8, 9]]
    with pytest.raises(HeroError, match=r"no wav2vec 2\.0 weights"):
        features.wav2vec2(talk(1.0), Path("nowhere"))


def test_frames_end_with_their_sound() -> None:
    x = np.arange(3200, dtype=np.float32)
    rows = sound.windows(Sound(x), 0.064)
    assert rows.shape == (5, 1024) and rows[:, -1].tolist() == [639, 1279, 1919, 2559, 3199] and rows[0, 0] == 0
