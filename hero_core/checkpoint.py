# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights from disk: our own safetensors + config.json, and the official release's folder as it is.

Nothing here unpickles what it does not know: files are read with ``weights_only=True``; the video
encoder's training checkpoint, which may hold a config object, through an unpickler that turns every
unknown class into an inert stub.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .config import HeroConfig, RVQConfig, TransformerConfig, VideoEncoderConfig
from .device import pick
from .errors import HeroError
from .hero import Hero
from .length import LengthEstimator
from .masked import MaskedTransformer
from .residual import ResidualTransformer
from .rvq import RVQVAE
from .tc_clip import VideoEncoder

State = dict[str, Tensor]
SHIPPED = Path(__file__).parent / "weights"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Made from the config, never learned: not stored by us, ignored where the official files have it.
COMPUTED = ("position_enc.pe",)


@dataclass
class Parts:
    """What a checkpoint holds; ``encoder`` is None for MoMask's text-to-motion release."""

    config: HeroConfig
    states: dict[str, State]  # encoder, rvq, masked, residual; length where the config has one
    mean: Tensor  # (263,)
    std: Tensor  # (263,)
    source: Path
    # Written by ``write`` after every value was looked at, so that loading need not read them all again.
    finite: bool = False


def load(
    path_or_name: str | os.PathLike[str] | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
) -> Hero:
    """A model ready to react.

    Args:
        path_or_name: None or "default" for the weights that ship; a folder with config.json and
            model.safetensors; or a folder of the official HERO (or MoMask) release.
        device: "auto", "cpu", "cuda", "cuda:1", "mps" ...
        dtype: "auto" (bf16 where the processor gains by it), "float32" or "bfloat16".

    Raises:
        HeroError: the folder is missing, incomplete, of other shapes, holds NaN or unsafe pickles;
            or the device is not there.
    """
    chosen_device, chosen_dtype = pick(device, dtype)
    return build(read(path_or_name)).to(chosen_device, chosen_dtype)


def read(path_or_name: str | os.PathLike[str] | None = None) -> Parts:
    """Tensors and sizes of a checkpoint folder, not yet fitted to modules."""
    if path_or_name is None or path_or_name == "default":
        folder = SHIPPED
        if not (folder / WEIGHTS).is_file():
            raise HeroError("The weights that ship with HERO are missing; install it again or give a folder.")
    else:
        folder = Path(path_or_name)
        if folder.is_file() and folder.name in (WEIGHTS, CONFIG):
            folder = folder.parent
        if not folder.is_dir():
            raise HeroError(f"There is no checkpoint folder '{path_or_name}'; give a folder of HERO weights.")
    if (folder / CONFIG).is_file() or (folder / WEIGHTS).is_file():
        return _read_converted(folder)
    return _read_official(folder)


class _NoValues(TorchFunctionMode):
    """Spend no time on initial values: drawing them on the meta device imports torch's compiler, half a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn:
            return torch.empty(*args, **kwargs)
        target = next((each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)), None)
        if target is not None and target.is_meta and func.__name__.strip("_") in _DRAWN:
            return target
        return func(*args, **kwargs)


_DRAWN = ("normal", "uniform", "kaiming_uniform", "xavier_uniform", "trunc_normal", "mul", "rmul")  # 0.02 * randn(...)


def build(parts: Parts) -> Hero:
    """Modules of the right sizes, filled; every missing, extra or wrongly shaped tensor is named."""
    cfg = parts.config
    with torch.device("meta"), _NoValues():
        modules: dict[str, nn.Module] = {
            "rvq": RVQVAE(cfg.rvq),
            "masked": MaskedTransformer(cfg.masked),
            "residual": ResidualTransformer(cfg.residual),
        }
        if "encoder" in parts.states:
            modules["encoder"] = VideoEncoder(cfg.encoder)
        if cfg.length is not None:
            modules["length"] = LengthEstimator(cfg.length)
    problems: list[str] = []
    if cfg.length is None and "length" in parts.states:
        problems.append("the config says nothing of the length part")
    elif cfg.length is not None:
        longest = cfg.max_length // cfg.rvq.frames_per_token
        if cfg.length.input_dim != cfg.masked.clip_dim or cfg.length.max_tokens > longest:
            problems.append(
                f"the length part reads width {cfg.length.input_dim} and knows {cfg.length.max_tokens} tokens, "
                f"width {cfg.masked.clip_dim} and at most {longest} are needed"
            )
    for name, module in modules.items():
        state = parts.states.get(name, {})
        problems += (
            misfits(module.state_dict(), state, f"{name}.", parts.finite) if state else [f"the {name} part is missing"]
        )
    for name, stat in (("mean", parts.mean), ("std", parts.std)):
        if tuple(stat.shape) != (cfg.rvq.input_width,):
            problems.append(f"{name} has shape {tuple(stat.shape)}, ({cfg.rvq.input_width},) is needed")
        elif not bool(torch.isfinite(stat).all()) or (name == "std" and not bool((stat > 0).all())):
            problems.append(f"{name} holds NaN, infinite or (std) non-positive values")
    if problems:
        raise HeroError(f"The checkpoint '{parts.source}' does not fit the model: {'; '.join(problems)}.")
    for name, module in modules.items():
        state = {k: v if v.dtype == torch.float32 else v.float() for k, v in parts.states[name].items()}
        module.load_state_dict({k: v for k, v in state.items() if not k.endswith(COMPUTED)}, strict=False, assign=True)
        for child in module.modules():
            for key, buffer in list(child.named_buffers(recurse=False)):
                if buffer.is_meta:  # the tokenizer's EMA sums, which files do not hold
                    setattr(child, key, torch.zeros_like(buffer, device="cpu"))
        module.eval().requires_grad_(False)
    encoder = modules.get("encoder")
    return Hero(
        cfg,
        encoder if isinstance(encoder, VideoEncoder) else None,
        modules["rvq"],  # type: ignore[arg-type]
        modules["masked"],  # type: ignore[arg-type]
        modules["residual"],  # type: ignore[arg-type]
        parts.mean.float(),
        parts.std.float(),
        modules.get("length"),  # type: ignore[arg-type]
    )


def misfits(wanted: Mapping[str, Tensor], found: State, prefix: str = "", finite: bool = False) -> list[str]:
    """What keeps tensors from filling a model: each that is missing, left over, misshapen or no number.

    Tables that are computed, never learned, are passed over. ``finite``: the values are known to be numbers.
    """
    want = {k: v for k, v in wanted.items() if not k.endswith(COMPUTED)}
    have = {k: v for k, v in found.items() if not k.endswith(COMPUTED)}
    problems = [f"{prefix}{k} is missing" for k in want if k not in have]
    problems += [f"{prefix}{k} is not part of the model" for k in have if k not in want]
    for key, value in have.items():
        if key not in want:
            continue
        if value.shape != want[key].shape:
            problems.append(f"{prefix}{key} has shape {tuple(value.shape)}, {tuple(want[key].shape)} is needed")
        # The sum is NaN or infinite if any value is: one pass, nothing allocated.
        elif not finite and value.is_floating_point() and not bool(torch.isfinite(value.sum(dtype=torch.float32))):
            problems.append(f"{prefix}{key} holds NaN or infinite values")
    return problems


# --- our own format -------------------------------------------------------------------------------


def _read_converted(folder: Path) -> Parts:
    from safetensors import SafetensorError, safe_open

    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise HeroError(f"'{folder}' has no {name}; convert the checkpoint again.")
    try:
        config = HeroConfig.from_json((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            finite = (file.metadata() or {}).get("finite") == "yes"
    except SafetensorError as err:
        raise HeroError(f"'{folder / WEIGHTS}' is damaged ({err}); convert or download it again.") from err
    except (OSError, UnicodeDecodeError) as err:
        raise HeroError(f"'{folder}' cannot be read: {err}.") from err
    states: dict[str, State] = {}
    loose: State = {}
    for key, value in tensors.items():
        part, _, rest = key.partition(".")
        if rest:
            states.setdefault(part, {})[rest] = value
        else:
            loose[part] = value
    extra = sorted(set(states) - {"encoder", "rvq", "masked", "residual", "length"}) + sorted(
        set(loose) - {"mean", "std"}
    )
    lacking = sorted({"mean", "std"} - set(loose))
    if extra or lacking:
        raise HeroError(
            f"'{folder / WEIGHTS}' "
            + "; ".join([f"lacks {k}" for k in lacking] + [f"holds the unknown tensor {k}" for k in extra])
            + "; convert the checkpoint again."
        )
    return Parts(config, states, loose["mean"], loose["std"], folder, finite)


def write(parts: Parts, out: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Path:
    """Write config.json and model.safetensors into ``out``; both appear whole or not at all.

    Raises:
        HeroError: the tensors do not fit the config, hold NaN, or ``out`` cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    build(parts)
    folder = Path(out)
    tensors: State = {"mean": parts.mean.float(), "std": parts.std.float()}
    for name, state in parts.states.items():
        for key, value in state.items():
            if not key.endswith(COMPUTED):
                tensors[f"{name}.{key}"] = value.to(dtype) if value.is_floating_point() else value
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as scratch:
            part = Path(scratch)
            whole = {k: v.contiguous().clone() for k, v in tensors.items()}
            save_file(whole, part / WEIGHTS, metadata={"format": "pt", "finite": "yes"})
            (part / WEIGHTS).chmod(0o644)  # safetensors makes files that only their owner may read
            (part / CONFIG).write_text(parts.config.to_json() + "\n", encoding="utf-8")
            os.replace(part / WEIGHTS, folder / WEIGHTS)
            os.replace(part / CONFIG, folder / CONFIG)
    except (OSError, SafetensorError) as err:  # the latter where the disk is full
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise HeroError(f"'{folder}' cannot be written: {reason}; make room, or choose another folder.") from err
    return folder


def convert(source: str | os.PathLike[str], out: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Path:
    """Check a checkpoint folder of any layout and write it as safetensors + config.json."""
    return write(read(source), out, dtype)


# --- the official release ---------------------------------------------------------------------------

# Which file of a model folder to take, as the official programs prefer them.
_TARS = ("net_best_fid.tar", "net_best_mpjpe.tar", "net_best_acc.tar", "net_best_loss.tar", "latest.tar")
_KINDS = {
    "vq_model": "rvq",
    "net": "rvq",
    "t2m_transformer": "masked",
    "trans": "masked",
    "res_transformer": "residual",
}
_OPT_KEYS = {"code_dim", "nb_code", "latent_dim", "vq_name"}


@dataclass
class _Model:
    kind: str
    folder: Path
    options: dict[str, Any]
    state: State


def read_options(path: Path) -> dict[str, Any]:
    """The official opt.txt: ``key: value`` lines; True/False, numbers with digits only, else text."""
    options: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, separator, value = line.partition(": ")
        if not separator or ": " in value:
            continue
        value = value.strip()
        number = value.lstrip("+-")
        if value in ("True", "False"):
            options[key.strip()] = value == "True"
        elif number.isdigit():
            options[key.strip()] = int(value)
        elif number.replace(".", "", 1).isdigit() and not number.startswith(".") and not number.endswith("."):
            options[key.strip()] = float(value)
        else:
            options[key.strip()] = value
    return options


def _read_official(folder: Path) -> Parts:
    models: dict[str, list[_Model]] = {"rvq": [], "masked": [], "residual": []}
    for opt in sorted(p for depth in range(5) for p in folder.glob("*/" * depth + "opt.txt")):
        tars = [opt.parent / "model" / name for name in _TARS]
        tar = next((t for t in tars if t.is_file()), None)
        if tar is None:
            continue
        options = read_options(opt)
        if not _OPT_KEYS & set(options):
            continue
        content = load_pickle(tar)
        for key, kind in _KINDS.items():
            if isinstance(content.get(key), dict):
                state = _tensors({k: v for k, v in content[key].items() if not k.startswith("clip_model.")}, tar)
                models[kind].append(_Model(kind, opt.parent, options, state))
                break
    for kind, words in (
        ("rvq", "motion tokenizer (rvq…/opt.txt with model/net_best_fid.tar)"),
        ("masked", "masked transformer (mtrans…/opt.txt with model/net_best_fid.tar)"),
        ("residual", "residual transformer (rtrans…/opt.txt with model/net_best_fid.tar)"),
    ):
        if not models[kind]:
            raise HeroError(
                f"'{folder}' holds no {words}; give the official release's 'checkpoints' folder with all its "
                "parts, or a folder made by 'python -m hero_core convert'."
            )
    encoder = _find_encoder(folder)
    masked = _choose(models["masked"], "masked transformers")
    residual = _choose(
        [m for m in models["residual"] if m.options.get("vq_name") == masked.options.get("vq_name")]
        or models["residual"],
        "residual transformers",
    )
    rvq = _choose(
        [m for m in models["rvq"] if m.folder.name == masked.options.get("vq_name")] or models["rvq"], "tokenizers"
    )
    mean, std = (_statistic(rvq.folder / "meta" / f"{name}.npy") for name in ("mean", "std"))
    rvq_config = _rvq_config(rvq)
    encoder_config = _encoder_config(encoder) if encoder is not None else VideoEncoderConfig()
    dim = encoder_config.output_dim
    config = HeroConfig(
        encoder=encoder_config,
        rvq=rvq_config,
        masked=_transformer_config(masked, rvq_config, dim),
        residual=_transformer_config(residual, rvq_config, dim),
        name=f"official {masked.folder.name}",
    )
    states = {"rvq": rvq.state, "masked": masked.state, "residual": residual.state}
    if encoder is not None:
        states["encoder"] = encoder
    return Parts(config, states, mean, std, folder)


def _choose(models: list[_Model], what: str) -> _Model:
    """The only model of a kind, or the one of the ViMo data set where others lie beside it."""
    vimo = [m for m in models if m.options.get("dataset_name") == "vimo" or m.folder.parent.name == "vimo"]
    pool = vimo or models
    if len(pool) > 1:
        names = ", ".join(str(m.folder) for m in pool)
        raise HeroError(f"There are several {what} ({names}); keep the one to use and move the others away.")
    return pool[0]


def _statistic(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
    except (OSError, ValueError) as err:
        raise HeroError(f"The tokenizer's statistics '{path}' are missing or damaged; copy meta/ as released.") from err


def _rvq_config(model: _Model) -> RVQConfig:
    o = model.options
    default = RVQConfig()
    norm = o.get("vq_norm", "None")
    return RVQConfig(
        input_width=_rows(model.state, "decoder.model.6.bias", default.input_width),
        width=o.get("width", default.width),
        code_dim=o.get("code_dim", default.code_dim),
        nb_code=o.get("nb_code", default.nb_code),
        num_quantizers=o.get("num_quantizers", default.num_quantizers),
        down_t=o.get("down_t", default.down_t),
        stride_t=o.get("stride_t", default.stride_t),
        depth=o.get("depth", default.depth),
        dilation_growth_rate=o.get("dilation_growth_rate", default.dilation_growth_rate),
        activation=o.get("vq_act", default.activation),
        norm=None if norm in ("None", "") else norm,
        shared_codebook=o.get("shared_codebook", default.shared_codebook),
        quantize_dropout_prob=o.get("quantize_dropout_prob", default.quantize_dropout_prob),
        mu=o.get("mu", default.mu),
    )


def _transformer_config(model: _Model, rvq: RVQConfig, dim: int) -> TransformerConfig:
    o, s = model.options, model.state
    default = TransformerConfig()
    return TransformerConfig(
        num_tokens=rvq.nb_code,
        code_dim=rvq.code_dim,
        num_quantizers=rvq.num_quantizers,
        latent_dim=o.get("latent_dim", default.latent_dim),
        ff_size=o.get("ff_size", default.ff_size),
        n_layers=o.get("n_layers", default.n_layers),
        n_heads=o.get("n_heads", default.n_heads),
        dropout=o.get("dropout", default.dropout),
        clip_dim=s["cond_emb.weight"].shape[1] if "cond_emb.weight" in s and s["cond_emb.weight"].ndim == 2 else dim,
        cond_drop_prob=o.get("cond_drop_prob", default.cond_drop_prob),
        share_weight=model.kind == "residual" and "embed_proj_shared_weight" in s,
        use_iie=any(k.startswith("global_local_crossatt_block.") for k in s),
        use_die=any(k.startswith("seqTransDecoder.") for k in s),
    )


def _rows(state: State, key: str, default: int) -> int:
    return state[key].shape[0] if key in state else default


def _find_encoder(folder: Path) -> State | None:
    """The TC-CLIP image tower, or None where the folder has no file for it (MoMask)."""
    files = [p for depth in range(5) for p in folder.glob("*/" * depth + "*.pth")]
    files.sort(key=lambda p: ("newkeys" not in p.name, "k400" not in p.name, str(p)))
    if not files:
        if any(folder.glob("**/tcclip")) or any(folder.glob("**/vimo")):
            raise HeroError(
                f"'{folder}' holds no video encoder; put zero_shot_k400_tc_clip_newkeys.pth into its tcclip folder."
            )
        return None
    for path in files:
        content = load_pickle(path, stub_unknown=True)
        model = content.get("model", content)
        if not isinstance(model, dict):
            continue
        prefix = "image_encoder."
        state = {
            k.removeprefix("module.").removeprefix(prefix): v
            for k, v in model.items()
            if isinstance(k, str) and k.removeprefix("module.").startswith(prefix)
        }
        if state:
            return _tensors(state, path)
    raise HeroError(f"'{files[0]}' holds no tensors named image_encoder.*; it is not a TC-CLIP checkpoint.")


def _encoder_config(s: State) -> VideoEncoderConfig:
    default = VideoEncoderConfig()
    conv, table, proj = s.get("conv1.weight"), s.get("positional_embedding"), s.get("proj")
    if conv is None or table is None or proj is None or conv.ndim != 4 or proj.ndim != 2:
        return default  # the comparison then names what is missing
    layers = {int(k.split(".")[2]) for k in s if k.startswith("transformer.resblocks.")}
    side = round((table.shape[-2] - 1) ** 0.5)
    return replace(
        default,
        image_size=side * conv.shape[-1],
        patch_size=conv.shape[-1],
        width=conv.shape[0],
        layers=max(layers, default=-1) + 1,
        heads=max(1, conv.shape[0] // 64),
        output_dim=proj.shape[1],
        positional_embedding="joint" if table.ndim == 3 else "space",
        local_global_bias=any(k.endswith("local_global_bias_table") for k in s),
    )


# --- safe unpickling ----------------------------------------------------------------------------------


class _Stub:
    """Stands for an object of an unknown class; takes anything and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Stub:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> _Stub:
        return _Stub()

    def __hash__(self) -> int:
        return id(self)

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


_KNOWN = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
} | {
    ("torch", f"{kind}Storage")
    for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
}


class _StubbingUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return super().find_class(module, name)
        return _Stub


class _StubbingPickle:
    """What torch.load asks of a pickle module, with every unknown class stubbed."""

    __name__ = "stubbing pickle"
    Unpickler = _StubbingUnpickler
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file: Any, **kwargs: Any) -> Any:
        return _StubbingUnpickler(file, **kwargs).load()


def load_pickle(path: Path, *, stub_unknown: bool = False) -> dict[str, Any]:
    """The dictionary in a torch.save file, on the CPU, running none of its code.

    With ``stub_unknown`` objects of unknown classes are replaced by inert stubs; otherwise a file that
    holds them is refused.
    """
    mmap = _is_zip(path)  # tensors that nobody reads (optimisers) stay on the disk
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as err:
            if not stub_unknown:
                raise HeroError(
                    f"'{path}' holds more than tensors and was not opened, because a pickle can run code; "
                    "download it again from its authors."
                ) from err
            content = torch.load(
                path,
                map_location="cpu",
                weights_only=False,
                pickle_module=_StubbingPickle,
                mmap=mmap,
            )
    except HeroError:
        raise
    except Exception as err:  # torch raises many kinds for damaged files
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise HeroError(f"'{path}' cannot be read as a PyTorch checkpoint ({reason}); download it again.") from err
    if not isinstance(content, dict):
        raise HeroError(f"'{path}' holds a {type(content).__name__}, not a dictionary of weights.")
    return content


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _tensors(state: Mapping[str, Any], path: Path) -> State:
    wrong = [str(k) for k, v in state.items() if not isinstance(v, Tensor)]
    if wrong:
        raise HeroError(f"'{path}' has entries that are no tensors: {', '.join(wrong)}; download it again.")
    return dict(state)
