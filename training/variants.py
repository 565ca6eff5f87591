# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the ablations of the paper's table by the recipe of the model that ships:

    python -m training.variants --pairs build/pairs/with_motions.safetensors --out build/runs no_iie no_die momask

``no_iie`` takes the pooled feature for the intention, ``no_die`` shows the layers no frames, ``momask`` does both:
MoMask's architecture with a video prefix. Everything else, seeds included, is that of ``configs/masked.json`` and
``configs/residual.json``. Runs are ``OUT/masked_NAME`` and ``OUT/residual_NAME``; a stopped one goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hero_core.train import transformers

VARIANTS = {
    "no_iie": {"use_iie": False},
    "no_die": {"use_die": False},
    "momask": {"use_iie": False, "use_die": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--configs", type=Path, default=Path(__file__).parent / "configs")
    parser.add_argument("names", nargs="+", choices=list(VARIANTS))
    args = parser.parse_args()
    for name in args.names:
        for stage in ("masked", "residual"):
            config = json.loads((args.configs / f"{stage}.json").read_text(encoding="utf-8"))
            config["model"] |= VARIANTS[name]
            if not config["model"].get("use_die", True):
                config["model"]["memory_frames"] = 0
            run = args.out / f"{stage}_{name}"
            run.mkdir(parents=True, exist_ok=True)
            file = run / "config.json"
            file.write_text(json.dumps(config, indent=1), encoding="utf-8")
            print(f"--- {stage} {name}", flush=True)
            code = transformers.main([stage, "--config", str(file), "--pairs", str(args.pairs), "--out", str(run)])
            if code:
                raise SystemExit(code)


if __name__ == "__main__":
    main()
