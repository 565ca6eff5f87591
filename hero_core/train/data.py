# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a data set of videos and reactions, and encode it for training:

python -m hero_core.train data --source FOLDER|LIST --out FOLDER
python -m hero_core.train data --dataset FOLDER --model FOLDER --out pairs.safetensors
python -m hero_core.train data --dataset FOLDER --encoder RUN --tokenizer RUN --out pairs.safetensors

The first command reads what is there (``hero_core.train.sources``), leaves out what is bad, settles the splits and
writes ``motions.npz``, ``pairs.json``, ``mean.npy``, ``std.npy`` and ``skipped.csv``. The second one writes what the
transformers train on (``hero_core.train.pairs``).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import dataclasses
import hashlib
import json
import os
import sys
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hero_core import bvh, checkpoint, device, humanml3d, video
from hero_core.config import RVQConfig, VideoEncoderConfig
from hero_core.errors import HeroError
from hero_core.motion import FPS, Array
from hero_core.output import check_output, whole_file
from hero_core.rvq import RVQVAE
from hero_core.tc_clip import VideoEncoder
from hero_core.train import loop, motions, sources
from hero_core.train.pairs import SPLITS
from hero_core.train.sources import Bad, Sequence

MAX_TOKENS = 50  # 200 frames, the longest that the official data set and models take
MIN_TOKENS = sources.MIN_ROWS // 4
AHEAD = 2  # videos decoded while the one before is encoded

T = TypeVar("T")
U = TypeVar("U")


# --- frozen models --------------------------------------------------------------------------------


def _run(folder: str | os.PathLike[str], name: str, key: str, weights: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Sizes and tensors that a training run left in its folder."""
    path = Path(folder) / name
    try:
        values = json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise HeroError(f"'{path}' cannot be read ({err}); train that stage again.") from err
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}, loop.load_weights(
        path.parent / weights
    )


def load_tokenizer(folder: str | os.PathLike[str]) -> tuple[RVQVAE, Tensor, Tensor]:
    """Tokenizer, mean and std (263,) of a training run's folder or of a checkpoint folder of any layout."""
    if not (Path(folder) / "tokenizer.safetensors").is_file():
        hero = checkpoint.load(folder, "cpu", "float32")
        return hero.rvq, hero.mean, hero.std
    values, state = _run(folder, "report.json", "model", "tokenizer.safetensors")
    try:
        mean, std = state.pop("mean"), state.pop("std")
        model = RVQVAE(RVQConfig(**values))
        model.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError) as err:
        raise HeroError(f"The tokenizer in '{folder}' does not fit this version ({err}); train it again.") from err
    return model.eval().requires_grad_(False), mean, std


def load_encoder(folder: str | os.PathLike[str]) -> VideoEncoder:
    """Video encoder, float32, of a training run's folder or of a checkpoint folder of any layout."""
    if not (Path(folder) / "encoder.safetensors").is_file():
        encoder = checkpoint.load(folder, "cpu", "float32").encoder
        if encoder is None:
            raise HeroError(f"'{folder}' has no video encoder; give a HERO checkpoint or a run of the encoder.")
        return encoder
    values, state = _run(folder, "encoder.json", "encoder", "encoder.safetensors")
    try:
        model = VideoEncoder(VideoEncoderConfig(**values))
        model.load_state_dict({k: v.float() for k, v in state.items()})
    except (TypeError, RuntimeError) as err:
        raise HeroError(f"The encoder in '{folder}' does not fit this version ({err}); train it again.") from err
    return model.eval().requires_grad_(False)


# --- what training sees of a clip and of a motion ---------------------------------------------------


def views(frames: Array, rng: np.random.Generator, count: int, mirror: bool = True) -> tuple[Array, list[int]]:
    """Looks of a clip: other light, colour and framing, the same for all frames of a look; the first is the clip.

    frames (T, S, S, 3) uint8 -> (V, T, S, S, 3) uint8 and for each whether it is mirrored; V is ``count``, or with
    ``mirror`` twice that, each look followed by its mirror image.
    """
    out = []
    for i in range(count):
        x = frames.astype(np.float32)
        if i:
            gain = rng.uniform(0.75, 1.25, 3) * rng.uniform(0.8, 1.2)
            x = (x - 128) * rng.uniform(0.8, 1.2) + 128
            x = np.clip(x * gain, 0, 255)
            size = frames.shape[1]
            side = int(size * rng.uniform(0.82, 1.0))
            top, left = rng.integers(0, size - side + 1, 2)
            grid = (np.arange(size) * side // size).astype(int)
            x = x[:, top + grid][:, :, left + grid]
        x = x.astype(np.uint8)
        out += [x, x[:, :, ::-1]] if mirror else [x]
    return np.stack(out), ([0, 1] if mirror else [0]) * count


@torch.inference_mode()
def features(encoder: VideoEncoder, looks: Array) -> Tensor:
    """(V, T, S, S, 3) uint8 -> (V, T, D) float32, on the CPU; one look at a time where the processor is one."""
    where = encoder.proj.device
    parts = torch.from_numpy(np.ascontiguousarray(looks)).split(1 if where.type == "cpu" else len(looks))
    return torch.cat([encoder(encoder.normalise(part.to(where))).float().cpu() for part in parts])


@torch.inference_mode()
def tokens(model: RVQVAE, rows: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(n, 263) features -> (MAX_TOKENS, Q) int64, padded with -1; what is longer is cut at its end.

    Raises HeroError for fewer than MIN_TOKENS tokens.
    """
    unit = model.cfg.frames_per_token
    n = min(len(rows) // unit, MAX_TOKENS)
    if n < MIN_TOKENS:
        raise HeroError(f"A motion of {len(rows)} frames is too short; at least {MIN_TOKENS * unit} are needed.")
    where = next(model.parameters()).device
    found = model.encode_tokens(((rows[: unit * n] - mean) / std)[None].to(where))[0].cpu()  # (n, Q)
    return torch.nn.functional.pad(found, (0, 0, 0, MAX_TOKENS - n), value=-1)


def ahead(work: Callable[[T], U], items: Iterable[T], workers: int = AHEAD) -> Iterator[U]:
    """``map`` in the background, a few items ahead of who reads it."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting: list[concurrent.futures.Future[U]] = []
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


class Progress:
    """Lines like ``120/4000 videos  3.1/s  20.9 min left``, one every few seconds and at the end."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what, self.done, self.fresh = total, what, 0, 0
        self.started = self.shown = time.monotonic()

    def step(self, known: bool = False) -> None:
        """``known``: it cost nothing, so the speed does not count it."""
        self.done += 1
        self.fresh += not known
        now = time.monotonic()
        if now - self.shown > 5 or self.done == self.total:
            speed = self.fresh / max(now - self.started, 1e-6)
            left = f"  {speed:.1f}/s  {(self.total - self.done) / speed / 60:.1f} min left" if speed else ""
            print(f"{self.done}/{self.total} {self.what}{left}", flush=True)
            self.shown = now


# --- splits ---------------------------------------------------------------------------------------


def share(name: str) -> float:
    """A number in [0, 1) that belongs to a name, on every machine and in every year."""
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def groups(videos: Iterable[str], links: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Videos that share a motion, directly or through others, stay together: lists of names, sorted."""
    parent = {name: name for name in videos}

    def top(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first: dict[str, str] = {}
    for clip, motion in links:
        if clip in parent:
            a, b = sorted((top(clip), top(first.setdefault(motion, clip))))
            parent[b] = a
    out = defaultdict(list)
    for name in sorted(parent):
        out[top(name)].append(name)
    return list(out.values())


def settle(links: list[tuple[str, str, str]]) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """Split of each video such that all its motions are in it and no motion is in two.

    Args:
        links: (video, motion, given split or "") of every pair.

    Returns:
        video -> split, and the (video, motion, reason) of pairs that have to go.

    * A video with several given splits is in the strictest of them (test before val before train).
    * Videos without one are put by the hash of their name: 80 % train, 10 % val, 10 % test; those that share
      motions go together, by the hash of the first name.
    * A motion that videos of several splits use stays with the strictest; its pairs in the others go.
    * Where lists give train and test but no val, 10 % of the training videos by hash become val.
    """
    rank = {"": -1, "train": 0, "val": 1, "test": 2}
    split: dict[str, str] = {}
    for clip, _, given in links:
        split[clip] = max(split.get(clip, ""), given, key=rank.__getitem__)
    plain = [(clip, motion) for clip, motion, _ in links]
    given_any = any(split.values())
    loose = groups([clip for clip, name in split.items() if not name], plain)
    _deal(loose, split, (("val", 0.1, 0.2), ("test", 0.0, 0.1)), at_least_one=not given_any)

    owner: dict[str, str] = {}  # motion -> the video that decides its split
    for clip, motion in plain:
        owner[motion] = max(owner.get(motion, clip), clip, key=lambda name: rank[split[name]])
    gone = [
        (clip, motion, f"the motion belongs to the {split[owner[motion]]} split through '{owner[motion]}'")
        for clip, motion in plain
        if split[owner[motion]] != split[clip]
    ]
    if given_any and "val" not in split.values():
        kept = [(clip, motion) for clip, motion in plain if split[owner[motion]] == split[clip] == "train"]
        training = groups(sorted({clip for clip, _ in kept}), kept)
        _deal(training, split, (("val", 0.0, 0.1),), at_least_one=True)
    return split, gone


def _deal(
    parts: list[list[str]], split: dict[str, str], shares: tuple[tuple[str, float, float], ...], at_least_one: bool
) -> None:
    """Put groups of videos into splits by hash, the rest into train; a tiny set still gets one of each if it can."""
    by_hash = sorted(parts, key=lambda part: share(part[0]))
    chosen = {
        part[0]: next((name for name, low, high in shares if low <= share(part[0]) < high), "train") for part in by_hash
    }
    for name, _, _ in shares:
        training = [part[0] for part in by_hash if chosen[part[0]] == "train"]
        if at_least_one and name not in chosen.values() and len(training) > 1:
            chosen[training[0]] = name
    for part in parts:
        split.update(dict.fromkeys(part, chosen[part[0]]))


# --- make a data set --------------------------------------------------------------------------------


def make(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    fps: float = FPS,
    up: str = "auto",
    scale: float | None = None,
    feat_bias: float = 5.0,
    strict: bool = False,
) -> dict[str, Any]:
    """Read a source of pairs and write the data set folder; returns what ``pairs.json`` holds.

    Args:
        fps: poses per second of joint arrays (not of features, which are 20, nor of BVH files, which say it).
        up, scale: see ``sources.read_motion``.
        feat_bias: root and contacts weigh this much more (squared) in training, as in the official one.
        strict: any bad file is an error.

    Raises:
        HeroError: nothing is left, or with ``strict`` something was left out (skipped.csv is written even so).
    """
    found = sources.find(source)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise HeroError(f"'{folder}' cannot be made ({err.strerror or err}); choose another folder.") from err
    check_output(folder / "motions.npz", ".npz")
    bad = list(found.bad)

    # Motions first: they cost less than videos, and a video without a good one need not be opened.
    wanted = list(dict.fromkeys((pair.motion, pair.member) for pair in found.pairs))
    print(f"{len(found.pairs)} pairs, {len({pair.video for pair in found.pairs})} videos", flush=True)
    progress = Progress(len(wanted), "motion files")
    have: dict[tuple[Path, str], list[tuple[str, Sequence]]] = {}
    for path, member in wanted:
        good: list[tuple[str, Sequence]] = []
        name = sources.relative(found.root, path)
        for result in sources.read_motion(path, member, fps, up, scale):
            if isinstance(result, Bad):
                bad.append(dataclasses.replace(result, file=name + result.file[len(path.name) :]))
            else:
                good.append((f"{name}#{result.member}" if result.member else name, result))
        have[path, member] = good
        progress.step()

    usable = list(dict.fromkeys(pair.video for pair in found.pairs if have[pair.motion, pair.member]))
    for path in dict.fromkeys(pair.video for pair in found.pairs if pair.video not in set(usable)):
        bad.append(Bad("video", sources.relative(found.root, path), "none of its motions can be used"))
    progress = Progress(len(usable), "videos")
    clips: dict[Path, video.VideoClip] = {}
    for path, clip in ahead(_probe, usable):
        if isinstance(clip, str):
            bad.append(Bad("video", sources.relative(found.root, path), clip))
        else:
            clips[path] = clip
        progress.step()

    # The same motion under two names is one motion, or a copy of a test motion would be trained on.
    content: dict[str, str] = {}
    sequences: dict[str, Sequence] = {}
    links: list[tuple[str, str, str]] = []
    reactions: list[tuple[str, str, str]] = []  # video, motion's name, motion's content
    paths = {sources.relative(found.root, path): path for path in clips}
    for pair in found.pairs:
        at = sources.relative(found.root, pair.video)
        for name, sequence in have[pair.motion, pair.member] if at in paths else ():
            sequences[name] = sequence
            if name not in content:
                content[name] = hashlib.sha256(sequence.joints.tobytes()).hexdigest()
            links.append((at, content[name], pair.split or sequence.split))
            reactions.append((at, name, content[name]))
    split, gone = settle(links)
    lost = {(at, motion): reason for at, motion, reason in gone}
    for at, name, motion in reactions:
        if (at, motion) in lost:
            bad.append(Bad("pair", f"{at} + {name}", lost[at, motion]))
    kept = list(dict.fromkeys((at, name) for at, name, motion in reactions if (at, motion) not in lost))

    _write_skipped(bad, folder / "skipped.csv")
    _say(bad, folder / "skipped.csv")
    if strict and bad:
        raise HeroError(
            f"{len(bad)} files or pairs are bad ('{folder / 'skipped.csv'}'); repair them, or leave out --strict."
        )
    if not kept:
        raise HeroError(f"No pair of '{source}' can be used; '{folder / 'skipped.csv'}' says why.")
    named = [(sources.relative(found.root, pair.video), pair) for pair in found.pairs]
    kinds = {relative: pair.kind for relative, pair in named if pair.kind}
    labels = {name: pair.reaction for _, pair in named if pair.reaction for name, _ in have[pair.motion, pair.member]}
    entries = _entries(kept, split, clips, paths, sequences, kinds, labels)
    training = [name for entry in entries if entry["split"] == "train" for name in _names(entry)]
    if not training:
        raise HeroError(f"No pair of '{source}' is in the train split; give other splits, or leave them to be drawn.")

    if found.statistics is not None:
        # The official training divides the data set's Std twice, see humanml3d.statistics.
        mean, std = found.statistics[0], found.statistics[1].copy()
        std[humanml3d.ROOT] /= feat_bias**2
        std[humanml3d.CONTACT] /= feat_bias**2
        print("Mean and Std are those of the data set's own files.", flush=True)
    else:
        rows = torch.cat([sequences[name].rows for name in dict.fromkeys(training)])
        mean, std = (x.numpy() for x in humanml3d.statistics(rows, feat_bias))

    _write_motions(entries, sequences, folder / "motions.npz")
    for name, value in (("mean", mean), ("std", std)):
        with whole_file(folder / f"{name}.npy") as part:
            np.save(part, value)
    root = Path(os.path.relpath(found.root, folder)).as_posix() if _same_disk(found.root, folder) else str(found.root)
    description = {"version": 1, "videos_root": root, "fps": FPS, "videos": entries}
    with whole_file(folder / "pairs.json") as part:  # last: a folder that has it is whole
        part.write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")
    for part_name in SPLITS:
        some = [entry for entry in entries if entry["split"] == part_name]
        print(f"{part_name}: {len(some)} videos, {sum(len(entry['motions']) for entry in some)} reactions", flush=True)
        if not some and part_name != "test":
            print(
                f"There is nothing in {part_name}: too few videos, or all of them share motions. Training needs it; "
                "give splits in a list.",
                file=sys.stderr,
            )
    print(f"{folder}: {len(entries)} videos, {len(training)} reactions to train on", flush=True)
    return description


def _probe(path: Path) -> tuple[Path, video.VideoClip | str]:
    """What a video is, without reading all that training needs; or what is wrong with it."""
    try:
        return path, video.read_video(path, 2, 16)
    except HeroError as err:
        return path, str(err)
    except (OSError, ValueError, MemoryError) as err:
        return path, f"it cannot be read ({err})"


def _same_disk(a: Path, b: Path) -> bool:
    return a.absolute().drive == b.absolute().drive


def _names(entry: dict[str, Any]) -> list[str]:
    return [motion["name"] for motion in entry["motions"]]


def _entries(
    kept: list[tuple[str, str]],
    split: dict[str, str],
    clips: dict[Path, video.VideoClip],
    paths: dict[str, Path],
    sequences: dict[str, Sequence],
    kinds: dict[str, str],
    labels: dict[str, str],
) -> list[dict[str, Any]]:
    """What ``pairs.json`` says of each video; where nothing says its class, that is its folder's name."""
    of: dict[str, list[str]] = defaultdict(list)
    for clip, name in kept:
        of[clip].append(name)
    return [
        {
            "path": clip,
            "split": split[clip],
            "class": kinds.get(clip) or paths[clip].parent.name,
            "seconds": round(clips[paths[clip]].duration, 3),
            "frames": clips[paths[clip]].total_frames,
            **({"damaged": True} if clips[paths[clip]].damaged else {}),
            "motions": [
                {
                    "name": name,
                    "seconds": round(len(sequences[name].rows) / FPS, 3),
                    **({"reaction": labels[name]} if name in labels else {}),
                }
                for name in names
            ],
        }
        for clip, names in sorted(of.items(), key=lambda item: (SPLITS.index(split[item[0]]), item[0]))
    ]


def _write_motions(entries: list[dict[str, Any]], sequences: dict[str, Sequence], path: Path) -> None:
    split = {name: entry["split"] for entry in entries for name in _names(entry)}
    chosen = [sequences[name] for name in split]
    data: dict[str, Array] = {
        "joints": np.concatenate([s.joints for s in chosen]),
        "offsets": np.cumsum([0, *(len(s.joints) for s in chosen)]),
        "names": np.array(list(split)),
        "split": np.array(list(split.values())),
        "fps": np.array(FPS),
    }
    if any(s.given for s in chosen):
        rows = [s.rows.numpy() if s.given else np.empty((0, humanml3d.DIM), np.float32) for s in chosen]
        data["features"] = np.concatenate(rows)
        data["feature_offsets"] = np.cumsum([0, *map(len, rows)])
    with whole_file(path) as part:
        np.savez(part, **data)


def _write_skipped(bad: list[Bad], path: Path) -> None:
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "file", "reason"])
        writer.writerows(dataclasses.astuple(entry) for entry in bad)


def _say(bad: list[Bad], path: Path, most: int = 20) -> None:
    for entry in bad[:most]:
        print(f"left out: {entry.kind} {entry.file}: {entry.reason}", file=sys.stderr)
    if bad:
        more = f", {len(bad) - most} more" if len(bad) > most else ""
        print(f"{len(bad)} left out{more}; all of them are in '{path}'", file=sys.stderr)


# --- encode a data set ------------------------------------------------------------------------------


def encode(
    dataset: str | os.PathLike[str],
    encoder_folder: str | os.PathLike[str],
    tokenizer_folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    looks: int = 2,
    mirror: bool = True,
    seed: int = 0,
    device_name: str = "auto",
    videos: str | os.PathLike[str] | None = None,
    strict: bool = False,
) -> None:
    """Videos through the frozen encoder, motions through the tokenizer: one file that transformers train on.

    Features of each video are kept in the folder ``<out>_features`` beside the file as soon as they are made. Started
    again, the command takes them from there where video, encoder and looks are the same; the folder may be removed
    afterwards. Beside the file are ``<out>_motions.safetensors`` and the names that ``hero_core.evaluate`` needs.

    Args:
        looks: see ``views``; all but the first are augmented.
        seed: of the augmentation; each video draws its own from this and its name.
        videos: folder that the paths of the data set start from, where it has moved.
        strict: a video that cannot be read any more is an error.

    Raises:
        HeroError: the data set or a model is missing or does not fit, or no video is left.
    """
    target = check_output(out, ".safetensors")
    folder = Path(dataset)
    try:
        listed = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
        entries, root = listed["videos"], folder / listed["videos_root"]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise HeroError(f"'{folder}' is not a data set ({err}); make one with --source first.") from err
    root = root if videos is None else Path(videos)
    if looks < 1:
        raise HeroError("The number of views must be at least 1.")
    where, _ = device.pick(device_name, "float32")
    encoder = load_encoder(encoder_folder).to(where)
    tokenizer, mean, std = load_tokenizer(tokenizer_folder)
    tokenizer.to(where)
    cache = target.with_name(f"{target.stem}_features")
    try:
        cache.mkdir(exist_ok=True)
    except OSError as err:
        raise HeroError(f"'{cache}' cannot be made ({err.strerror or err}); choose another output.") from err
    salt = f"{_fingerprint(encoder)} {looks} {mirror} {seed}"
    marks = views(np.zeros((1, 8, 8, 3), np.uint8), np.random.default_rng(0), looks, mirror)[1]

    bad: list[Bad] = []
    local: list[Tensor] = []
    clips: list[dict[str, Any]] = []
    size = encoder.cfg.image_size

    def read(entry: dict[str, Any]) -> tuple[dict[str, Any], Path, Array | str | None]:
        """Frames of a video, None where its features are known already, or what is wrong with it."""
        path = root / entry["path"]
        try:
            state = path.stat()
            key = hashlib.sha256(f"{salt} {entry['path']} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()
            known = cache / f"{key[:32]}.safetensors"
            return (
                entry,
                known,
                None if known.is_file() else video.read_video(path, encoder.cfg.num_frames, size).frames,
            )
        except (OSError, ValueError, MemoryError, HeroError) as err:
            return entry, cache, str(err)

    progress = Progress(len(entries), "videos")
    for entry, known, frames in ahead(read, entries):
        if isinstance(frames, str):
            bad.append(Bad("video", entry["path"], frames))
        else:
            if frames is not None:
                rng = np.random.default_rng([seed, int(share(entry["path"]) * 2**32)])
                made = features(encoder, views(frames, rng, looks, mirror)[0])
                if not bool(torch.isfinite(made).all()):
                    raise HeroError(f"The encoder gave NaN for '{entry['path']}'; use another device or encoder.")
                loop.save_weights({"local": made.half()}, known)
            local.append(loop.load_weights(known)["local"])
            clips.append(entry)
        progress.step(known=frames is None)
    if bad:
        skipped = target.with_name(f"{target.stem}_skipped.csv")
        _write_skipped(bad, skipped)
        _say(bad, skipped)
        if strict:
            raise HeroError(f"{len(bad)} videos cannot be read ('{skipped}'); repair them, or leave out --strict.")
    if not clips:
        raise HeroError(f"No video of '{folder}' can be read from '{root}'; give their folder with --videos.")

    needed = dict.fromkeys(name for entry in clips for name in _names(entry))
    progress = Progress(len(needed), "motions")
    ids: dict[str, tuple[Tensor, Tensor]] = {}
    real: dict[str, tuple[Tensor, Tensor]] = {}  # features of a motion and of its mirror image
    longer = 0
    for name, _, joints, rows in motions.with_features(folder / "motions.npz"):
        if name in needed:
            real[name] = rows, motions.features(_mirrored(joints, rows))
            straight = tokens(tokenizer, rows, mean, std)
            ids[name] = straight, tokens(tokenizer, real[name][1], mean, std) if mirror else straight
            longer += len(rows) >= 4 * (MAX_TOKENS + 1)
            progress.step()
    lacking = [name for name in needed if name not in ids]
    if lacking:
        raise HeroError(f"'{folder / 'motions.npz'}' lacks {lacking[0]}; make the data set again.")
    owner = [(number, motion) for number, entry in enumerate(clips) for motion in entry["motions"]]
    names = [motion["name"] for _, motion in owner]
    classes = sorted({str(entry.get("class", "")) for entry in clips})
    clip_class = [classes.index(str(entry.get("class", ""))) for entry in clips]
    reactions = sorted({motion["reaction"] for _, motion in owner if motion.get("reaction")})
    split = torch.tensor([SPLITS.index(entry["split"]) for entry in clips])
    clip_of = torch.tensor([number for number, _ in owner])
    stem = target.with_name(f"{target.stem}_motions")
    loop.save_weights(  # as hero_core.evaluate reads real reactions
        {
            "features": torch.cat([real[name][0] for name in names]),
            "features_mirrored": torch.cat([real[name][1] for name in names]),
            "offsets": torch.tensor(np.cumsum([0, *(len(real[name][0]) for name in names)])),
            "label": torch.tensor([reactions.index(m["reaction"]) if m.get("reaction") else -1 for _, m in owner]),
            "stimulus": torch.tensor(clip_class)[clip_of],
            "split": split[clip_of],
            "clip": clip_of,
        },
        stem.with_suffix(".safetensors"),
    )
    for path, content in (
        (stem.with_suffix(".json"), {"reactions": reactions, "stimuli": classes, "names": names}),
        (
            target.with_suffix(".json"),
            {"classes": classes, "clip_class": clip_class, "clips": [entry["path"] for entry in clips]},
        ),
    ):
        with whole_file(path) as part:
            part.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    loop.save_weights(
        {
            "local": torch.stack(local),
            "split": split,
            "ids": torch.stack([ids[name][0] for name in names]),
            "ids_mirrored": torch.stack([ids[name][1] for name in names]),
            "clip": clip_of,
            "mirrored": torch.tensor(marks),
        },
        target,
    )
    if longer:
        print(f"{longer} motions are longer than {MAX_TOKENS * 4 / FPS:g} s and were cut there", flush=True)
    print(f"{target}: {len(clips)} clips, {len(owner)} reactions, {len(ids)} different ones", flush=True)


def _mirrored(joints: Array, rows: Tensor) -> Array:
    """The mirror image of a motion, one pose longer than its rows, as features need it."""
    if len(joints) == len(rows):
        # Features of n rows tell n poses and the step to one more: it stands where the last one stood.
        joints = np.concatenate([joints, joints[-1:]])
    return np.asarray(humanml3d.mirror(joints))


def _fingerprint(encoder: VideoEncoder) -> str:
    digest = hashlib.sha256(repr(encoder.cfg).encode())
    for key, value in sorted(encoder.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


# --- command line -----------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m hero_core.train data", description=__doc__)
    root.formatter_class = argparse.RawDescriptionHelpFormatter
    root.add_argument("--out", type=Path, required=True, help="folder of the data set, or pairs.safetensors")
    root.add_argument("--strict", action="store_true", help="any bad file is an error")
    one = root.add_argument_group("make a data set")
    one.add_argument("--source", type=Path, help="ViMo's folder, a list (.csv, .json, .txt), or a folder of pairs")
    one.add_argument("--fps", type=float, default=FPS, help="poses per second of joint arrays (default 20)")
    one.add_argument("--up", default="auto", choices=["auto", "x", "y", "z"], help="up axis (arrays: y)")
    one.add_argument("--scale", default="auto", help=f"metres in a BVH unit: a number, or {', '.join(bvh.UNITS)}")
    one.add_argument("--feat-bias", type=float, default=5.0, help="weight of root and contacts (default 5)")
    two = root.add_argument_group("encode a data set")
    two.add_argument("--dataset", type=Path, help="folder made with --source")
    two.add_argument("--model", help="checkpoint folder with encoder and tokenizer; the official release is one")
    two.add_argument("--encoder", help="folder of an encoder's run, or a checkpoint")
    two.add_argument("--tokenizer", help="folder of a tokenizer's run, or a checkpoint")
    two.add_argument("--views", type=int, default=2, help="looks of each clip (default 2)")
    two.add_argument("--no-mirror", action="store_true", help="no mirror image of each look")
    two.add_argument("--seed", type=int, default=0, help="of the looks")
    two.add_argument("--device", default="auto")
    two.add_argument("--videos", type=Path, help="where the videos are now")
    return root


def main(argv: list[str]) -> int:
    """``argv[0]`` is the stage's name."""
    args = parser().parse_args(argv[1:])
    if (args.source is None) == (args.dataset is None):
        raise HeroError("Give either --source, to make a data set, or --dataset, to encode one.")
    if args.source is not None:
        make(args.source, args.out, args.fps, args.up, _scale(args.scale), args.feat_bias, args.strict)
        return 0
    encoder, tokenizer = args.encoder or args.model, args.tokenizer or args.model
    if not encoder or not tokenizer:
        raise HeroError("Give --encoder and --tokenizer, or --model for both.")
    encode(
        args.dataset, encoder, tokenizer, args.out, args.views, not args.no_mirror, args.seed, args.device,
        args.videos, args.strict,
    )  # fmt: skip
    return 0


def _scale(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        value = bvh.UNITS[text] if text in bvh.UNITS else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise HeroError(f"The scale '{text}' is not known; give metres in a unit, or one of {', '.join(bvh.UNITS)}.")
    return value
