# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import importlib
import sys

from hero_core.errors import HeroError

STAGES = {
    "tokenizer": "hero_core.train.tokenizer",
    "encoder": "hero_core.train.encoder",
    "masked": "hero_core.train.transformers",
    "residual": "hero_core.train.transformers",
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in STAGES:
        print(f"usage: python -m hero_core.train {{{','.join(STAGES)}}} --config FILE [--out FOLDER]", file=sys.stderr)
        return 2
    try:
        return int(importlib.import_module(STAGES[argv[0]]).main(argv))
    except HeroError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; start the same command again to go on from the last checkpoint.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
