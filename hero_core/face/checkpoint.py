# SPDX-License-Identifier: GPL-3.0-or-later
"""ReactDiff's weights from disk: our own config.json + model.safetensors, and what the official code saved.

Nothing here unpickles more than tensors (``hero_core.checkpoint.load_pickle``).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from hero_core.checkpoint import CONFIG, WEIGHTS, load_pickle, misfits
from hero_core.device import pick
from hero_core.errors import HeroError
from hero_core.output import whole_file
from hero_core.train import loop

from .behaviour import UNUSED, UNUSED_PREFIX
from .config import ReactDiffConfig
from .reactdiff import ReactDiff

State = dict[str, Tensor]
MEAN_FACE = "mean_face.npy"
_STAGE_1, _STAGE_2 = "Behaviour_features_fusion.", "input_blocks.0.0.weight"


def load(folder: str | os.PathLike[str], device: str = "auto", strict_official: bool = False) -> ReactDiff:
    """A ReactDiff ready to react, in float32.

    Args:
        folder: with config.json and model.safetensors, or with both stages' checkpoints of the official code
            (any names ending in .pth or .pt) and, where there is one, its mean_face.npy.
        strict_official: take a second stage without its condition projection all the same, and condition it through a
            random one, as the official evaluation does: such reactions do not depend on the speaker.

    Raises:
        HeroError: files are absent, damaged, unsafe, of other shapes, or lack the projection.
    """
    where, _ = pick(device, "float32")
    source = Path(folder)
    if source.is_file():
        source = source.parent
    if not source.is_dir():
        raise HeroError(f"There is no folder '{folder}' of face weights; give one.")
    ours = (source / CONFIG).is_file() and (source / WEIGHTS).is_file()
    model = _read_ours(source) if ours else _read_official(source, strict_official)
    return model.to(where).eval().requires_grad_(False)


def save(model: ReactDiff, folder: str | os.PathLike[str]) -> Path:
    """Write config.json and model.safetensors into a folder, which is made; returns it."""
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        loop.save_weights(model.state_dict(), target / WEIGHTS)
    except OSError as err:
        raise HeroError(f"'{target}' cannot be written ({err.strerror or err}); choose another folder.") from err
    with whole_file(target / CONFIG) as part:
        part.write_text(model.cfg.to_json(), encoding="utf-8")
    return target


def _read_ours(folder: Path) -> ReactDiff:
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise HeroError(f"'{folder / CONFIG}' cannot be read; copy it again.") from err
    cfg = ReactDiffConfig.from_json(text)
    with torch.device("meta"):
        model = ReactDiff(cfg)
    return _fill(model, loop.load_weights(folder / WEIGHTS), folder)


def _fill(model: ReactDiff, state: State, source: Path, absent: Iterable[str] = ()) -> ReactDiff:
    """Put tensors into a model without any; every one that is missing, left over, misshapen or no number is named."""
    wanted = {k: v for k, v in model.state_dict().items() if k in state or not k.startswith(tuple(absent))}
    problems = misfits(wanted, state)
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise HeroError(f"'{source}' does not fit ReactDiff: {'; '.join(problems[:5])}{more}.")
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False, assign=True)
    return model


# --- the official code's files --------------------------------------------------------------------------------------


def _read_official(folder: Path, strict_official: bool) -> ReactDiff:
    found: dict[int, list[tuple[Path, dict[str, Any]]]] = {1: [], 2: []}
    files = sorted(p for kind in ("pth", "pt") for depth in range(4) for p in folder.glob("*/" * depth + f"*.{kind}"))
    for path in files:
        content = load_pickle(path)
        state = content.get("state_dict", content)
        if not isinstance(state, dict):
            continue
        if any(str(key).startswith(_STAGE_1) for key in state):
            found[1].append((path, content))
        elif _STAGE_2 in state:
            found[2].append((path, content))
    for stage, what in ((1, f"{_STAGE_1}*"), (2, _STAGE_2)):
        if not found[stage]:
            raise HeroError(
                f"'{folder}' holds neither {CONFIG} with {WEIGHTS} nor a checkpoint of stage {stage} of the official "
                f"ReactDiff (a .pth file with {what}); give a folder with both stages."
            )
        if len(found[stage]) > 1:
            names = ", ".join(str(path) for path, _ in found[stage])
            raise HeroError(f"There are several checkpoints of stage {stage} ({names}); keep the one to use.")
    (path1, stage1), (path2, stage2) = found[1][0], found[2][0]
    first = _tensors(stage1.get("state_dict", stage1), path1)
    second = _tensors(stage2.get("state_dict", stage2), path2)
    first = {k: v for k, v in first.items() if not k.startswith(UNUSED_PREFIX) and not _unused(k)}
    statistics = stage1.get("statistics", stage2.get("statistics"))
    if not isinstance(statistics, dict) or not all(isinstance(statistics.get(k), Tensor) for k in ("min", "max")):
        raise HeroError(
            f"'{path1}' lacks the statistics (min and max) of the latents, without which the second stage cannot be "
            "used; save it with the official training program, which adds them after the first stage."
        )
    low, high = (statistics[k].detach().float().reshape(-1, statistics[k].shape[-1]) for k in ("min", "max"))
    projection = {k: v for k, v in second.items() if k.startswith("linear.")}
    unet = {k: v for k, v in second.items() if not k.startswith("linear.")}
    if not projection and not strict_official:
        raise HeroError(
            f"'{path2}' lacks the condition projection (linear.*), which the official code trains and never saves, so "
            "its reactions could not depend on the speaker; train the second stage again with 'python -m "
            "hero_core.face train', or ask for strict_official to draw a random one as the official evaluation does."
        )
    cfg = _config(first, unet, len(low), path1)
    with torch.device("meta"):
        model = ReactDiff(cfg)
    state = {f"behaviour.{k}": v for k, v in first.items()} | {f"unet.{k}": v for k, v in unet.items()}
    state |= {"minimum": low, "maximum": high, "mean_face": _mean_face(folder, cfg.coefficients), **projection}
    state |= {"centre": torch.zeros(cfg.video + cfg.audio), "spread": torch.ones(cfg.video + cfg.audio)}
    _fill(model, state, folder, () if projection else ("linear.",))
    if not projection:
        warnings.warn(f"'{path2}' has no condition projection; a random one is used.", stacklevel=3)
        model.linear.to_empty(device="cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for layer in model.linear:
                if isinstance(layer, nn.Linear | nn.GroupNorm):
                    layer.reset_parameters()
        model.random_condition = True
    return model


def _unused(key: str) -> bool:
    """Whether it is the second norm of a cross-attention; the decoder's layers use theirs."""
    return key.endswith(UNUSED) and key.startswith(_STAGE_1)


def _tensors(state: dict[str, Any], path: Path) -> State:
    wrong = [str(k) for k, v in state.items() if not isinstance(v, Tensor)]
    if wrong:
        raise HeroError(f"'{path}' has entries that are no tensors: {', '.join(wrong[:5])}; save it again.")
    return {str(k).removeprefix("module."): v.detach() for k, v in state.items()}


def _mean_face(folder: Path, width: int) -> Tensor:
    files = sorted(p for depth in range(4) for p in folder.glob("*/" * depth + MEAN_FACE))
    if not files:
        return torch.zeros(width)
    try:
        face = np.load(files[0], allow_pickle=False).astype(np.float32).reshape(-1)
    except (OSError, ValueError) as err:
        raise HeroError(f"'{files[0]}' is no array that can be read; copy it again.") from err
    if face.shape != (width,):
        raise HeroError(f"'{files[0]}' holds {face.size} numbers; the mean face has {width}.")
    return torch.from_numpy(face)


def _config(first: State, unet: State, clip: int, path: Path) -> ReactDiffConfig:
    """Sizes from the shapes of the official tensors."""

    def shape(state: State, key: str) -> torch.Size:
        if key not in state:
            raise HeroError(f"'{path.parent}' does not fit ReactDiff: it lacks {key}; copy the checkpoints again.")
        return state[key].shape

    fusion = "Behaviour_features_fusion."
    video, sound = f"{fusion}video_features_fusion.", f"{fusion}audio_feature_fusion."
    hidden, au = shape(first, f"{video}fusion_0.q.weight")
    channels, window, _ = shape(unet, _STAGE_2)
    # The first block stands alone; each later level begins with a down-sampling.
    levels: list[list[int]] = [[]]
    for number in range(1, 1 + max(int(k.split(".")[1]) for k in unet if k.startswith("input_blocks."))):
        if f"input_blocks.{number}.0.op.weight" in unet:
            levels.append([])
        else:
            levels[-1].append(number)
    if not all(levels):
        raise HeroError(f"'{path.parent}' does not fit ReactDiff: a level of its UNet has no blocks; copy it again.")
    outputs = [shape(unet, f"input_blocks.{level[0]}.0.out_layers.3.weight")[0] for level in levels]
    return ReactDiffConfig(
        name="ReactDiff (official code)",
        va=shape(first, f"{video}fusion_cyc.0.attn2.k.weight")[1],
        au=au,
        fer=shape(first, f"{video}fusion_cyc.0.attn1.k.weight")[1],
        mfcc=shape(first, f"{sound}k.weight")[1],
        speech=shape(first, f"{sound}q.weight")[1],
        coefficients=shape(first, "reaction_decoder.listener_reaction_3dmm_map_layer.3.weight")[0],
        attributes=shape(first, "reaction_decoder.listener_reaction_emotion_map_layer.3.weight")[0],
        hidden=hidden,
        latent=shape(first, "reaction_encoder.MLP.3.weight")[0],
        depth=len({k.split(".")[2] for k in first if k.startswith(f"{fusion}video_audio_fusion.")}),
        window=window,
        clip=clip,
        channels=channels,
        multipliers=tuple(width // channels for width in outputs),
        blocks=len(levels[0]),
        attention_at=tuple(2**i for i, level in enumerate(levels) if f"input_blocks.{level[0]}.1.qkv.weight" in unet),
        condition=shape(unet, f"input_blocks.{levels[0][0]}.0.emb_layers.1.weight")[1] - 4 * channels,
        scaling="official",
    )
