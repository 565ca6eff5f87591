# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hero_core
from hero_core import __main__ as command
from hero_core import checkpoint, length
from hero_core.config import HeroConfig, LengthConfig
from hero_core.errors import HeroError
from hero_core.length import LengthEstimator
from tests.models import tiny_parts, with_length_head

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
HEAD = LengthConfig(input_dim=24, hidden=(16, 8))


def parts_with_head(config: LengthConfig = HEAD) -> checkpoint.Parts:
    return with_length_head(tiny_parts(), config)


@pytest.fixture(scope="module")
def hero(tmp_path_factory: pytest.TempPathFactory) -> hero_core.Hero:
    folder = checkpoint.write(parts_with_head(), tmp_path_factory.mktemp("head"))
    assert json.loads((folder / "config.json").read_text())["length"]["hidden"] == [16, 8]
    return hero_core.load(folder, device="cpu", dtype="float32")


def features(seed: int = 0) -> hero_core.VideoFeatures:
    local = torch.randn(16, 24, generator=torch.Generator().manual_seed(seed))
    return hero_core.VideoFeatures(local, local.mean(0))


def test_golden() -> None:
    if not GOLDEN.exists():
        pytest.skip("the official golden numbers are not beside this checkout")
    with np.load(GOLDEN / "length_estimator.npz") as file:
        state = {k.removeprefix("sd."): torch.from_numpy(file[k]).float() for k in file.files if k.startswith("sd.")}
        x, wanted = torch.from_numpy(file["in.x"]), torch.from_numpy(file["out.logits"])
    model = LengthEstimator(LengthConfig(input_dim=48)).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(model(x), wanted, atol=1e-4, rtol=1e-3)


def test_takes_have_their_own_lengths(hero: hero_core.Hero) -> None:
    many = hero.predict_length(features(), seed=5, takes=12)
    assert len(set(many)) > 1 and all(n % 4 == 0 and 4 <= n <= 200 for n in many)
    assert many[7:8] == hero.predict_length(features(), seed=12)
    motion = hero.react(features(), takes=3, seed=5)
    assert motion.lengths.tolist() == many[:3]
    alone = hero.react(features(), seed=6)
    np.testing.assert_allclose(motion.joints[1, : many[1]], alone.joints[0], atol=1e-5)
    assert hero.react(features(), takes=2, length=40).lengths.tolist() == [40, 40]


def test_each_clip_has_its_own_distribution(hero: hero_core.Hero) -> None:
    one, two = features(1), features(2)
    both = hero_core.VideoFeatures(torch.stack((one.local, two.local)), torch.stack((one.pooled, two.pooled)))
    assert hero.predict_length(both, 3, 2) == [hero.predict_length(one, 3)[0], hero.predict_length(two, 4)[0]]


def test_without_a_head_the_length_is_as_before(tmp_path: Path) -> None:
    folder = checkpoint.write(tiny_parts(), tmp_path)
    text = json.loads((folder / "config.json").read_text())
    del text["length"]  # as it was written before there was one
    (folder / "config.json").write_text(json.dumps(text))
    hero = hero_core.load(folder, device="cpu", dtype="float32")
    assert hero.length_head is None and hero.react(features()).lengths.tolist() == [88]
    with pytest.raises(HeroError, match="do not predict lengths"):
        hero.predict_length(features())


def test_heads_that_do_not_fit() -> None:
    parts = parts_with_head()
    with pytest.raises(HeroError, match="length part is missing"):
        checkpoint.build(dataclasses.replace(parts, states=tiny_parts().states))
    with pytest.raises(HeroError, match="says nothing of the length part"):
        checkpoint.build(dataclasses.replace(parts, config=tiny_parts().config))
    with pytest.raises(HeroError, match=r"knows 51 tokens.*at most 50"):
        checkpoint.build(parts_with_head(dataclasses.replace(HEAD, max_tokens=51)))
    with pytest.raises(HeroError, match="width 9"):
        checkpoint.build(parts_with_head(dataclasses.replace(HEAD, input_dim=9)))


def test_config_survives_json() -> None:
    config = HeroConfig(length=HEAD)
    assert HeroConfig.from_json(config.to_json()) == config


def test_command_line_lets_the_head_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.movies import write_movie

    movie = write_movie(tmp_path / "clip.mp4", np.zeros((24, 40, 60, 3), np.uint8))
    asked: list[int | None] = []
    plain = hero_core.Hero.react

    def react(self: hero_core.Hero, frames: object, takes: int, wanted: int | None, *rest: object) -> object:
        asked.append(wanted)
        return plain(self, frames, takes, wanted, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(hero_core.Hero, "react", react)
    for name, parts in (("with", parts_with_head()), ("without", tiny_parts())):
        model = checkpoint.write(parts, tmp_path / name)
        arguments = ["react", str(movie), "--out", str(tmp_path / "m.npz"), "--takes", "2", "--model", str(model)]
        assert command.main(arguments) == 0
    assert command.main([*arguments, "--seconds", "3"]) == 0
    assert asked[0] is None and asked[1] is not None and asked[2] == 60
    assert capsys.readouterr().out.splitlines()[-1].endswith("2 take(s) of 60 frames")
    assert command.main([*arguments, "--length", "model"]) == 1
    assert "does not choose lengths" in capsys.readouterr().err
    arguments[-1] = str(tmp_path / "with")
    assert command.main([*arguments, "--length", "model"]) == command.main([*arguments, "--length", "clip"]) == 0
    assert asked[3:] == [None, asked[1]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=50), st.integers(-(2**40), 2**40))
def test_draws_are_counts_and_hang_on_their_seed_alone(values: list[float], seed: int) -> None:
    logits = torch.tensor([values])
    drawn = length.draw(logits, [seed + i for i in range(4)])
    assert all(1 <= n <= len(values) for n in drawn)
    assert drawn[2:3] == length.draw(logits, [seed + 2])
    middle = int(length.median(logits))
    chances = logits.softmax(-1)[0].double()
    assert chances[: middle - 1].sum() <= 0.5 + 1e-5 and chances[:middle].sum() >= 0.5 - 1e-5


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.0, 0.3]]).log()
    counts = np.bincount(length.draw(logits, range(2000)), minlength=5) / 2000
    np.testing.assert_allclose(counts, [0, 0.2, 0.5, 0, 0.3], atol=0.04)
