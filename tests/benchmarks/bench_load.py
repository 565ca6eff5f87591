# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast a checkpoint of the paper's size loads: the official folder, the converted one, and a plain loader.

    python -m tests.benchmarks.bench_load

The plain loader does what the official program does: makes every module with random weights, reads each file
whole and copies it in. (The official program reads the archive of CLIP besides, which this leaves out.)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import hero_core
from hero_core import checkpoint
from hero_core.config import HeroConfig
from hero_core.masked import MaskedTransformer
from hero_core.residual import ResidualTransformer
from hero_core.rvq import RVQVAE
from hero_core.tc_clip import VideoEncoder
from tests.benchmarks.bench_model import interleaved, report
from tests.models import write_official


def plain(root: Path) -> None:
    cfg = HeroConfig()
    encoder = torch.load(root / "tcclip" / "zero_shot_k400_tc_clip_newkeys.pth", weights_only=True)["model"]
    prefix = "module.image_encoder."
    VideoEncoder(cfg.encoder).load_state_dict({k[len(prefix) :]: v for k, v in encoder.items() if k.startswith(prefix)})
    for module, name, key in (
        (RVQVAE(cfg.rvq), "rvq_x", "vq_model"),
        (MaskedTransformer(cfg.masked), "mtrans_x", "t2m_transformer"),
        (ResidualTransformer(cfg.residual), "rtrans_x", "res_transformer"),
    ):
        path = root / "vimo" / name / "model" / "net_best_fid.tar"
        module.load_state_dict(torch.load(path, weights_only=True)[key])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = write_official(Path(folder), HeroConfig())
        converted = checkpoint.convert(root, Path(folder) / "converted")
        runs = {
            "plain": lambda: plain(root),
            "official": lambda: hero_core.load(root, "cpu", "float32"),
            "converted": lambda: hero_core.load(converted, "cpu", "float32"),
        }
        seconds = interleaved(runs, 7)
    report("load, paper scale", seconds, {"converted": 5.0})


if __name__ == "__main__":
    main()
