# SPDX-License-Identifier: GPL-3.0-or-later
"""The two representations of a face, what leads from one to the other, and their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hero_core.errors import HeroError
from hero_core.face.reaction import (
    ARKIT,
    ATTRIBUTES,
    AUS,
    COEFFICIENTS,
    INDEX,
    FaceReaction,
    action_units_of,
    attributes_of,
    au_matrix,
    centred,
    expression_of,
    mirrored,
    resampled,
)


def test_names() -> None:
    assert len(ARKIT) == 52 and len(COEFFICIENTS) == 58 and len(ATTRIBUTES) == 25
    assert list(ARKIT) == sorted(ARKIT)
    assert (INDEX["eyeBlinkLeft"], INDEX["mouthSmileLeft"], INDEX["tongueOut"]) == (8, 43, 51)
    assert ATTRIBUTES[0] == "AU1" and ATTRIBUTES[15:17] == ("valence", "arousal") and ATTRIBUTES[-1] == "Contempt"


@pytest.mark.parametrize("number", AUS)
def test_a_unit_alone_comes_back(number: int) -> None:
    attributes = np.zeros((1, 25), np.float32)
    attributes[0, AUS.index(number)] = 0.6
    shapes = expression_of(attributes)
    assert shapes.shape == (1, 52) and shapes.max() > 0.1 and not shapes[0, 8:18].max() > 0.1
    units = action_units_of(shapes)[0]
    assert units[AUS.index(number)] == pytest.approx(0.6, abs=0.13)
    np.testing.assert_array_equal(shapes[:, [3, 43]], shapes[:, [4, 44]])  # both sides


def test_units_together() -> None:
    def shapes(*numbers: int) -> dict[str, float]:
        attributes = np.zeros(25)
        attributes[[AUS.index(n) for n in numbers]] = 1
        return dict(zip(ARKIT, expression_of(attributes).tolist(), strict=True))

    assert shapes(1)["browInnerUp"] == 1 and shapes(1, 2)["browInnerUp"] == pytest.approx(0.7)
    assert shapes(1, 4)["browInnerUp"] == pytest.approx(0.6) and shapes(1, 4)["browDownLeft"] == pytest.approx(0.4)
    assert shapes(25)["jawOpen"] == pytest.approx(0.05) and shapes(25, 26)["jawOpen"] == pytest.approx(0.5)
    assert au_matrix({1: {"jawOpen": 0.5}})[0, INDEX["jawOpen"]] == 0.5
    with pytest.raises(HeroError, match="AU5 is none"):
        au_matrix({5: {"eyeWide": 1.0}})
    with pytest.raises(HeroError, match="no ARKit shape"):
        au_matrix({1: {"brow": 1.0}})


def test_what_is_read_off_shapes() -> None:
    face = np.zeros((3, 52), np.float32)
    face[1, [INDEX["mouthSmileLeft"], INDEX["mouthSmileRight"]]] = 0.8
    face[2, [INDEX[n] for n in ("mouthFrownLeft", "mouthFrownRight", "browInnerUp")]] = 0.9
    out = attributes_of(face)
    assert out[0, 17] > 0.9 * 1 / 8 and out[0, 17:].argmax() == 0
    assert out[1, 17:].argmax() == 1 and out[1, 15] > 0.4
    assert out[2, 17:].argmax() == 2 and out[2, 15] < -0.2
    np.testing.assert_allclose(out[:, 17:].sum(1), 1, rtol=1e-5)
    assert set(np.unique(attributes_of(face, threshold=0.3)[:, :15])) <= {0, 1}


def test_mirrored_twice_is_the_same() -> None:
    x = np.random.default_rng(0).random((4, 58), np.float32)
    np.testing.assert_array_equal(mirrored(mirrored(x)), x)
    assert mirrored(x)[0, 43] == x[0, 44] and mirrored(x)[0, 53] == -x[0, 53] and mirrored(x)[0, 52] == x[0, 52]


def test_centred_knows_that_angles_wind() -> None:
    """FaceVerse's pitch lies around pi, where it may jump to -pi."""
    x = np.zeros((50, 58), np.float32)
    nod = 0.1 * np.sin(np.arange(50))
    x[:, 52] = np.angle(np.exp(1j * (np.pi + 0.01 + nod)))
    x[:, 57] = 1.8
    out = centred(x)
    np.testing.assert_allclose(out[:, 52], nod - np.median(nod), atol=1e-5)
    assert not out[:, 53:].any()


def test_resampled() -> None:
    times = np.array([0.0, 0.1, 0.4])
    out = resampled(np.array([[0.0], [1.0], [4.0]]), times, fps=10)
    np.testing.assert_allclose(out[:, 0], [0, 1, 2, 3, 4], atol=1e-6)
    assert resampled(np.array([[2.0]]), np.array([0.0]), duration=0.2).shape == (5, 1)


def test_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    face = FaceReaction(rng.random((2, 5, 58)), rng.random((2, 5, 25)), source="x", seed=3, notes=("a", "b"))
    face.save(tmp_path / "f.npz")
    again = FaceReaction.load(tmp_path / "f.npz")
    assert np.array_equal(again.coefficients, face.coefficients) and again.notes == ("a", "b")
    assert (again.source, again.seed, again.fps, again.takes, again.frames) == ("x", 3, 25, 2, 5)
    np.savez(tmp_path / "o.npz", joints=np.zeros(3))
    with pytest.raises(HeroError, match="no arrays named"):
        FaceReaction.load(tmp_path / "o.npz")
    (tmp_path / "t.npz").write_text("no")
    with pytest.raises(HeroError, match="not a face"):
        FaceReaction.load(tmp_path / "t.npz")
    with pytest.raises(HeroError, match=r"shape \(2, 5, 57\)"):
        FaceReaction(np.zeros((2, 5, 57)), np.zeros((2, 5, 25)))
    with pytest.raises(HeroError, match="NaN"):
        FaceReaction(np.full((1, 5, 58), np.nan), np.zeros((1, 5, 25)))
    with pytest.raises(HeroError, match="differ"):
        FaceReaction(np.zeros((1, 5, 58)), np.zeros((1, 6, 25)))
