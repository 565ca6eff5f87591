# SPDX-License-Identifier: GPL-3.0-or-later
"""The command from models to table, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_parts, write_tiny
from safetensors.torch import save_file

from hero_core import checkpoint, load
from hero_core.errors import HeroError
from hero_core.evaluate import __main__ as command
from hero_core.evaluate import compare, data, evaluator, generation, metrics, table
from hero_core.evaluate.evaluator import Evaluator, EvaluatorConfig
from hero_core.hero import Hero, VideoFeatures
from hero_core.train import pairs

CLASSES, KINDS = ("ball", "lion", "friend"), ("flee", "greet", "watch")
CLIPS = 18


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of three classes, two reactions to each; evaluators; two tiny models with one tokenizer."""
    root = tmp_path_factory.mktemp("evaluation")
    g = torch.Generator().manual_seed(0)
    clip = torch.arange(CLIPS).repeat_interleave(2)
    split = torch.tensor([0, 0, 0, 2, 2, 2]).repeat(CLIPS // 6)
    kind = torch.arange(CLIPS) % 3
    lengths = torch.randint(20, 33, (2 * CLIPS,), generator=g)
    ids = torch.randint(64, (2 * CLIPS, 8, 3), generator=g)
    local = torch.randn(CLIPS, 2, 16, 24, generator=g) * 0.1 + torch.nn.functional.one_hot(kind, 24)[:, None, None]
    save_file(
        {"local": local, "split": split, "ids": ids, "ids_mirrored": ids.clone(), "clip": clip,
         "mirrored": torch.tensor([1, 0])}, root / "pairs.safetensors",
    )  # fmt: skip
    (root / "pairs.json").write_text(json.dumps({
        "classes": CLASSES, "clip_class": kind.tolist(),
        "groups": {"ball": "thing", "lion": "animal", "friend": "human"},
        "fitting": {"ball": ["flee", "watch"], "lion": ["flee"], "friend": ["greet"]},
    }))  # fmt: skip
    offsets = torch.cat((torch.zeros(1, dtype=torch.long), lengths.cumsum(0)))
    save_file(
        {"features": torch.randn(int(offsets[-1]), 263, generator=g) * 0.05, "offsets": offsets, "label": kind[clip],
         "stimulus": kind[clip], "split": split[clip], "clip": clip}, root / "motions.safetensors",
    )  # fmt: skip
    (root / "motions.json").write_text(json.dumps({"reactions": KINDS, "stimuli": CLASSES}))
    for seed, name in enumerate(("evaluator", "classifier")):
        torch.manual_seed(seed)
        cfg = EvaluatorConfig(movement_hidden=8, movement_latent=8, motion_hidden=8, out=6)
        state = dict(Evaluator(cfg).state_dict())
        for head in ("reaction", "stimulus"):
            state |= {f"heads.{head}.{k}": v for k, v in torch.nn.Linear(6, 3).state_dict().items()}
        (root / name).mkdir()
        extra = {"mean": torch.zeros(263), "std": torch.full((263,), 0.05)}
        save_file({**state, **extra}, root / name / evaluator.WEIGHTS)
        (root / name / evaluator.CONFIG).write_text(json.dumps(evaluator.describe(cfg, name, KINDS, CLASSES)))
    write_tiny(root / "hero")
    other = tiny_parts(1)
    other.states["rvq"] = tiny_parts().states["rvq"]
    checkpoint.write(other, root / "baseline")
    return root


def arguments(place: Path, out: Path, *more: str, evaluator_folder: str = "evaluator") -> list[str]:
    fixed = {"--pairs": "pairs.safetensors", "--motions": "motions.safetensors", "--evaluator": evaluator_folder,
             "--classifier": "classifier"}  # fmt: skip
    named = [text for key, name in fixed.items() for text in (key, str(place / name))]
    small = ["--repeats", "2", "--takes", "3", "--take-clips", "4", "--steps", "2", "--device", "cpu"]
    return ["--models", f"HERO={place / 'hero'}", *named, "--out", str(out), "--dtype", "float32", *small, *more]


def comparison(place: Path, classifier: bool = True, seed: int = 0) -> compare.Comparison:
    clips, motions = pairs.load(place / "pairs.safetensors"), data.load_motions(place / "motions.safetensors")
    classes = data.load_classes(place / "pairs.safetensors", CLIPS, motions)
    folders = [evaluator.load(place / name) for name in ("evaluator", "classifier")]
    sizes = compare.Sizes(repeats=3, takes=2, take_clips=3, seed=seed)
    return compare.Comparison(clips, motions, classes, folders[0], folders[1] if classifier else None, sizes)


def test_one_command_makes_the_table(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, shown = tmp_path / "report.json", tmp_path / "table.md"
    line = arguments(place, out, "--table", str(shown))
    line.insert(2, f"MoMask-style={place / 'baseline'}")
    assert command.main(line) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "min left" in printed and shown.read_text() in printed
    report = json.loads(out.read_text())
    names = [row["name"] for row in report["rows"]]
    assert names == [
        "real motion", "real motion through the tokenizer", "HERO", "MoMask-style", "HERO, shown another video",
        "nearest training clip", "random training reaction",
    ]  # fmt: skip
    rows = {row["name"]: row["values"] for row in report["rows"]}
    for name, values in rows.items():
        assert {"fid", "diversity", "class", "group", "fitting", "skating", "jerk", "seconds"} <= set(values)
        assert ("multimodality" in values) == (name in ("HERO", "MoMask-style"))
        assert all(np.isfinite(list(value.values())).all() for value in values.values())
    # Models, the control and the tokenizer's row have the lengths that they were given.
    assert rows["HERO"]["seconds"] == rows["MoMask-style"]["seconds"] == rows["HERO, shown another video"]["seconds"]
    assert report["summary"]["class_over_chance_uniform"] == pytest.approx(3 * rows["HERO"]["class"]["value"])
    assert report["separate_classifier"]
    assert len(shown.read_text().splitlines()) == 2 + 7 + 3

    # The tokens are there: nothing is generated again, and the numbers are the same.
    first = out.read_text()
    assert command.main(line) == 0
    again = json.loads(out.read_text())
    assert again["seconds_a_reaction"] is None and again["rows"] == json.loads(first)["rows"]

    # A report of the same evaluator may be added, one of another may not.
    joined = arguments(place, tmp_path / "joined.json", "--add", str(out))
    assert command.main(joined) == 0
    mixed = arguments(place, tmp_path / "mixed.json", "--add", str(out), evaluator_folder="classifier")
    capsys.readouterr()
    assert command.main(mixed) == 1
    assert "different evaluators" in capsys.readouterr().err and not (tmp_path / "mixed.json").exists()


def test_a_table_refuses_what_does_not_belong_together() -> None:
    values = {"fid": {"mean": 1.0, "half_width": 0.25}}
    row = table.Row("a", "E1", "C1", "T1", values)
    assert "| a | 1.000 ± 0.250 |" in table.markdown([row])
    for other, what in (
        (table.Row("b", "E2", "C1", "T1", values), "evaluators"),
        (table.Row("b", "E1", "", "T1", values), "classifiers"),
        (table.Row("b", "E1", "C1", "T2", values), "test sets"),
    ):
        with pytest.raises(HeroError, match=f"different {what}"):
            table.markdown([row, other])
    with pytest.raises(HeroError, match="at least one row"):
        table.markdown([])


def test_cells() -> None:
    assert table.cell("fid", None) == "–"
    assert table.cell("skating", {"mean": 0.123, "half_width": 0.01}) == "12.3 ± 1.0"
    assert table.cell("class", {"value": 0.5, "low": 0.4, "high": 0.6, "uniform": 0.1}) == "50.0 [40.0, 60.0]"


def test_other_videos_are_of_another_class(place: Path) -> None:
    test = comparison(place)
    for repeat in range(20):
        assert (test.names[test.other_clips(repeat)] != test.names).all()
    assert (test.other_clips(3) == comparison(place).other_clips(3)).all()
    assert any((test.other_clips(0) != test.other_clips(r)).any() for r in range(1, 5))


def test_the_nearest_clip_is_of_the_same_look(place: Path) -> None:
    """Features tell the classes apart here, and real labels follow them."""
    test = comparison(place)
    motions, seen = test.motions, list[int]()
    retrieved = test._retrieved

    def watch(name: str, chosen: list[np.ndarray]) -> table.Row:
        seen.extend(np.concatenate(chosen).tolist())
        return retrieved(name, chosen)

    test._retrieved = watch  # type: ignore[assignment, method-assign]
    row = test.neighbour()
    assert row.name == "nearest training clip" and len(seen) == 3 * len(test.clips)
    assert motions.clip is not None
    assert (test.pairs.split[motions.clip[seen]] == 0).all()
    wanted = np.tile([CLASSES.index(name) for name in test.names], 3)
    assert (motions.stimulus[seen].numpy() == wanted).all()


def test_real_motion_is_the_reference(place: Path) -> None:
    test = comparison(place)
    whole = metrics.statistics(test.real_bank.embedding)
    assert abs(metrics.frechet_distance(*test.reference, *whole)) < 1e-6
    assert test.real().values["fid"]["mean"] > 0  # one reaction of each clip is a part of them


def test_tokens_are_kept_for_their_own_settings(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hero = load(place / "hero", "cpu", "float32")
    made: list[int] = []
    real = Hero.generate

    def count(self: Hero, features, lengths, *args, **kwargs):  # type: ignore[no-untyped-def]
        made.append(len(lengths))
        return real(self, features, lengths, *args, **kwargs)

    monkeypatch.setattr(Hero, "generate", count)
    local = torch.randn(3, 16, 24)
    ask = ("model", local, [24, 16, 20], [5, 6, 7], "x")
    one = generation.Generator(tmp_path, generation.Sampling(steps=2), 2, 3)
    ids = one.tokens(hero, *ask)
    assert made == [2, 1] and (ids[..., 0] >= 0).sum(1).tolist() == [6, 4, 5] and one.left == 0
    again = generation.Generator(tmp_path, generation.Sampling(steps=2), 3, 3)
    assert torch.equal(again.tokens(hero, *ask), ids) and made == [2, 1]
    # Whatever the batch, a clip's tokens hang on its seed alone.
    alone = hero.generate(VideoFeatures(local[1], local[1].mean(0)), [16], steps=2, seed=[6])
    assert torch.equal(alone[0], ids[1, :4])
    generation.Generator(tmp_path, generation.Sampling(steps=3), 3, 3).tokens(hero, *ask)
    again.tokens(hero, "another model", *ask[1:])
    assert len(made) == 5


def test_decoding_with_and_without_padding(place: Path) -> None:
    hero = load(place / "hero", "cpu", "float32")
    ids = torch.randint(64, (3, 6, 3))
    ids[1, 4:] = -1
    plain = generation.decode(hero, ids)
    assert [len(x) for x in plain] == [24, 16, 24]
    torch.testing.assert_close(plain[1], hero.decode(ids[1:2, :4])[0])
    padded = generation.decode(hero, ids, 200)
    assert [len(x) for x in padded] == [200] * 3
    torch.testing.assert_close(padded[1][:4], plain[1][:4], atol=0.05, rtol=0.1)  # the end sees what lies behind it


def test_what_cannot_be_evaluated_is_said(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*more: str) -> str:
        assert command.main(arguments(place, tmp_path / "r.json", *more)) == 1
        return capsys.readouterr().err

    assert "NAME=FOLDER" in error("--models", "folder")
    assert "--repeats" in error("--repeats", "0")
    assert "0 clips" in error("--split", "val")
    assert "no report" in error("--add", str(tmp_path / "none.json"))
    motions = data.load_motions(place / "motions.safetensors")
    lion_only = data.Classes(("lion",), torch.zeros(CLIPS, dtype=torch.long), {}, {})
    clips = pairs.load(place / "pairs.safetensors")
    known = evaluator.load(place / "evaluator")
    test = compare.Comparison(clips, motions, lion_only, known, known, compare.Sizes(repeats=1))
    with pytest.raises(HeroError, match="one class"):
        test.other_clips(0)
    bear = data.Classes(("bear",), torch.zeros(CLIPS, dtype=torch.long), {}, {})
    with pytest.raises(HeroError, match="classes bear"):
        compare.Comparison(clips, motions, bear, known, known, compare.Sizes(repeats=1))
    with pytest.raises(HeroError, match="each of the 3 clips"):
        data.load_classes(place / "pairs.safetensors", 3, motions)
