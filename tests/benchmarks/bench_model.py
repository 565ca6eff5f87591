# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast hero_core is against the plain computation of the official program, at the paper's size.

    python -m tests.benchmarks.bench_model [encoder] [generation] [decode]

Both sides run in turn in one process; each line is a ratio of medians. Weights are random, the same for both.
On a busy machine set OMP_NUM_THREADS=1 and read the ratio of processor time.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from hero_core.config import RVQConfig, TransformerConfig, VideoEncoderConfig
from hero_core.device import has_native_bfloat16
from hero_core.masked import MaskedTransformer
from hero_core.residual import ResidualTransformer
from hero_core.rvq import RVQVAE
from hero_core.sampling import Shape, generate_base, generate_residual
from hero_core.tc_clip import VideoEncoder

from . import plain

FRAMES, TOKENS = 16, 49  # 196 frames of motion
AMX = bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
HALF_GOAL = {"bfloat16": 3.0} if AMX else {}  # what bfloat16 must reach is set for processors with AMX


Seconds = dict[str, tuple[float, float]]  # name: wall clock, processor time


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> Seconds:
    """Medians of each, measured in turn so that a busy machine slows all alike."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn:  # the first round warms up
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (statistics.median(wall for wall, _ in pairs), statistics.median(cpu for _, cpu in pairs))
        for name, pairs in taken.items()
    }


def report(what: str, seconds: Seconds, targets: dict[str, float]) -> None:
    plain_wall, plain_cpu = seconds["plain"]
    for name, (wall, cpu) in seconds.items():
        goal = f"  to reach {targets[name]:.2f}" if name in targets else ""
        print(
            f"{what:22} {name:9} {wall * 1e3:9.1f} ms  {plain_wall / wall:5.2f} x"
            f"   (processor {cpu * 1e3:9.1f} ms  {plain_cpu / cpu:5.2f} x){goal}",
            flush=True,
        )


def random_features(clips: int) -> tuple[Tensor, Tensor]:
    local = torch.randn(clips, FRAMES, 512)
    return local, local.mean(dim=1)


def bench_encoder() -> None:
    model = VideoEncoder(VideoEncoderConfig()).eval().requires_grad_(False)
    frames = torch.randn(1, FRAMES, 3, 224, 224)
    half = VideoEncoder(VideoEncoderConfig()).eval().requires_grad_(False)
    half.load_state_dict(model.state_dict())
    half.bfloat16()

    def run(module: VideoEncoder) -> Tensor:
        with torch.inference_mode():
            return module(frames)

    same = torch.cosine_similarity(plain.encode(model, frames), run(model), dim=-1).min()
    lower = torch.cosine_similarity(run(half), run(model), dim=-1).min()
    seconds = interleaved(
        {
            "plain": lambda: plain.encode(model, frames),
            "float32": lambda: run(model),
            "bfloat16": lambda: run(half),
        },
        rounds=5,
    )
    report("encoder, 16 frames", seconds, {"float32": 1.15, **HALF_GOAL})
    print(f"  smallest cosine to plain: float32 {same:.6f}; bfloat16 to float32 {lower:.4f} (random weights)")


def official_noise(seed: int) -> Callable[[str, Shape], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda _kind, shape: torch.empty(shape).exponential_(generator=generator)


def bench_generation(batch: int) -> None:
    cfg = TransformerConfig()
    masked, residual = MaskedTransformer(cfg).eval(), ResidualTransformer(cfg).eval()
    rvq = RVQVAE(RVQConfig()).eval()
    for book in rvq.quantizer.books():
        torch.nn.init.normal_(book.codebook)
    models = masked, residual, rvq
    for model in models:
        model.requires_grad_(False)
    halves = MaskedTransformer(cfg).eval(), ResidualTransformer(cfg).eval(), RVQVAE(RVQConfig()).eval()
    for half, model in zip(halves, models, strict=True):
        half.load_state_dict(model.state_dict())
        half.requires_grad_(False).bfloat16()
    local, pooled = random_features(batch)
    lengths = torch.full((batch,), TOKENS)
    decoders = plain.torch_decoder(masked), plain.torch_decoder(residual)

    def run_plain() -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        ids = plain.generate(masked, residual, decoders, local, pooled, lengths, generator)
        return ids, plain.decode(rvq, ids)

    def run(masked: MaskedTransformer, residual: ResidualTransformer, rvq: RVQVAE) -> tuple[Tensor, Tensor]:
        noise = official_noise(0)
        with torch.inference_mode():
            base = generate_base(masked, masked.prepare(local, pooled), lengths, generators=noise)
            condition = residual.prepare(local, pooled)
            ids = generate_residual(residual, condition, base, sampling="categorical", generators=noise)
            return ids, rvq.decode_tokens(ids)

    (ids_plain, _), (ids, _), (ids_half, _) = run_plain(), run(*models), run(*halves)
    seconds = interleaved(
        {"plain": run_plain, "float32": lambda: run(*models), "bfloat16": lambda: run(*halves)},
        rounds=15 if batch == 1 else 5,
    )
    goals = {"float32": 1.5 if batch == 1 else 1.15, **HALF_GOAL}
    report(f"generation, batch {batch}", seconds, goals)
    agree = (ids_plain == ids).float().mean()
    agree_half = (ids_plain[..., 0] == ids_half[..., 0]).float().mean()
    print(f"  same tokens as plain: float32 {agree:.2%}; bfloat16 base layer {agree_half:.1%} (random weights)")
    assert torch.equal(ids_plain, ids), "float32 generation no longer gives the tokens of the plain program"


def bench_decode() -> None:
    rvq = RVQVAE(RVQConfig()).eval().requires_grad_(False)
    for batch in (1, 8):
        ids = torch.randint(-1, 512, (batch, TOKENS, 6))

        def run(ids: Tensor = ids) -> Tensor:
            with torch.inference_mode():
                return rvq.decode_tokens(ids)

        seconds = interleaved({"plain": lambda ids=ids: plain.decode(rvq, ids), "float32": run}, rounds=15)
        report(f"decode, batch {batch}", seconds, {})


def main(which: list[str]) -> None:
    torch.manual_seed(0)
    native = has_native_bfloat16(torch.device("cpu"))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, AMX {AMX}, native bfloat16 {native}")
    if "encoder" in which:
        bench_encoder()
    if "generation" in which:
        bench_generation(1)
        bench_generation(8)
    if "decode" in which:
        bench_decode()


if __name__ == "__main__":
    main(sys.argv[1:] or ["encoder", "generation", "decode"])
