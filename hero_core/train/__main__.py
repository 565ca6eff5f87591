# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m hero_core.train STAGE ...``; ``STAGE --help`` tells its options. Also under torchrun."""

from __future__ import annotations

import importlib
import sys

from hero_core.errors import exit_code

# In the order in which they are needed: where each one lives, and what it makes.
STAGES = {
    "data": ("hero_core.train.data", "reads ViMo's layout or a folder of videos and motions, and lists bad files"),
    "stem": ("hero_core.train.stem", "the convolutions in front of the small video encoder"),
    "encoder": ("hero_core.train.encoder", "the small video encoder, from what larger ones said about clips"),
    "tokenizer": ("hero_core.train.tokenizer", "motions to tokens and back (RVQ-VAE)"),
    "masked": ("hero_core.train.transformers", "the first token layer of a reaction"),
    "residual": ("hero_core.train.transformers", "the other token layers"),
    "length": ("hero_core.train.length", "how long a reaction is, where nobody says"),
    "evaluator": ("hero_core.train.evaluator", "the motion features that metrics are measured in"),
}
# These know how to share a batch among processes.
SHARED = ("encoder", "tokenizer", "masked", "residual", "evaluator")


def usage() -> str:
    lines = [f"  {name:<10} {about}" for name, (_, about) in STAGES.items()]
    return "\n".join(
        [
            "usage: python -m hero_core.train STAGE --config FILE ... --out FOLDER",
            f"       torchrun --nproc-per-node N -m hero_core.train {{{','.join(SHARED)}}} ...",
            "",
            *lines,
            "",
            "'STAGE --help' tells the options of a stage. A stopped run goes on when its command is started again.",
        ]
    )


def main(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if not argv or argv[0] not in STAGES:
        print(usage(), file=sys.stderr)
        return 2
    from hero_core.train import loop, parallel

    def stage() -> int:
        parallel.start()
        if argv[0] not in SHARED:
            parallel.alone(argv[0])
        try:
            return int(importlib.import_module(STAGES[argv[0]][0]).main(argv))
        except loop.Stopped as stopped:
            if parallel.rank() == 0:
                print(stopped, file=sys.stderr)
            return 130

    try:
        return exit_code(stage, "Stopped; start the same command again to go on from the last checkpoint.")
    finally:
        parallel.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
