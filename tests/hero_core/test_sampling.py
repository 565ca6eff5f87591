# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math
from typing import Any

import official
import pytest
import torch
from benchmarks import plain
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hero_core.config import TransformerConfig
from hero_core.errors import Cancelled, HeroError
from hero_core.masked import MaskedTransformer
from hero_core.residual import ResidualTransformer
from hero_core.sampling import draw, draw_noise, generate_base, generate_residual, mask_counts
from hero_core.transformer import take

SMALL = TransformerConfig(
    num_tokens=24, code_dim=16, num_quantizers=4, latent_dim=32, ff_size=48, n_layers=2, n_heads=4, clip_dim=24
)


def small(kind: type[Any]) -> Any:
    torch.manual_seed(0)
    model = kind(SMALL).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(5)
    return model


def clip(count: int = 1) -> tuple[Tensor, Tensor]:
    local = torch.randn(count, 6, SMALL.clip_dim, generator=torch.Generator().manual_seed(1))
    return local, local.mean(dim=1)


def seeds(*values: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in values]


class Spy:
    """A model that remembers what it was asked and what it said."""

    def __init__(self, model: MaskedTransformer) -> None:
        self.model = model
        self.inputs: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.logits: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, ids: Tensor, condition: Any, pads: Any, guidance: float, rows: Tensor) -> Tensor:
        logits: Tensor = self.model(ids, condition, pads, guidance, rows)
        self.inputs.append(ids)
        self.rows.append(rows)
        self.logits.append(logits)
        return logits


@pytest.mark.parametrize("name", ["hero_mask_transformer", "momask_mask_transformer"])
@pytest.mark.parametrize("steps", [4, 10])
@pytest.mark.parametrize("sampling", ["argmax", "categorical"])
def test_official_base_tokens(name: str, steps: int, sampling: str) -> None:
    """Every step of the official loop: what it masks, what it predicts, what it ends with."""
    model, g, tol = official.transformer(name)
    spy = Spy(model)
    ids = generate_base(
        spy,  # type: ignore[arg-type]
        model.prepare(g.get("in.memory"), g["in.cond"]),
        g["in.lens"],
        steps=steps,
        guidance=4.0,
        topk=0.97,
        sampling=sampling,
        generators=seeds(0, 1, 2),
    )
    assert torch.equal(torch.stack(spy.inputs).short(), g[f"out.generate{steps}_trace_inputs"])
    for i, (rows, logits) in enumerate(zip(spy.rows, spy.logits, strict=True)):
        expected = take(g[f"out.generate{steps}_trace_logits"][i].mT, rows)
        torch.testing.assert_close(logits, expected, **tol)
        masked = spy.inputs[i] == model.mask_id
        assert int(masked.sum()) == int((take(masked[..., None], rows)).sum())  # none that is needed is left out
    assert torch.equal(ids, g[f"out.generate{steps}_ids"])


@pytest.mark.parametrize("name", ["hero_mask_transformer", "momask_mask_transformer"])
@pytest.mark.parametrize(("sampling", "number"), [("categorical", 0), ("gumbel", 1)])
def test_official_random_base_tokens(name: str, sampling: str, number: int) -> None:
    """The official program's own noise gives its own tokens."""
    model, g, _tol = official.transformer(name)
    condition = model.prepare(g.get("in.memory"), g["in.cond"])
    noise = official.OfficialNoise(123, model)
    ids = generate_base(model, condition, g["in.lens"], steps=10, sampling=sampling, generators=noise)
    assert torch.equal(ids, g[f"out.seed123_gsample{number}_ids"])


@pytest.mark.parametrize("who", ["hero", "momask"])
@pytest.mark.parametrize("tables", ["noshare", "shareweight"])
def test_official_residual_tokens(who: str, tables: str) -> None:
    model, g, _tol = official.transformer(f"{who}_res_transformer_{tables}")
    condition = model.prepare(g.get("in.memory"), g["in.cond"])
    ids = generate_residual(model, condition, g["in.base_ids"], sampling="argmax")
    assert torch.equal(ids, g["out.generate_ids"])
    noise = official.OfficialNoise(124, model)
    ids = generate_residual(model, condition, g["in.base_ids"], generators=noise)
    assert torch.equal(ids, g["out.seed124_T1_cfg5_ids"])


def test_same_tokens_as_the_plain_program() -> None:
    """Two passes for guidance and nothing kept between steps: the same tokens in every layer."""
    masked, residual = small(MaskedTransformer), small(ResidualTransformer)
    local, pooled = clip(3)
    lengths = torch.tensor([12, 7, 1])
    decoders = plain.torch_decoder(masked), plain.torch_decoder(residual)
    generator = torch.Generator().manual_seed(3)
    expected = plain.generate(masked, residual, decoders, local, pooled, lengths, generator)
    noise = official.OfficialNoise(3, masked)
    base = generate_base(masked, masked.prepare(local, pooled), lengths, generators=noise)
    condition = residual.prepare(local, pooled)
    ids = generate_residual(residual, condition, base, sampling="categorical", generators=noise)
    assert torch.equal(ids, expected)
    assert len(ids.unique()) > 10


@pytest.mark.parametrize("sampling", ["categorical", "gumbel"])
def test_a_take_does_not_depend_on_its_batch(sampling: str) -> None:
    """Neither its neighbours' seeds nor their lengths change a take; the clip's condition serves all."""
    masked, residual = small(MaskedTransformer), small(ResidualTransformer)
    base_condition, residual_condition = masked.prepare(*clip()), residual.prepare(*clip())

    def run(lengths: list[int], generators: list[torch.Generator]) -> Tensor:
        base = generate_base(masked, base_condition, torch.tensor(lengths), sampling=sampling, generators=generators)
        return generate_residual(residual, residual_condition, base, sampling=sampling, generators=generators)

    together = run([12, 7, 9], seeds(5, 6, 7))
    for i, (length, seed) in enumerate([(12, 5), (7, 6), (9, 7)]):
        assert torch.equal(together[i, :length], run([length], seeds(seed))[0])
        assert bool((together[i, length:] == -1).all())
    assert not torch.equal(together[0, :7], together[1, :7])
    assert torch.equal(together, run([12, 7, 9], seeds(5, 6, 7)))


def test_filling_a_part_leaves_the_rest() -> None:
    masked, residual = small(MaskedTransformer), small(ResidualTransformer)
    base_condition, residual_condition = masked.prepare(*clip()), residual.prepare(*clip())
    lengths = torch.tensor([12, 8])
    base = generate_base(masked, base_condition, lengths, generators=seeds(0, 1))
    ids = generate_residual(residual, residual_condition, base, generators=seeds(2, 3))
    edit = torch.zeros(2, 12, dtype=torch.bool)
    edit[0, 4:9] = True
    edit[1, 6:] = True  # reaches into the padding
    spy = Spy(masked)
    new_base = generate_base(
        spy,  # type: ignore[arg-type]
        base_condition,
        lengths,
        generators=seeds(8, 9),
        initial_ids=ids[..., 0],
        edit_mask=edit,
    )
    new = generate_residual(
        residual, residual_condition, new_base, generators=seeds(10, 11), initial_ids=ids, edit_mask=edit
    )
    assert torch.equal(new[~edit], ids[~edit])
    changed = (new != ids).any(dim=-1)
    assert bool(changed[0, 4:9].any()) and bool(changed[1, 6:8].any())
    assert bool((new[1, 8:] == -1).all())
    # All of the part is masked at first, and never anything else.
    valid = edit & (torch.arange(12) < lengths[:, None])
    assert torch.equal(spy.inputs[0] == masked.mask_id, valid)
    assert not any(bool((ids_in[~valid] == masked.mask_id).any()) for ids_in in spy.inputs)


def test_filling_everything_is_generating() -> None:
    model = small(MaskedTransformer)
    condition, lengths = model.prepare(*clip()), torch.tensor([10])
    whole = generate_base(model, condition, lengths, generators=seeds(4))
    edit = torch.ones(1, 10, dtype=torch.bool)
    given_ids = torch.zeros(1, 10, dtype=torch.long)
    again = generate_base(model, condition, lengths, generators=seeds(4), initial_ids=given_ids, edit_mask=edit)
    assert torch.equal(whole, again)
    nothing = generate_base(model, condition, lengths, generators=seeds(4), initial_ids=given_ids, edit_mask=~edit)
    assert torch.equal(nothing, given_ids)


def test_no_code_is_minus_one() -> None:
    """The residual model may say that a layer has no code."""
    model = small(ResidualTransformer)
    model.output_proj_bias[1, model.pad_id] = 1e4
    ids = generate_residual(model, model.prepare(*clip()), torch.zeros(1, 6, dtype=torch.long), sampling="argmax")
    assert bool((ids[..., 2] == -1).all()) and bool((ids[..., 1] >= 0).all())


def test_progress_and_cancel() -> None:
    masked, residual = small(MaskedTransformer), small(ResidualTransformer)
    calls: list[tuple[int, int]] = []

    def stop_at(limit: int) -> Any:
        return lambda done, total: calls.append((done, total)) or done < limit

    condition, lengths = masked.prepare(*clip()), torch.tensor([5])
    base = generate_base(
        masked, condition, lengths, steps=4, sampling="argmax", on_progress=lambda *c: calls.append(c) or True
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    calls.clear()
    with pytest.raises(Cancelled):
        generate_base(masked, condition, lengths, steps=4, sampling="argmax", on_progress=stop_at(2))
    assert calls == [(1, 4), (2, 4)]
    with pytest.raises(Cancelled):
        generate_residual(residual, residual.prepare(*clip()), base, sampling="argmax", on_progress=stop_at(1))


def test_what_is_missing_is_named() -> None:
    model = small(MaskedTransformer)
    condition, lengths = model.prepare(*clip()), torch.tensor([5])
    with pytest.raises(HeroError, match="generators"):
        generate_base(model, condition, lengths)
    edit = torch.ones(1, 5, dtype=torch.bool)
    with pytest.raises(HeroError, match="initial_ids"):
        generate_base(model, condition, lengths, sampling="argmax", edit_mask=edit)


@given(steps=st.integers(1, 30), lengths=st.lists(st.integers(1, 200), min_size=1, max_size=4))
def test_mask_schedule(steps: int, lengths: list[int]) -> None:
    """From all tokens down to one, never up."""
    editable = torch.tensor(lengths)
    counts = torch.stack([mask_counts(step, steps, editable) for step in range(steps)])
    assert torch.equal(counts[0], editable)
    assert bool((counts >= 1).all()) and bool((counts <= editable).all())
    assert steps == 1 or bool((counts[-1] == 1).all())
    assert bool((counts.diff(dim=0) <= 0).all())
    for step in range(steps):
        share = math.cos(step / max(1, steps - 1) * math.pi / 2)
        for count, length in zip(counts[step].tolist(), lengths, strict=True):
            if abs(share * length % 1 - 0.5) > 1e-3:  # not a tie in float32
                assert count == max(1, round(share * length))


@pytest.mark.parametrize("sampling", ["categorical", "gumbel"])
def test_draws_follow_the_softmax(sampling: str) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -8.0, -9.0, -9.0, -9.0, -9.0, -9.0])
    count = 40000
    rows = logits.expand(1, count, 10)
    noise = draw_noise(sampling, (1, count, 10), torch.tensor([count]), seeds(0))
    share = torch.bincount(draw(rows, noise, sampling, topk=0.6).flatten(), minlength=10) / count
    expected = torch.cat((logits[:4].softmax(dim=0), torch.zeros(6)))  # the 4 likeliest of 10 stay
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0.0)
    assert bool((draw(rows, noise, sampling, topk=0.0, temperature=0.05) == 0).all())
    assert bool((draw(rows, None, "argmax") == 0).all())
