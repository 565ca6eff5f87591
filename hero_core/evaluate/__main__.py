# SPDX-License-Identifier: GPL-3.0-or-later
"""One table for models and baselines:

    python -m hero_core.evaluate --models HERO=FOLDER ["w/o IIE=FOLDER" ...] --pairs FILE --motions FILE \
        --evaluator FOLDER [--classifier FOLDER] --out report.json [--table table.md]

The first model is also shown other videos than the ones that its reactions are judged by. Generated tokens are kept
in report.cache beside the report; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from hero_core.checkpoint import load
from hero_core.errors import HeroError, exit_code
from hero_core.evaluate import compare, data, table
from hero_core.evaluate import evaluator as extractors
from hero_core.evaluate.generation import Generator, Sampling, model_fingerprint
from hero_core.output import check_output, whole_file
from hero_core.train import pairs as pair_files


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m hero_core.evaluate", description="Measure generated reactions.")
    root.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER", help="the first one is the main one")
    root.add_argument("--pairs", type=Path, required=True, help="pairs.safetensors, with pairs.json beside it")
    root.add_argument("--motions", type=Path, required=True, help="real reactions, with names in a JSON beside it")
    root.add_argument("--evaluator", type=Path, required=True, help="a trained folder, or the official finest.tar")
    root.add_argument("--statistics", type=Path, help="folder of mean.npy, std.npy for the official evaluator")
    root.add_argument("--classifier", type=Path, help="for plausibility; default: the evaluator's own heads, if any")
    root.add_argument("--out", type=Path, required=True, help="report.json")
    root.add_argument("--table", type=Path, help="table.md")
    root.add_argument("--add", type=Path, nargs="+", default=[], help="reports whose rows join the table")
    root.add_argument("--split", default="test", choices=pair_files.SPLITS)
    root.add_argument("--limit", type=int, help="so many clips only, drawn at random")
    root.add_argument("--repeats", type=int, default=20)
    root.add_argument("--takes", type=int, default=10, help="of a clip, for MultiModality")
    root.add_argument("--take-clips", type=int, default=32, help="clips of which so many takes are made")
    root.add_argument(
        "--official-sizes", action="store_true", help="20 repeats, 30 takes of 96 clips, 300 or 13 pairs for Diversity"
    )
    root.add_argument("--steps", type=int, default=10)
    root.add_argument("--guidance", type=float, help="default: as the model's config says")
    root.add_argument("--residual-guidance", type=float)
    root.add_argument("--batch", type=int, default=32)
    root.add_argument("--seed", type=int, default=0)
    root.add_argument("--threads", type=int, default=0, help="0 = torch's choice")
    root.add_argument("--device", default="auto")
    root.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    return root


def model_folders(texts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, separator, folder = text.partition("=")
        if not separator or not name or not folder or name in found:
            raise HeroError(f"'{text}' is no model; write each as NAME=FOLDER, with different names.")
        found[name] = folder
    return found


def evaluate(args: argparse.Namespace) -> None:
    check_output(args.out, ".json")
    if args.table is not None:
        check_output(args.table, ".md")
    if args.repeats < 1 or args.takes < 1 or args.take_clips < 1 or args.batch < 1:
        raise HeroError("--repeats, --takes, --take-clips and --batch must be 1 or more.")
    if args.threads:
        torch.set_num_threads(args.threads)
    folders = model_folders(args.models)
    more = [row for path in args.add for row in table.read_rows(path)]
    chosen = compare.OFFICIAL if args.official_sizes else {
        "repeats": args.repeats, "takes": args.takes, "take_clips": args.take_clips,
    }  # fmt: skip
    sizes = compare.Sizes(official=args.official_sizes, seed=args.seed, **chosen)
    sampling = Sampling(args.steps, args.guidance, args.residual_guidance)
    pairs = pair_files.load(args.pairs)
    motions = data.load_motions(args.motions)
    classes = data.load_classes(args.pairs, len(pairs.split), motions)
    extractor = extractors.load(args.evaluator, args.statistics)
    classifier = extractors.load(args.classifier) if args.classifier is not None else extractor
    if classifier.heads is None:
        if args.classifier is not None:
            raise HeroError(f"'{args.classifier}' has no classifier; train one as --classifier.")
        print("The official evaluator has no classifier: plausibility is left out; give --classifier for it.")
    heroes = {name: load(folder, args.device, args.dtype) for name, folder in folders.items()}
    first = next(iter(heroes))
    test = compare.Comparison(
        pairs,
        motions,
        classes,
        extractor,
        classifier if classifier.heads is not None else None,
        sizes,
        args.split,
        heroes[first].config.max_length,
        args.limit,
    )
    planned = len(heroes) * test.planned() + test.planned(shuffled=True)
    generator = Generator(args.out.with_suffix(".cache"), sampling, args.batch, planned)
    print(f"{len(test.clips)} clips, {len(test.bank)} real reactions; {planned} reactions to generate", flush=True)

    rows = [test.real()]
    if more:
        table.check([*rows, *more])  # before the long work
    tokenizers: dict[str, str] = {}
    for name, hero in heroes.items():
        which = extractors.fingerprint({**hero.rvq.state_dict(), "mean": hero.mean, "std": hero.std})
        if which not in tokenizers:
            title = "real motion through the tokenizer" + (f" of {name}" if tokenizers else "")
            rows.append(test.tokenized(hero, title))
            tokenizers[which] = name
    other = f"{first}, shown another video"
    for name, hero in heroes.items():
        model = model_fingerprint(hero)
        rows.append(test.model(hero, name, generator, model))
        if name == first:
            control = test.shuffled(hero, other, generator, model)
    rows += [control, test.neighbour(), test.random_training(), *more]
    text = table.markdown(rows)
    report = {
        "evaluator": extractor.identity,
        "classifier": classifier.identity if classifier.heads is not None else "",
        "separate_classifier": classifier is not extractor,
        "split": args.split,
        "clips": len(test.clips),
        "real_reactions": len(test.bank),
        "models": folders,
        "sizes": asdict(sizes),
        "sampling": asdict(sampling),
        "device": str(heroes[first].device),
        "dtype": str(heroes[first].dtype).removeprefix("torch."),
        "seconds_a_reaction": generator.seconds / generator.made if generator.made else None,
        "summary": compare.summary(rows, first, other),
        "rows": [asdict(row) for row in rows],
    }
    with whole_file(args.out) as part:
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.table is not None:
        with whole_file(args.table) as part:
            part.write_text(text, encoding="utf-8")
    print(text)
    print(json.dumps(report["summary"], indent=1))


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return exit_code(lambda: evaluate(args), "Stopped; start the same command again to go on.")


if __name__ == "__main__":
    sys.exit(main())
