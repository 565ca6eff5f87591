# SPDX-License-Identifier: GPL-3.0-or-later
"""The data set tool: what people have becomes what training reads, and what is bad is said."""

from __future__ import annotations

import csv
import dataclasses
import json
import unicodedata
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from bvh_files import places_only
from hypothesis import given
from hypothesis import strategies as st
from movies import write_movie, write_sound
from skeletons import MIXAMO, walk

from hero_core import checkpoint, humanml3d, video
from hero_core.config import VideoEncoderConfig
from hero_core.errors import HeroError
from hero_core.evaluate.data import load_classes, load_motions
from hero_core.motion import JOINTS, Motion
from hero_core.train import data, loop, motions, pairs, sources, tokenizer

SMALL = (64, 48)


def clip(path: Path, frames: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_movie(path, frames, size=SMALL, options={"preset": "ultrafast"})


def steps(count: int = 40, seed: int = 0) -> np.ndarray:
    """A walk of its own for each seed."""
    return walk(count, bend=0.2 + 0.1 * seed).astype(np.float32)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def make(source: Path, out: Path, *more: str) -> dict[str, Any]:
    assert data.main(["data", "--source", str(source), "--out", str(out), *more]) == 0
    found: dict[str, Any] = json.loads((out / "pairs.json").read_text(encoding="utf-8"))
    return found


def motions_of(description: dict[str, Any]) -> dict[str, list[str]]:
    return {entry["path"]: [m["name"] for m in entry["motions"]] for entry in description["videos"]}


# --- sources --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vimo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ViMo's layout: lists with a Windows end of line and a space in a path, features, statistics."""
    root = tmp_path_factory.mktemp("vimo")
    train, test = [], []
    (root / "vector_263").mkdir()
    for i in range(8):
        np.save(root / "vector_263" / f"{i:03}.npy", humanml3d.to_features(steps(40 + i, i)))
    for i in range(5):
        name = f"videos/a clip {i}.mp4" if i == 1 else f"videos/{i}.mp4"
        clip(root / name)
        (train if i < 4 else test).append(f"{name} vector_263/{i:03}.npy")
    train.append("videos/0.mp4 vector_263/005.npy")
    train.append("videos/2.mp4 vector_263/004.npy")  # a motion of the test list
    train.append("videos/gone.mp4 vector_263/006.npy")
    train.append("alone")
    (root / "train.txt").write_bytes("\r\n".join(train).encode() + b"\r\n")
    (root / "test.txt").write_text("\n".join(test) + "\n")
    np.save(root / "Mean.npy", np.zeros(263, np.float32))
    np.save(root / "Std.npy", np.full(263, 0.5, np.float32))
    return root


@pytest.fixture(scope="module")
def dataset(vimo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "set"
    make(vimo, out)
    return out


def test_vimos_layout(vimo: Path, dataset: Path) -> None:
    described = json.loads((dataset / "pairs.json").read_text(encoding="utf-8"))
    assert (dataset / described["videos_root"]).resolve() == vimo.resolve()
    split = {entry["path"]: entry["split"] for entry in described["videos"]}
    assert split["videos/4.mp4"] == "test" and list(split.values()).count("test") == 1
    # Two of the four have a hash below 0.1: such is luck with four.
    assert {name for name, part in split.items() if part == "val"} == {"videos/0.mp4", "videos/a clip 1.mp4"}
    of = motions_of(described)
    assert of["videos/0.mp4"] == ["vector_263/000.npy", "vector_263/005.npy"]
    assert of["videos/a clip 1.mp4"] == ["vector_263/001.npy"]
    assert of["videos/2.mp4"] == ["vector_263/002.npy"]
    reasons = {row["file"]: row["reason"] for row in rows_of(dataset / "skipped.csv")}
    assert set(reasons) == {
        "videos/gone.mp4", "videos/2.mp4 + vector_263/004.npy", "train.txt:8",
    }  # fmt: skip
    assert (
        "no video file" in reasons["videos/gone.mp4"] and "videos/4.mp4" in reasons["videos/2.mp4 + vector_263/004.npy"]
    )
    # The rows are those of the files, bit for bit, and the statistics are the official ones, divided twice.
    kept = {name: rows for name, _, _, rows in motions.with_features(dataset / "motions.npz")}
    assert len(kept) == 6
    for name, rows in kept.items():
        np.testing.assert_array_equal(rows, np.load(vimo / name))
    std = np.load(dataset / "std.npy")
    assert std[0] == std[262] == pytest.approx(0.02) and std[10] == 0.5


def test_the_tokenizer_trains_on_it(dataset: Path) -> None:
    sets = tokenizer.load(dataset, tokenizer.DataConfig(files=("motions.npz",), mirror=False))
    assert [len(sets[name]) for name in ("train", "val", "test")] == [2, 3, 1]


def test_a_folder_where_names_tell(tmp_path: Path) -> None:
    """Several motions of a video, other kinds of file, accents composed in two ways, and what belongs to nothing."""
    root = tmp_path / "studio"
    accent = "Löwe"
    clip(root / "videos" / f"{unicodedata.normalize('NFC', accent)}.mp4")
    clip(root / "videos" / "hit.MP4")
    clip(root / "videos" / "hit_2.mp4")
    clip(root / "videos" / "lonely.mp4")
    place = root / "motions"
    place.mkdir()
    np.save(place / f"{unicodedata.normalize('NFD', accent)}.npy", steps(40, 1))
    np.savez(place / "Löwe_1.npz", joints=steps(45, 2))
    Motion(np.stack([steps(48, 3), steps(48, 4)]), None, np.array([48, 30])).save(place / "Löwe (2).npz")
    np.save(place / "hit.npy", steps(40, 5).reshape(40, 66))
    np.save(place / "hit_2.npy", np.pad(steps(40, 6), ((0, 0), (0, 30), (0, 0))))  # SMPL-H's 52 joints
    np.save(place / "hit_2-b.npy", steps(40, 7).astype(np.float64)[None])
    np.save(place / "nobody.npy", steps())
    (place / "hit_3.bvh").write_text(places_only(MIXAMO, walk(90, bend=0.9) * 100, 30))
    of = motions_of(make(root, tmp_path / "set"))
    lion = next(name for name in of if "we.mp4" in name)
    assert sorted(Path(unicodedata.normalize("NFC", name)).name for name in of[lion]) == [
        "Löwe (2).npz#0", "Löwe (2).npz#1", "Löwe.npy", "Löwe_1.npz",
    ]  # fmt: skip
    assert of["videos/hit.MP4"] == ["motions/hit.npy", "motions/hit_3.bvh"]
    assert of["videos/hit_2.mp4"] == ["motions/hit_2-b.npy", "motions/hit_2.npy"]
    bad = {row["file"]: row["reason"] for row in rows_of(tmp_path / "set" / "skipped.csv")}
    assert bad == {
        "motions/nobody.npy": "there is no video of that name",
        "videos/lonely.mp4": "there is no motion of that name",
    }
    joints = {name: x for name, _, x in motions.sequences(tmp_path / "set" / "motions.npz")}
    assert len(joints["motions/hit_3.bvh"]) == 60 and len(next(x for n, x in joints.items() if "#1" in n)) == 30
    assert all(abs(x[0, 0, 0]) < 1e-5 and abs(x[..., 1].min()) < 1e-5 for x in joints.values())


def test_one_packed_file_for_many_videos(tmp_path: Path) -> None:
    root = tmp_path / "packed"
    parts = [steps(40 + i, i) for i in range(3)]
    for name in ("a", "b"):
        clip(root / f"{name}.mp4")
    np.savez(
        root / "all.npz", joints=np.concatenate(parts), offsets=np.cumsum([0, *map(len, parts)]),
        names=np.array(["a_1", "a_2", "b"]), split=np.array(["train", "train", "val"]),
    )  # fmt: skip
    described = make(root, tmp_path / "set")
    assert motions_of(described) == {"a.mp4": ["all.npz#a_1", "all.npz#a_2"], "b.mp4": ["all.npz#b"]}
    assert [entry["split"] for entry in described["videos"]] == ["train", "val"]


def test_lists(tmp_path: Path) -> None:
    """CSV with any separator and title, JSON, and paths as Windows writes them."""
    root = tmp_path / "lists"
    for i in range(3):
        clip(root / "v" / f"clip {i}.mp4")
        np.save(root / f"m{i}.npy", steps(40, i))
    wanted = {"v/clip 0.mp4": "train", "v/clip 1.mp4": "val", "v/clip 2.mp4": "test"}

    def check(name: str, text: bytes) -> None:
        (root / name).write_bytes(text)
        described = make(root / name, tmp_path / name.replace(".", "_"))
        assert {entry["path"]: entry["split"] for entry in described["videos"]} == wanted
        assert [x for names in motions_of(described).values() for x in names] == ["m0.npy", "m1.npy", "m2.npy"]

    splits = ["Train", "validation", "test"]
    lines = [f"{splits[i]};m{i}.npy;v\\clip {i}.mp4" for i in range(3)]
    check("a.csv", "\ufeffSplit;Motion;Video\r\n".encode() + "\r\n".join(lines).encode())
    check("b.csv", "\n".join(f'"v/clip {i}.mp4",m{i}.npy,{splits[i]}' for i in range(3)).encode())
    entries = [
        {"video": f"v/clip {i}.mp4", "motions": [f"m{i}"], "split": splits[i], "class": f"c{i}", "reaction": "greet"}
        for i in range(3)
    ]
    check("c.json", json.dumps({"pairs": entries}).encode())
    described = json.loads((tmp_path / "c_json" / "pairs.json").read_text(encoding="utf-8"))["videos"]
    assert [entry["class"] for entry in described] == ["c0", "c1", "c2"]
    assert described[2]["motions"] == [{"name": "m2.npy", "seconds": 1.95, "reaction": "greet"}]
    check(
        "d.csv",
        b"video,motion,split\n"
        + b"v/clip 0.mp4,,train\nv/clip 1.mp4,m1.npy,best\n"
        + "".join(f"v/clip {i}.mp4,m{i}.npy,{splits[i]}\n" for i in range(3)).encode(),
    )
    assert [row["file"] for row in rows_of(tmp_path / "d_csv" / "skipped.csv")] == ["d.csv:2", "d.csv:3"]


def test_bad_files_are_listed_each_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "bad"
    broken = steps(40, 1)
    broken[7] = np.nan
    files: dict[str, tuple[Any, str]] = {
        "nan": (broken, "1 of 40 frames hold NaN or infinite values, first 7"),
        "short": (steps(16), "16 poses, 16 at 20 a second; at least 17"),
        "shape": (np.zeros((30, 21, 3), np.float32), r"(30, 21, 3); (N, 22, 3) joints or (N, 263) features"),
        "text": (np.array(["a"] * 30), "not numbers"),
        "flat": (np.zeros((30, 22, 3), np.float32), "legs have no length"),
        "normal": (np.random.default_rng(0).normal(size=(30, 263)) * 3, "the features are normalised"),
        "none": (np.zeros((0, 263), np.float32), "0 rows"),
    }
    for name, (array, _) in files.items():
        clip(root / f"{name}.mp4", 1)
        np.save(root / f"{name}.npy", array)
    reasons = {name: reason for name, (_, reason) in files.items()}
    for name, content, reason in (
        ("empty.npy", b"", "0 bytes"), ("rubbish.npy", b"rubbish", "cannot be read"),
        ("cut.npz", b"PK\x03\x04", "cannot be read"), ("words.bvh", b"words", "BVH"),
    ):  # fmt: skip
        clip(root / f"{Path(name).stem}.mp4", 1)
        (root / name).write_bytes(content)
        reasons[Path(name).stem] = reason
    np.save(root / "noise.npy", steps(40, 2))
    (root / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    np.save(root / "sound.npy", steps(40, 3))
    write_sound(root / "sound.mp4", 0.1)
    reasons |= {"noise.mp4": "not a video", "sound.mp4": "no video in it"}
    clip(root / "good.mp4", 5)  # shorter than the 16 frames that the encoder sees
    np.save(root / "good.npy", steps(17))
    out = tmp_path / "set"
    described = make(root, out)
    assert motions_of(described) == {"good.mp4": ["good.npy"]}
    assert described["videos"][0]["frames"] == 5
    said = {row["file"]: row["reason"] for row in rows_of(out / "skipped.csv")}
    for name, reason in reasons.items():
        file = next(f for f in said if f.startswith(name) and (f == name or not f.endswith(".mp4")))
        assert reason in said[file], (name, said[file])
    assert all(said[f"{name}.mp4"] == "none of its motions can be used" for name in files)
    assert f"{len(said)} left out" in capsys.readouterr().err
    with pytest.raises(HeroError, match="--strict"):
        make(root, tmp_path / "strict", "--strict")
    assert (tmp_path / "strict" / "skipped.csv").exists() and not (tmp_path / "strict" / "pairs.json").exists()
    (root / "good.npy").unlink()
    with pytest.raises(HeroError, match="No pair"):
        make(root, tmp_path / "nothing")


@pytest.mark.parametrize("fps", [30, 60, 120])
def test_rate_and_axis_of_joint_arrays(tmp_path: Path, fps: int) -> None:
    at_20 = walk(41)
    t = np.arange(2 * fps + 1) / fps * 20
    i = np.minimum(t.astype(int), 39)
    dense = at_20[i] * (1 - t + i)[:, None, None] + at_20[i + 1] * (t - i)[:, None, None]
    np.save(tmp_path / "m.npy", dense[..., [0, 2, 1]] * [1, -1, 1])
    (found,) = sources.read_motion(tmp_path / "m.npy", fps=fps, up="z")
    assert isinstance(found, sources.Sequence) and len(found.joints) == 41 and not found.given
    expected = humanml3d.canonicalise(at_20.astype(np.float32))
    assert np.linalg.norm(found.joints - expected, axis=-1).max() < (1e-4 if fps % 20 == 0 else 0.06)


def test_members_that_do_not_fit_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", joints=steps(40), offsets=np.array([0, 40]), names=np.array(["x"]))
    (found,) = sources.read_motion(tmp_path / "a.npz", "y")
    assert isinstance(found, sources.Bad) and "'y'" in found.reason
    np.savez(tmp_path / "b.npz", joints=steps(40), offsets=np.array([0]), names=np.array(["x"]))
    np.savez(tmp_path / "c.npz", poses=steps(40))
    for name, reason in (("b", "cannot be used"), ("c", "poses"), ("d", "missing")):
        (found,) = sources.read_motion(tmp_path / f"{name}.npz")
        assert isinstance(found, sources.Bad) and reason in found.reason


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "y.json").write_text('{"pairs": 3}')
    (tmp_path / "z.csv").write_bytes(b"v\xff,m\n")
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("no", "no data"), ("x.json", "JSON"), ("y.json", "must hold"), ("z.csv", "UTF-8"), ("empty", "no pairs"),
    ):  # fmt: skip
        with pytest.raises(HeroError, match=says):
            sources.find(tmp_path / name)


# --- splits ---------------------------------------------------------------------------------------

LINKS = st.lists(
    st.tuples(
        st.integers(0, 30).map("v{}".format), st.integers(0, 40).map("m{}".format),
        st.sampled_from(["", "", "train", "val", "test"]),
    ),
    min_size=1, max_size=60,
)  # fmt: skip


@given(LINKS, st.booleans(), st.randoms(use_true_random=False))
def test_no_motion_and_no_video_crosses_splits(links: list[tuple[str, str, str]], blind: bool, random: Any) -> None:
    links = [(v, m, "" if blind else s) for v, m, s in links]
    split, gone = data.settle(links)
    lost = {(v, m) for v, m, _ in gone}
    where: dict[str, set[str]] = {}
    for v, m, given_split in links:
        assert split[v] in ("train", "val", "test")
        if given_split == "test":
            assert split[v] == "test"
        if (v, m) not in lost:
            where.setdefault(m, set()).add(split[v])
    assert all(len(x) == 1 for x in where.values())
    assert set(where) == {m for _, m, _ in links}  # no motion is lost altogether
    assert not (blind and gone)
    if any(s for _, _, s in links):
        assert {v for v, name in split.items() if name == "test"} >= {v for v, _, s in links if s == "test"}
    shuffled = links.copy()
    random.shuffle(shuffled)
    assert data.settle(shuffled)[0] == split


def test_shares_are_about_80_10_10_and_stay_when_videos_come() -> None:
    links = [(f"video {i}.mp4", f"m{i}", "") for i in range(2000)]
    split, gone = data.settle(links)
    counts = {name: list(split.values()).count(name) / 2000 for name in pairs.SPLITS}
    assert not gone and abs(counts["train"] - 0.8) < 0.03 and abs(counts["val"] - 0.1) < 0.02
    fewer = data.settle(links[:500])[0]
    assert all(split[name] == fewer[name] for name in fewer)
    named = [(v, m, "test" if i % 5 == 0 else "train") for i, (v, m, _) in enumerate(links)]
    carved = data.settle(named)[0]
    assert {v for v, s in carved.items() if s == "test"} == {v for v, _, s in named if s == "test"}
    assert abs(list(carved.values()).count("val") / 1600 - 0.1) < 0.03
    assert sorted(data.settle(links[:3])[0].values()) == ["test", "train", "val"]


def test_a_copy_of_a_test_motion_does_not_train(tmp_path: Path) -> None:
    root = tmp_path / "copies"
    for i in range(3):
        clip(root / f"{i}.mp4", 2)
    np.save(root / "m0.npy", steps(40, 0))
    np.save(root / "m1.npy", steps(40, 1))
    np.save(root / "copy.npy", steps(40, 1))
    np.save(root / "m2.npy", steps(40, 2))
    (root / "l.csv").write_text("0.mp4,m0.npy,train\n0.mp4,copy.npy,train\n1.mp4,m1.npy,test\n2.mp4,m2.npy,val\n")
    of = motions_of(make(root / "l.csv", tmp_path / "set"))
    assert of["0.mp4"] == ["m0.npy"] and of["1.mp4"] == ["m1.npy"]


# --- encoding ---------------------------------------------------------------------------------------


ENCODER = VideoEncoderConfig(
    image_size=64, patch_size=16, width=64, layers=2, heads=1, output_dim=24, context_tokens=8
)  # fmt: skip
CONFIG = dataclasses.replace(models.tiny_config(), encoder=ENCODER)
STATES = models.tiny_states(0, CONFIG)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = checkpoint.Parts(CONFIG, STATES, torch.zeros(263), torch.full((263,), 0.05), Path("tiny"))
    return checkpoint.write(parts, tmp_path_factory.mktemp("tiny"))


def encode(dataset: Path, model: Path, out: Path, *more: str) -> pairs.Pairs:
    words = ["data", "--dataset", str(dataset), "--model", str(model), "--out", str(out), "--device", "cpu", *more]
    assert data.main(words) == 0
    return pairs.load(out)


def test_pairs_are_what_the_models_say(dataset: Path, vimo: Path, model: Path, tmp_path: Path) -> None:
    found = encode(dataset, model, tmp_path / "pairs.safetensors", "--views", "1")
    described = json.loads((tmp_path / "pairs.json").read_text(encoding="utf-8"))
    names = described["clips"]
    real = load_motions(tmp_path / "pairs_motions.safetensors")
    reactions = json.loads((tmp_path / "pairs_motions.json").read_text(encoding="utf-8"))["names"]
    classes = load_classes(tmp_path / "pairs.safetensors", len(names), real)
    assert classes.names == ("videos",) and (real.label == -1).all() and real.clip is not None
    assert real.clip.tolist() == found.clip.tolist() and real.split.tolist() == found.split[found.clip].tolist()
    assert found.local.shape == (5, 2, 16, 24) and found.mirrored.tolist() == [0, 1]
    hero = checkpoint.load(model, "cpu", "float32")
    for number, name in enumerate(names):
        frames = video.read_video(vimo / name, size=64).frames
        for view, look in enumerate((frames, frames[:, :, ::-1].copy())):
            torch.testing.assert_close(found.local[number, view].float(), hero.encode(look).local, atol=2e-2, rtol=1e-2)
    assert found.ids.shape == (6, 50, 3)
    for row, name in enumerate(reactions):
        rows = torch.from_numpy(np.load(vimo / name))
        assert torch.equal(real.get(row), rows) and len(real.get(row, mirrored=True)) == len(rows)
        n = len(rows) // 4
        straight = hero.rvq.encode_tokens(((rows[: 4 * n] - hero.mean) / hero.std)[None])[0]
        assert torch.equal(found.ids[row, :n], straight) and (found.ids[row, n:] == -1).all()
        other = motions.features(data._mirrored(humanml3d.to_joints(rows.numpy()), rows))
        turned = hero.rvq.encode_tokens(((other[: 4 * n] - hero.mean) / hero.std)[None])[0]
        assert torch.equal(found.ids_mirrored[row, :n], turned) and not torch.equal(turned, straight)
    assert found.lengths.tolist() == [int((x[:, 0] >= 0).sum()) for x in found.ids_mirrored]
    for part, count in (("train", 2), ("val", 2), ("test", 1)):
        assert len(found.clips(part)) == count


def test_a_stopped_run_goes_on(dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "pairs.safetensors"
    calls = []
    original = data.features

    def counted(encoder: Any, looks: Any) -> torch.Tensor:
        calls.append(len(looks))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(encoder, looks)

    monkeypatch.setattr(data, "features", counted)
    with pytest.raises(KeyboardInterrupt):
        encode(dataset, model, out)
    assert not out.exists() and len(list((tmp_path / "pairs_features").iterdir())) == 2
    again = encode(dataset, model, out)
    assert calls == [4] * (3 + 3) and again.local.shape[1] == 4
    whole = encode(dataset, model, tmp_path / "other.safetensors")
    assert torch.equal(whole.local, again.local) and torch.equal(whole.ids, again.ids)
    # Other looks or another encoder are not taken from what was kept.
    del calls[:]
    monkeypatch.setattr(data, "features", original)
    other = encode(dataset, model, out, "--seed", "1", "--no-mirror")
    assert other.mirrored.tolist() == [0, 0]
    torch.testing.assert_close(other.local[:, 0], again.local[:, 0])
    assert not torch.allclose(other.local[:, 1], again.local[:, 2])


def test_videos_that_went_away(dataset: Path, model: Path, tmp_path: Path, vimo: Path) -> None:
    moved = tmp_path / "moved"
    clip(moved / "videos" / "0.mp4", 3)
    found = encode(dataset, model, tmp_path / "p.safetensors", "--videos", str(moved), "--views", "1")
    assert len(found.local) == 1 and len(found.ids) == 2
    assert len(rows_of(tmp_path / "p_skipped.csv")) == 4
    with pytest.raises(HeroError, match="--strict"):
        encode(dataset, model, tmp_path / "q.safetensors", "--videos", str(moved), "--strict")
    with pytest.raises(HeroError, match="--videos"):
        encode(dataset, model, tmp_path / "q.safetensors", "--videos", str(tmp_path / "nowhere"))
    assert not (tmp_path / "q.safetensors").exists()


def test_runs_and_checkpoints_of_any_layout(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    loop.save_weights({k: v.half() for k, v in STATES["encoder"].items()}, run / "encoder.safetensors")
    (run / "encoder.json").write_text(json.dumps({"encoder": dataclasses.asdict(CONFIG.encoder)}))
    loop.save_weights(
        {**STATES["rvq"], "mean": torch.zeros(263), "std": torch.full((263,), 0.05)}, run / "tokenizer.safetensors"
    )
    (run / "report.json").write_text(json.dumps({"model": dataclasses.asdict(CONFIG.rvq)}))
    official = models.write_official(tmp_path / "official", CONFIG)
    frames = torch.randint(0, 256, (1, 2, 64, 64, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    rows = motions.features(steps(60))
    for folder in (run, model, official):
        encoder = data.load_encoder(folder)
        torch.testing.assert_close(
            data.features(encoder, frames), data.features(data.load_encoder(model), frames), atol=5e-2, rtol=5e-2
        )
        rvq, mean, std = data.load_tokenizer(folder)
        expected = data.tokens(*data.load_tokenizer(model)[:1], rows, torch.zeros(263), torch.full((263,), 0.05))
        assert torch.equal(data.tokens(rvq, rows, mean, std), expected) and expected.shape == (50, 3)
    with pytest.raises(HeroError, match="too short"):
        data.tokens(rvq, rows[:15], mean, std)
    (run / "encoder.json").write_text('{"encoder": {"widht": 3}}')
    with pytest.raises(HeroError, match="does not fit"):
        data.load_encoder(run)
    (run / "report.json").write_text("{}")
    with pytest.raises(HeroError, match=r"report\.json"):
        data.load_tokenizer(run)


def test_looks_of_a_clip() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    seen, mirrored = data.views(frames, np.random.default_rng(1), 3)
    assert seen.shape == (6, 3, 32, 32, 3) and seen.dtype == np.uint8 and mirrored == [0, 1] * 3
    np.testing.assert_array_equal(seen[0], frames)
    np.testing.assert_array_equal(seen[1::2], seen[::2, :, :, ::-1])
    assert (seen[2] != seen[4]).any() and (seen[2] != frames).any()
    assert data.views(frames, np.random.default_rng(1), 2, mirror=False)[1] == [0, 0]


def test_arguments_that_make_no_sense(dataset: Path, model: Path, tmp_path: Path) -> None:
    base = ["data", "--out", str(tmp_path / "p.safetensors")]
    for words, says in (
        ([], "either"),
        (["--source", "a", "--dataset", "b"], "either"),
        (["--dataset", str(dataset)], "--model"),
        (["--dataset", str(tmp_path), "--model", str(model)], "not a data set"),
        (["--dataset", str(dataset), "--model", str(model), "--views", "0"], "at least 1"),
        (["--source", str(dataset), "--scale", "yard"], "scale"),
    ):
        with pytest.raises(HeroError, match=says):
            data.main([*base, *words])
    with pytest.raises(HeroError, match="safetensors"):
        data.encode(dataset, model, model, tmp_path / "p.npz")


def test_joints_are_ours() -> None:
    assert len(JOINTS) == 22 and max(sources.OTHER_SKELETONS) > 22
