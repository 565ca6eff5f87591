# SPDX-License-Identifier: GPL-3.0-or-later
"""Models and baselines measured on the same clips (paper, tables 1 and 2, and beyond)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hero_core import humanml3d
from hero_core.errors import HeroError
from hero_core.evaluate import metrics, physical, plausibility
from hero_core.evaluate.data import Classes, Motions
from hero_core.evaluate.evaluator import OFFICIAL_FRAMES, UNIT, FeatureExtractor, fingerprint
from hero_core.evaluate.generation import Generator, decode
from hero_core.evaluate.table import Row, Value
from hero_core.hero import Hero
from hero_core.train.pairs import SPLITS, Pairs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sizes:
    """How much is drawn. ``official``: as the release does; else better for small test sets."""

    repeats: int = metrics.REPEATS
    takes: int = 10  # of a clip, for MultiModality
    take_clips: int = 32
    official: bool = False
    seed: int = 0


OFFICIAL = {"repeats": 20, "takes": 30, "take_clips": 96}


@dataclass
class Measured:
    """What was found for one reaction to each clip."""

    embedding: Floats  # (C, D)
    body: list[dict[str, float]]
    kind: Ints | None = None  # (C,) of reaction, as the classifier says
    stimulus: Ints | None = None

    def pick(self, rows: Ints) -> Measured:
        return Measured(
            self.embedding[rows],
            [self.body[i] for i in rows],
            None if self.kind is None else self.kind[rows],
            None if self.stimulus is None else self.stimulus[rows],
        )


class Comparison:
    """The test set, the extractor, and one method for each kind of row."""

    def __init__(
        self,
        pairs: Pairs,
        motions: Motions,
        classes: Classes,
        extractor: FeatureExtractor,
        classifier: FeatureExtractor | None,
        sizes: Sizes,
        split: str = "test",
        max_length: int = 200,
        limit: int | None = None,
    ) -> None:
        if motions.clip is None:
            raise HeroError("The motions do not say whose reactions they are; add 'clip' to evaluate.")
        if split not in SPLITS:
            raise HeroError(f"The split '{split}' is unknown; use {', '.join(SPLITS)}.")
        self.pairs, self.motions, self.classes, self.sizes = pairs, motions, classes, sizes
        self.extractor, self.classifier, self.max_length = extractor, classifier, max_length
        wanted = (pairs.split == SPLITS.index(split)).nonzero()[:, 0]
        self.rows = motions.rows(split)
        if len(self.rows) and int(motions.clip.max()) >= len(pairs.split):
            raise HeroError(f"The motions name clip {int(motions.clip.max())}, the pairs have {len(pairs.split)}.")
        clips = wanted[torch.isin(wanted, motions.clip[self.rows])]
        if limit is not None and limit < len(clips):
            order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(sizes.seed))
            clips = clips[order[:limit].sort().values]
        if len(clips) < 2:
            raise HeroError(f"There are {len(clips)} clips with reactions in the split '{split}'; 2 are the least.")
        self.clips = clips
        self.rows = self.rows[torch.isin(motions.clip[self.rows], clips)]
        owner = motions.clip[self.rows]
        self.choices = [(owner == clip).nonzero()[:, 0].numpy() for clip in clips.tolist()]
        self.bank = [self.cut(motions.get(int(i))) for i in self.rows]  # every real reaction to these clips
        # One reaction of each clip gives the length that all rows are given.
        chosen = self.draw(0, 0)
        self.lengths = [len(self.bank[i]) for i in chosen]
        view = int((pairs.mirrored == 0).nonzero()[0, 0]) if bool((pairs.mirrored == 0).any()) else 0
        self.looks = pairs.local[:, view].float()  # (all clips, T, D)
        self.local = self.looks[clips]
        names = [classes.names[i] for i in classes.clip_class[clips].tolist()]
        self.video: Ints | None = None
        if classifier is not None:
            unknown = sorted(set(names) - set(classifier.stimuli))
            if unknown:
                raise HeroError(
                    f"The classifier does not know the classes {', '.join(unknown)}; train it on motions of them."
                )
            self.video = np.array([classifier.stimuli.index(name) for name in names])
        self.names = np.array(names)
        self.test_set = fingerprint(
            {
                "clips": clips,
                "lengths": torch.tensor(self.lengths),
                "real": torch.cat(self.bank),
                "class": classes.clip_class[clips],
            }
        )
        self.real_bank = self.measure(self.bank)
        self.reference = metrics.statistics(self.real_bank.embedding)

    # --- drawing ----------------------------------------------------------------------------------

    def cut(self, features: Tensor, frames: int | None = None) -> Tensor:
        n = min(len(features), self.max_length if frames is None else frames)
        return features[: n // UNIT * UNIT]

    def rng(self, purpose: int, repeat: int) -> np.random.Generator:
        return np.random.default_rng([self.sizes.seed, purpose, repeat])

    def draw(self, purpose: int, repeat: int) -> Ints:
        """(C,) one real reaction for each clip, as places in the bank."""
        rng = self.rng(purpose, repeat)
        return np.array([int(rng.choice(options)) for options in self.choices])

    def seeds(self, repeat: int) -> list[int]:
        """Of the generated reactions: (seed * 1000 + repeat) * 1,000,000 + number of the clip."""
        return [(self.sizes.seed * 1000 + repeat) * 1_000_000 + int(clip) for clip in self.clips]

    def other_clips(self, repeat: int) -> Ints:
        """(C,) for each clip another one of another class, as places among these clips."""
        rng = self.rng(1, repeat)
        options = [np.flatnonzero(self.names != name) for name in self.names]
        if not all(len(x) for x in options):
            raise HeroError("All clips are of one class, so no clip of another class can be shown instead.")
        return np.array([int(rng.choice(x)) for x in options])

    def take_clips(self) -> Ints:
        """Clips of which several takes are compared."""
        return np.sort(self.rng(2, 0).permutation(len(self.clips))[: self.sizes.take_clips])

    # --- measuring --------------------------------------------------------------------------------

    def measure(self, rows: Sequence[Tensor], lengths: Sequence[int] | None = None) -> Measured:
        """``rows`` (N_i, 263) de-normalised; ``lengths`` where they are padded."""
        sizes = [len(row) for row in rows] if lengths is None else list(lengths)
        embedding = self.extractor.embed(rows, sizes)
        body = [physical.measure(humanml3d.to_joints(row[:n].float())) for row, n in zip(rows, sizes, strict=True)]
        if not bool(torch.isfinite(embedding).all()):
            raise HeroError("A reaction holds NaN; load the models with --dtype float32.")
        found = Measured(embedding.double().numpy(), body)
        if self.classifier is not None:
            plain = [row[:n] for row, n in zip(rows, sizes, strict=True)]
            same = self.classifier is self.extractor and lengths is None
            kind, stimulus = self.classifier.classify(embedding if same else self.classifier.embed(plain))
            found.kind, found.stimulus = kind.numpy(), stimulus.numpy()
        return found

    def decoded(self, hero: Hero, ids: Tensor) -> Measured:
        frames = (ids[..., 0] >= 0).sum(1).mul(hero.unit).tolist()
        official = self.extractor.official
        return self.measure(decode(hero, ids, OFFICIAL_FRAMES if official else None), frames if official else None)

    def row(self, name: str, repeats: Sequence[Measured], takes: Floats | None = None, **made_by: Any) -> Row:
        """The numbers of one row, over repeats of one reaction to each clip; ``takes`` (videos, takes, D)."""
        values: dict[str, Value] = {}

        def put(key: str, each: Sequence[float]) -> None:
            mean, half = metrics.interval(each)
            values[key] = {"mean": mean, "half_width": half}

        put("fid", [metrics.frechet_distance(*self.reference, *metrics.statistics(m.embedding)) for m in repeats])
        draws = metrics.diversity_draws(len(self.clips), self.sizes.official)
        put("diversity", [metrics.diversity(m.embedding, self.rng(3, r), draws) for r, m in enumerate(repeats)])
        if takes is not None and takes.shape[1] > 1:
            if self.sizes.official:
                rng = self.rng(4, 0)
                put("multimodality", [metrics.multimodality(takes, rng) for _ in repeats])
            else:  # the interval is over clips: every pair of takes is used
                put("multimodality", [metrics.multimodality(video[None]) for video in takes])
        for key in physical.MEASURES:
            put(key, [float(np.mean([body[key] for body in m.body])) for m in repeats])
        if self.classifier is not None and self.video is not None:
            values |= self._plausibility(repeats)
        return Row(
            name,
            self.extractor.identity,
            "" if self.classifier is None else self.classifier.identity,
            self.test_set,
            values,
            {"repeats": len(repeats), **made_by},
        )

    def _plausibility(self, repeats: Sequence[Measured]) -> dict[str, Value]:
        assert self.classifier is not None and self.video is not None
        stimuli, kinds = self.classifier.stimuli, self.classifier.reactions
        said = np.stack([m.stimulus for m in repeats if m.stimulus is not None])
        kind = np.stack([m.kind for m in repeats if m.kind is not None])
        seed = self.sizes.seed
        out = {"class": asdict(plausibility.same_class(said, self.video, len(stimuli), seed))}
        groups = self.classes.groups
        if groups:
            lacking = [name for name in stimuli if name not in groups]
            if lacking:
                raise HeroError(f"The classes {', '.join(lacking)} have no group; name it beside the pairs.")
            order = sorted({groups[name] for name in stimuli})
            number = np.array([order.index(groups[name]) for name in stimuli])
            out["group"] = asdict(plausibility.same_group(said, self.video, number, seed))
        if self.classes.fitting:
            fits = np.array([[k in self.classes.fitting.get(name, ()) for k in kinds] for name in stimuli])
            known = fits[self.video].any(1)  # classes that list no kind are not asked
            if known.any():
                out["fitting"] = asdict(plausibility.judge(kind[:, known], self.video[known], fits, seed))
        return out

    # --- rows -------------------------------------------------------------------------------------

    def real(self) -> Row:
        """Real reactions, drawn anew among those of each clip; the reference of FID are all of them."""
        drawn = [self.real_bank.pick(self.draw(5, r)) for r in range(self.sizes.repeats)]
        return self.row("real motion", drawn)

    def tokenized(self, hero: Hero, name: str = "real motion through the tokenizer") -> Row:
        """The same reactions, coded and decoded."""
        out: list[Tensor] = []
        with torch.inference_mode():
            for row in self.bank:
                x = ((row.to(hero.device) - hero.mean) / hero.std)[None]
                out += decode(hero, hero.rvq.encode_tokens(x).cpu())
        bank = self.measure(out)
        return self.row(name, [bank.pick(self.draw(5, r)) for r in range(self.sizes.repeats)])

    def planned(self, shuffled: bool = False) -> int:
        """Samples that a model's row costs."""
        more = 0 if shuffled else max(0, self.sizes.takes - self.sizes.repeats) * len(self.take_clips())
        return self.sizes.repeats * len(self.clips) + more

    def model(self, hero: Hero, name: str, generator: Generator, model: str) -> Row:
        """Reactions that a model generates; the repeats are also the takes of MultiModality, as far as they go."""
        repeats, takes, chosen = [], [], self.take_clips()
        for r in range(max(self.sizes.repeats, self.sizes.takes)):
            if r < self.sizes.repeats:
                ids = generator.tokens(hero, model, self.local, self.lengths, self.seeds(r), name)
                repeats.append(self.decoded(hero, ids))
                if r < self.sizes.takes:
                    takes.append(repeats[-1].embedding[chosen])
                continue
            seeds = self.seeds(r)
            some = generator.tokens(
                hero, model, self.local[chosen], [self.lengths[i] for i in chosen], [seeds[i] for i in chosen], name
            )
            takes.append(self.decoded(hero, some).embedding)
        stack = np.stack(takes, 1) if takes else None
        return self.row(name, repeats, stack, model=model, seeds=[self.seeds(0)[0], "see Comparison.seeds"])

    def shuffled(self, hero: Hero, name: str, generator: Generator, model: str) -> Row:
        """The same model and seeds, but what it sees is a clip of another class."""
        repeats = []
        for r in range(self.sizes.repeats):
            local = self.local[torch.from_numpy(self.other_clips(r))]
            ids = generator.tokens(hero, model, local, self.lengths, self.seeds(r), name)
            repeats.append(self.decoded(hero, ids))
        return self.row(name, repeats, model=model)

    def _training(self) -> tuple[Tensor, Tensor]:
        """Motions of the training split and the clip of each."""
        assert self.motions.clip is not None
        rows = self.motions.rows("train")
        rows = rows[self.pairs.split[self.motions.clip[rows].clamp(min=0)] == 0]
        rows = rows[self.motions.clip[rows] >= 0]
        if not len(rows):
            raise HeroError("The motions hold no training reactions to take as a baseline.")
        return rows, self.motions.clip[rows]

    def _retrieved(self, name: str, chosen: Sequence[Ints]) -> Row:
        repeats = []
        for rows in chosen:
            motions = [self.cut(self.motions.get(int(i)), n) for i, n in zip(rows, self.lengths, strict=True)]
            repeats.append(self.measure(motions))
        return self.row(name, repeats)

    def neighbour(self) -> Row:
        """A reaction of the training clip whose pooled features are the most similar (cosine), cut to the length."""
        rows, owner = self._training()
        clips = owner.unique()
        pooled = torch.nn.functional.normalize(self.looks.mean(1), dim=-1)
        nearest = clips[(pooled[self.clips] @ pooled[clips].T).argmax(1)]
        options = [rows[owner == clip].numpy() for clip in nearest]
        chosen = []
        for r in range(self.sizes.repeats):
            rng = self.rng(6, r)
            chosen.append(np.array([int(rng.choice(x)) for x in options]))
        return self._retrieved("nearest training clip", chosen)

    def random_training(self) -> Row:
        """Any training reaction, cut to the length: what real motion without regard to the video scores."""
        rows, _ = self._training()
        chosen = [self.rng(7, r).choice(rows.numpy(), len(self.clips)) for r in range(self.sizes.repeats)]
        return self._retrieved("random training reaction", chosen)


def summary(rows: Sequence[Row], model: str, shuffled: str) -> dict[str, float]:
    """How the first model stands beside chance, the shuffled video and real motion."""
    named = {row.name: row.values for row in rows}
    out: dict[str, float] = {}
    mine, real = named[model], named.get("real motion")
    for key in ("class", "group", "fitting"):
        if key not in mine:
            continue
        value = mine[key]["value"]
        for chance in ("uniform", "frequencies", "other_video"):
            out[f"{key}_over_chance_{chance}"] = value / max(mine[key][chance], 1e-9)
        if shuffled in named:
            out[f"{key}_over_shuffled_video"] = value / max(named[shuffled][key]["value"], 1e-9)
        if real is not None:
            out[f"{key}_over_real"] = value / max(real[key]["value"], 1e-9)
    if real is not None:
        for key in ("skating", "jerk", "speed"):
            out[f"{key}_over_real"] = mine[key]["mean"] / max(real[key]["mean"], 1e-9)
    return out
