# SPDX-License-Identifier: GPL-3.0-or-later
"""The layers against torch's own, which the official checkpoints were trained with."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from hero_core.config import TransformerConfig
from hero_core.transformer import Layer, MultiheadAttention, PositionalEncoding, padding_of, take

CFG = TransformerConfig(latent_dim=32, ff_size=48, n_heads=4)


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("frames", [1, 16, 40])  # few frames fold into less than the projections, many into more
def test_folded_memory_is_cross_attention(frames: int) -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    ours = MultiheadAttention(32, 4, 0.0)
    ours.load_state_dict(theirs.state_dict())
    x, memory = rows(6, 5, 32), rows(2, frames, 32)
    expected, _ = theirs(x, *[memory.repeat_interleave(3, dim=0)] * 2)  # three samples of each clip
    torch.testing.assert_close(ours.attend(x, ours.fold(memory)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("die", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_layer_is_torchs(die: bool, training: bool) -> None:
    """Same weights, same result, same gradients: decoder layer with the memory, encoder layer without."""
    torch.manual_seed(0)
    cls = nn.TransformerDecoderLayer if die else nn.TransformerEncoderLayer
    theirs = cls(32, 4, 48, dropout=0.0, activation="gelu", batch_first=True).train(training)
    ours = Layer(TransformerConfig(latent_dim=32, ff_size=48, n_heads=4, dropout=0.0, use_die=die)).train(training)
    ours.load_state_dict(theirs.state_dict())
    x, memory, pads = rows(2, 7, 32), rows(2, 16, 32), padding_of(torch.tensor([7, 4]), 7)
    if die:
        expected = theirs(x, memory, tgt_key_padding_mask=pads)
        out = ours(x, ours.multihead_attn.fold(memory), ~pads[:, None, None])
    else:
        expected = theirs(x, src_key_padding_mask=pads)
        out = ours(x, None, ~pads[:, None, None])
    torch.testing.assert_close(out[~pads], expected[~pads], atol=1e-5, rtol=1e-4)
    expected[~pads].square().sum().backward()
    out[~pads].square().sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def test_layer_computes_wanted_rows_alone() -> None:
    torch.manual_seed(0)
    layer, x, wanted = Layer(CFG).eval(), rows(2, 7, 32), torch.tensor([[6, 0], [3, 3]])
    folded = layer.multihead_attn.fold(rows(2, 16, 32))
    torch.testing.assert_close(
        layer(x, folded, None, wanted), take(layer(x, folded, None), wanted), atol=1e-5, rtol=1e-4
    )


def test_positions_are_sines_and_cosines() -> None:
    pe = PositionalEncoding(8, 0.0).pe[:, 0]
    place, channel = 13, 2
    angle = torch.tensor(place / 10000 ** (channel / 8))
    torch.testing.assert_close(pe[place, channel], angle.sin())
    torch.testing.assert_close(pe[place, channel + 1], angle.cos())
