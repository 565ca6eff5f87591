# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hero_core
from hero_core import checkpoint
from hero_core.config import HeroConfig
from hero_core.errors import HeroError
from tests.models import tiny_config, tiny_parts, tiny_states, with_length_head, write_official, write_tiny

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return write_official(tmp_path)


def test_official_folder_loads_as_it_is(official: Path) -> None:
    hero = hero_core.load(official, device="cpu", dtype="float32")
    assert hero.config.masked.use_iie and hero.config.masked.use_die and not hero.config.residual.share_weight
    assert (hero.config.encoder.width, hero.config.encoder.patch_size, hero.config.encoder.image_size) == (64, 32, 224)
    for name, state in tiny_states().items():
        for key, value in getattr(hero, name).state_dict().items():
            assert torch.equal(value, state[key]), f"{name}.{key}"
    assert hero.std[0] == pytest.approx(0.05)


def test_parent_of_the_official_folder_is_fine_too(official: Path) -> None:
    assert hero_core.load(official.parent, device="cpu").encoder is not None


def test_converted_folder_gives_the_same_reaction(official: Path, tmp_path: Path) -> None:
    checkpoint.convert(official, tmp_path / "converted")
    assert sorted(p.name for p in (tmp_path / "converted").iterdir()) == ["config.json", "model.safetensors"]
    frames = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    one, two = (
        hero_core.load(p, device="cpu", dtype="float32").react(frames, length=24, seed=3)
        for p in (official, tmp_path / "converted")
    )
    np.testing.assert_array_equal(one.joints, two.joints)


def test_half_precision_storage_loads_as_float32(tmp_path: Path) -> None:
    checkpoint.write(tiny_parts(), tmp_path, torch.float16)
    hero = hero_core.load(tmp_path, device="cpu", dtype="float32")
    assert all(p.dtype == torch.float32 for p in hero.masked.parameters())


def test_config_survives_json_and_refuses_unknown_entries() -> None:
    config = tiny_config()
    assert HeroConfig.from_json(config.to_json()) == config
    text = json.loads(config.to_json())
    text["masked"]["n_tails"] = 2
    with pytest.raises(HeroError, match="n_tails"):
        HeroConfig.from_json(json.dumps(text))


def shipped_parts() -> checkpoint.Parts:
    """All that the model which ships has beside the official one: stem, places in time, memory places, length head."""
    tiny = tiny_config()
    encoder = replace(
        tiny.encoder, image_size=64, seed_ratio=0.5, context_tokens=8, conv_stem=True, positional_embedding="space_time"
    )
    timed = replace(tiny.masked, memory_frames=16)
    config = replace(tiny, encoder=encoder, masked=timed, residual=timed)
    parts = replace(tiny_parts(), config=config, states=tiny_states(config=config))
    return with_length_head(parts)


def test_all_that_ships_survives_the_disk(tmp_path: Path) -> None:
    parts = shipped_parts()
    hero = hero_core.load(checkpoint.write(parts, tmp_path), device="cpu", dtype="float32")
    assert hero.config == parts.config
    for name, state in parts.states.items():
        module = hero.length_head if name == "length" else getattr(hero, name)
        loaded = module.state_dict()
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[key], value) for key, value in state.items()), name
    new = {"encoder": ("stem.conv.weight", "temporal_embedding"), "masked": ("memory_time",)}
    assert all(key in parts.states[name] for name, keys in new.items() for key in keys)
    frames = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    one, two = (model.react(frames, takes=2, seed=3) for model in (checkpoint.build(parts), hero))
    np.testing.assert_array_equal(one.joints, two.joints)
    assert one.lengths.tolist() == two.lengths.tolist() == hero.predict_length(hero.encode(frames), 3, 2)


@pytest.mark.parametrize(
    ("part", "entry", "plain", "named"),
    [
        ("encoder", "conv_stem", False, r"encoder\.stem\.conv\.weight is not part"),
        ("encoder", "positional_embedding", "space", r"encoder\.temporal_embedding is not part"),
        ("residual", "memory_frames", 0, r"residual\.memory_time is not part"),
        ("masked", "memory_frames", 8, r"masked\.memory_time has shape \(16, 32\), \(8, 32\)"),
    ],
)
def test_a_config_of_other_parts_is_refused(part: str, entry: str, plain: Any, named: str) -> None:
    parts = shipped_parts()
    config = replace(parts.config, **{part: replace(getattr(parts.config, part), **{entry: plain})})
    with pytest.raises(HeroError, match=named):
        checkpoint.build(replace(parts, config=config))


def test_a_config_from_before_these_parts_still_loads(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    text = json.loads((folder / "config.json").read_text())
    for part, entry in (
        ("encoder", "conv_stem"),
        ("encoder", "always_float32"),
        ("masked", "memory_frames"),
        ("residual", "memory_frames"),
    ):
        del text[part][entry]
    del text["length"]
    (folder / "config.json").write_text(json.dumps(text))
    hero = hero_core.load(folder, device="cpu", dtype="float32")
    assert hero.config == tiny_config() and hero.length_head is None
    keys = [*hero.encoder.state_dict(), *hero.masked.state_dict()]  # type: ignore[union-attr]
    assert not [key for key in keys if key.startswith(("stem", "ln_stem", "temporal", "memory_time"))]


def _edit(path: Path, change: Any) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_every_wrong_tensor_is_named(official: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        state = content["t2m_transformer"]
        del state["cond_emb.bias"], state["token_emb.weight"]
        state["surprise.weight"] = torch.zeros(2)
        state["output_process.dense.weight"] = torch.zeros(3, 3)

    _edit(official / "vimo/mtrans_x/model/net_best_fid.tar", change)
    with pytest.raises(HeroError) as caught:
        hero_core.load(official, device="cpu")
    for name in ("cond_emb.bias is missing", "token_emb.weight is missing", "surprise.weight", "(3, 3)"):
        assert name in str(caught.value)


@pytest.mark.parametrize("where", ["tar", "pth", "mean"])
def test_nan_is_refused(official: Path, where: str) -> None:
    if where == "mean":
        np.save(official / "vimo/rvq_x/meta/mean.npy", np.full(263, np.nan, np.float32))
    elif where == "tar":
        _edit(
            official / "vimo/rtrans_x/model/net_best_fid.tar",
            lambda c: c["res_transformer"]["cond_emb.bias"].fill_(float("nan")),
        )
    else:
        path = official / "tcclip/zero_shot_k400_tc_clip_newkeys.pth"
        _edit(path, lambda c: c["model"]["module.image_encoder.ln_pre.bias"].fill_(float("inf")))
    with pytest.raises(HeroError, match="NaN"):
        hero_core.load(official, device="cpu")


@pytest.mark.parametrize(
    ("gone", "word"),
    [
        ("vimo/rvq_x/model", "motion tokenizer"),
        ("vimo/mtrans_x/opt.txt", "masked transformer"),
        ("vimo/rtrans_x", "residual transformer"),
        ("vimo/rvq_x/meta/std.npy", "std.npy"),
        ("tcclip/zero_shot_k400_tc_clip_newkeys.pth", "video encoder"),
    ],
)
def test_incomplete_folder_says_what_is_missing(official: Path, gone: str, word: str) -> None:
    path = official / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(HeroError, match=word):
        hero_core.load(official, device="cpu")


class Evil:
    """Its pickle runs a command when it is opened without care."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo gotcha > {self.flag}",)


def test_a_pickle_that_runs_code_is_refused_in_model_files(official: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    torch.save({"vq_model": {}, "bad": Evil(flag)}, official / "vimo/rvq_x/model/net_best_fid.tar")
    with pytest.raises(HeroError, match="can run code"):
        hero_core.load(official, device="cpu")
    assert not flag.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_the_encoder_file_may_hold_objects_but_never_runs_them(official: Path, tmp_path: Path, zipped: bool) -> None:
    flag = tmp_path / "flag"
    path = official / "tcclip/zero_shot_k400_tc_clip_newkeys.pth"
    content = torch.load(path, weights_only=True)
    content["config"] = Evil(flag)
    content["lr_scheduler"] = pickle.PickleBuffer
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    hero = hero_core.load(official, device="cpu")
    assert not flag.exists()
    assert hero.encoder is not None


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", b"\x80\x02garbage"])
def test_damaged_files_end_in_a_sentence(official: Path, damage: bytes) -> None:
    (official / "vimo/rvq_x/model/net_best_fid.tar").write_bytes(damage)
    with pytest.raises(HeroError, match=r"net_best_fid\.tar"):
        hero_core.load(official, device="cpu")


def test_damaged_converted_folders_end_in_a_sentence(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HeroError, match="damaged"):
        hero_core.load(folder)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    del tensors["rvq.decoder.model.0.bias"]
    save_file(tensors, weights)
    with pytest.raises(HeroError, match=r"rvq.decoder.model.0.bias is missing"):
        hero_core.load(folder)
    weights.unlink()
    with pytest.raises(HeroError, match=r"model.safetensors"):
        hero_core.load(folder)
    with pytest.raises(HeroError, match="no checkpoint folder"):
        hero_core.load(tmp_path / "nowhere")


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="motion tokenizer"):
        hero_core.load(tmp_path)


def test_nothing_is_left_behind_where_writing_fails(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("here is a file")
    with pytest.raises(HeroError, match="cannot be written"):
        checkpoint.write(tiny_parts(), blocked)
    assert blocked.read_text() == "here is a file"


def test_momask_release_loads_without_a_video_encoder(tmp_path: Path) -> None:
    config = tiny_config()
    plain = replace(config.masked, use_iie=False, use_die=False)
    config = replace(config, masked=plain, residual=replace(plain, share_weight=True))
    root = write_official(tmp_path, config)
    shutil.rmtree(root / "tcclip")
    (root / "vimo").rename(root / "t2m")
    for opt in root.glob("t2m/*/opt.txt"):
        opt.write_text(opt.read_text().replace("dataset_name: vimo", "dataset_name: t2m"))
    hero = hero_core.load(root, device="cpu")
    assert hero.encoder is None and hero.config.residual.share_weight and not hero.config.masked.use_die
    with pytest.raises(HeroError, match="no video encoder"):
        hero.encode(np.zeros((4, 8, 8, 3), np.uint8))
    features = hero_core.VideoFeatures(torch.zeros(16, 24), torch.zeros(24))
    assert hero.generate(features, [16]).shape == (1, 4, 3)


def test_full_scale_release_loads_and_converts(tmp_path: Path) -> None:
    """The released names and shapes exactly, and a converted folder that loads faster."""
    if not GOLDEN.exists():
        pytest.skip("the official golden numbers are not beside this checkout")
    root = write_official(tmp_path, HeroConfig())
    named = json.loads((GOLDEN / "tcclip_vitb16_keys.json").read_text())
    shapes = named.get("keys", named.get("state_dict", named))
    content = torch.load(root / "tcclip/zero_shot_k400_tc_clip_newkeys.pth", weights_only=True, mmap=True)["model"]
    assert {f"module.{k}" for k in shapes} <= set(content)
    started = time.perf_counter()
    hero = hero_core.load(root, device="cpu", dtype="float32")
    slow = time.perf_counter() - started
    assert sum(p.numel() for p in hero.encoder.parameters()) == 86_192_904  # type: ignore[union-attr]
    checkpoint.convert(root, tmp_path / "converted")
    started = time.perf_counter()
    hero_core.load(tmp_path / "converted", device="cpu", dtype="float32")
    print(f"official {slow:.2f} s, converted {time.perf_counter() - started:.2f} s")


def test_loading_does_not_import_the_compiler() -> None:
    """torch._dynamo takes longer to import than the weights to load; drawing on the meta device would import it."""
    code = "import sys, hero_core; hero_core.load(); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
