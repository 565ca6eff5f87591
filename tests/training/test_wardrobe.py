# SPDX-License-Identifier: GPL-3.0-or-later
"""Garments: read from MakeHuman's files, divided without a seam, worn by a person of any shape."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from training.stimuli.actor import Body, Person
from training.stimuli.wardrobe import EYEBROWS, HAIR, SHOES, SUITS, Garment, Wardrobe, divide, sample

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "actor"

# A square of two faces: a quad with texture coordinates, and a triangle with a material alone beside it.
FACES = [11, 0, 1, 2, 3, 0, 0, 1, 2, 3, 2, 1, 4, 2, 0]


def write_picture(path: Path, rgba: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="image2") as file:
        stream = file.add_stream("png", rate=1)
        stream.height, stream.width = rgba.shape[:2]
        stream.pix_fmt = "rgba"
        frame = av.VideoFrame.from_ndarray(rgba, format="rgba")
        for packet in [*stream.encode(frame), *stream.encode()]:
            file.mux(packet)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the package has it, with the same small patch for every garment."""
    picture = np.zeros((4, 4, 4), np.uint8)
    picture[:2], picture[2:] = (255, 0, 0, 255), (0, 0, 255, 255)  # red above, blue below
    names = {"clothes": [*SUITS["male"], *SUITS["female"], *SHOES], "hair": [*HAIR["male"], *HAIR["female"]]}
    for kind, each in (names | {"eyebrows": EYEBROWS}).items():
        for name in each:
            home = tmp_path / "proxies" / kind / name
            write_picture(home / "textures" / "diffuse.png", picture)
            about = {
                "ref_vIdxs": [[0, 1, 2]] * 5,
                "weights": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0.5]],
                "offsets": [[0, 0, 0.1]] * 5,
                "deleteVerts": [False, True, False],
            }
            data = {
                "metadata": about,
                "faces": FACES,
                "uvs": [[0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1]],
                "materials": [{"mapDiffuse": "textures/diffuse.png"}],
            }
            (home / f"{name}.json").write_text(json.dumps(data))
    for gender in SUITS:
        write_picture(tmp_path / "skins" / f"young_{gender}" / "textures" / f"pale_{gender}_diffuse.png", picture)
        write_picture(tmp_path / "skins" / f"young_{gender}" / "textures" / f"{gender}_special_suit.png", picture)
    return tmp_path


def test_reads_the_files(folder: Path) -> None:
    wardrobe = Wardrobe(folder)
    assert {gender: len(skins) for gender, skins in wardrobe.skins.items()} == {"male": 1, "female": 1}
    suit = wardrobe.suits["male"][0]
    assert suit.ref.shape == suit.weights.shape == suit.offset.shape == (5, 3)
    assert suit.hides.tolist() == [1]
    assert len(suit.faces) == 4 + 3 and all(len(face) == 4 for face in suit.faces)
    assert len(suit.colors) == 5 + len(suit.means)
    np.testing.assert_allclose(suit.colors[0], [1, 0, 0, 1], atol=0.02)
    np.testing.assert_allclose(suit.colors[3], [0, 0, 1, 1], atol=0.02)


def test_a_garment_follows_the_body() -> None:
    faces, means, uv = divide([(0, 1, 2, 3)], [(0, 1, 2, 3)], np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]]), 4)
    assert len(faces) == 4 and len(means) == 5
    np.testing.assert_allclose(uv[-1], [0.5, 0.5])
    garment = Garment(
        np.array([[i] * 3 for i in range(4)]),
        np.tile([1.0, 0.0, 0.0], (4, 1)),
        np.full((4, 3), 0.01),
        np.array(means),
        np.ones((9, 4)),
        faces,
        np.array([], int),
    )
    body = np.random.default_rng(0).normal(0, 1, (4, 3))
    worn = garment.fit(body, 2.0)
    np.testing.assert_allclose(worn[:4], body + 0.02)
    np.testing.assert_allclose(worn[8], body.mean(0) + 0.02)
    share = garment.share(np.eye(4))
    np.testing.assert_allclose(share.sum(1), 1.0)
    np.testing.assert_allclose(share[8], 0.25)


def test_neighbours_share_the_vertex_between_them() -> None:
    faces, means, _ = divide([(0, 1, 2), (2, 1, 3)], [(0, 0, 0)] * 2, np.zeros((1, 2)), 4)
    assert len(means) == 5 + 2  # five edges, two middles
    corners = [v for face in faces for v in face]
    between = [4 + i for i, mean in enumerate(means) if set(mean) == {1, 2}]
    assert len(between) == 1 and corners.count(between[0]) == 4


def test_texture_coordinates_go_upwards() -> None:
    texture = np.arange(4.0).reshape(2, 2, 1)
    np.testing.assert_allclose(sample(texture, np.array([[0, 1], [1, 1], [0, 0], [1, 0.0]]))[:, 0], [0, 1, 2, 3])


def test_a_person_wears_it(folder: Path) -> None:
    if not DATA.is_dir():
        pytest.skip("needs the folder 'shared/data' beside the checkout (the actor's mesh)")
    wardrobe = Wardrobe(folder)
    who = Person(Body(DATA), np.random.default_rng(1), wardrobe=wardrobe, mood="happy")
    assert len(who.rest) == len(who.weights) == len(who.colors)
    assert max(max(face) for face in who.faces) < len(who.rest)
    np.testing.assert_allclose(who.weights.sum(1), 1.0, atol=1e-6)
    assert np.isfinite(who.rest).all() and who.colors.min() >= 0 and who.colors.max() <= 1
