# SPDX-License-Identifier: GPL-3.0-or-later
"""The same computation as hero_core, done plainly in the order of the official program: the baseline of the benchmarks.

Two passes for guidance; the intention, the condition and every key and value of the memory computed in each;
full attention matrices; the context repeated for each frame; tables repeated to be gathered from. It reads
the weights of hero_core's modules. Nothing in the project uses it but the benchmarks and one test.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from hero_core.masked import MaskedTransformer
from hero_core.residual import ResidualTransformer
from hero_core.rvq import RVQVAE
from hero_core.tc_clip import Attention, Block, VideoEncoder, merge_schedule, merge_tokens

# Video encoder ----------------------------------------------------------------------------------------------------


def _frame_attention(attn: Attention, h: Tensor, frames: int, tokens: int) -> tuple[Tensor, Tensor]:
    """h (B, T*N + k, D) -> attended frame tokens (B, T*N, D), the whole attention (B*T, H, N, N + k)."""
    batch, total, width = h.shape
    heads, local = attn.heads, frames * tokens
    q = attn.q_proj(h[:, :local]) * (width // heads) ** -0.5
    k, v = attn.k_proj(h), attn.v_proj(h)

    def keys(z: Tensor) -> Tensor:
        own = z[:, :local].reshape(batch, frames, tokens, width)
        shared = z[:, None, local:].repeat(1, frames, 1, 1)
        z = torch.cat((own, shared), dim=2).reshape(batch * frames, -1, heads, width // heads)
        return z.transpose(1, 2).contiguous()

    q = q.reshape(batch * frames, tokens, heads, -1).transpose(1, 2).contiguous()
    logits = q @ keys(k).transpose(-2, -1)
    if attn.local_global_bias_table is not None:
        own, shared = attn.local_global_bias_table[..., :1], attn.local_global_bias_table[..., 1:]
        logits = logits + torch.cat((own.expand(-1, -1, tokens), shared.expand(-1, -1, total - local)), dim=-1)
    weights = logits.softmax(dim=-1)
    out = (weights @ keys(v)).transpose(1, 2).reshape(batch, local, width)
    return attn.out_proj(out), weights


def _block(block: Block, x: Tensor, frames: int, tokens: int) -> Tensor:
    cfg, local = block.cfg, frames * tokens
    attended, weights = _frame_attention(block.attn, block.ln_1(x), frames, tokens)
    x = x[:, :local] + attended
    seen = weights[:, :, 0, 1:tokens].mean(dim=1).view(x.shape[0], frames, -1)
    seeds = seen.topk(cfg.seeds, dim=-1).indices
    patches = x.view(x.shape[0], frames, tokens, -1)[:, :, 1:]
    context = patches.gather(2, seeds[..., None].expand(-1, -1, -1, x.shape[-1])).flatten(1, 2)
    context = merge_tokens(context, merge_schedule(context.shape[1], cfg.context_tokens, cfg.merge_r))
    x = torch.cat((x, context), dim=1)
    h = block.mlp.c_fc(block.ln_2(x))
    return x + block.mlp.c_proj(h * torch.sigmoid(1.702 * h))


@torch.no_grad()
def encode(model: VideoEncoder, frames: Tensor) -> Tensor:
    """(B, T, 3, H, W) -> (B, T, output_dim)."""
    batch, count = frames.shape[:2]
    x = model.conv1(frames.flatten(0, 1)).flatten(2).transpose(1, 2)
    x = torch.cat((model.class_embedding.expand(len(x), 1, -1), x), dim=1)  # (B*T, N, D)
    tokens = x.shape[1]
    x = x.view(batch, count, tokens, -1) + model.positional_embedding
    x = model.ln_pre(x.view(batch, count * tokens, -1))
    for block in model.transformer.resblocks:
        x = _block(block, x, count, tokens)
    return model.ln_post(x[:, : count * tokens : tokens]) @ model.proj


# Motion transformers ----------------------------------------------------------------------------------------------


def torch_decoder(model: MaskedTransformer | ResidualTransformer) -> nn.TransformerDecoder:
    """torch's own decoder with the model's weights."""
    cfg = model.cfg
    layer = nn.TransformerDecoderLayer(cfg.latent_dim, cfg.n_heads, cfg.ff_size, cfg.dropout, activation="gelu")
    decoder = nn.TransformerDecoder(layer, cfg.n_layers).to(model.cond_emb.weight)
    decoder.load_state_dict(model.get_submodule("seqTransDecoder").state_dict())
    return decoder.eval()


def _intention(model: MaskedTransformer | ResidualTransformer, local: Tensor, pooled: Tensor) -> Tensor:
    block = model.global_local_crossatt_block
    attn, x = block.attn, pooled[:, None]

    def heads(z: Tensor) -> Tensor:
        return z.view(z.shape[0], z.shape[1], attn.heads, -1).transpose(1, 2)

    h, z = block.ln1(x), block.ln3(local)
    q, k, v = heads(attn.query(h)), heads(attn.key(z)), heads(attn.value(z))
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    x = x + attn.proj((weights @ v).transpose(1, 2).flatten(2))
    x = x + block.mlp(block.ln2(x))
    return x[:, 0]


def _pass(
    model: MaskedTransformer | ResidualTransformer,
    decoder: nn.TransformerDecoder,
    x: Tensor,
    extra: list[Tensor],
    local: Tensor,
    pooled: Tensor,
    padding: Tensor,
    null: bool,
) -> Tensor:
    """One pass over x (B, n, code_dim) -> (B, n, D) after the head's norm; sequence first, as torch's default is."""
    e = _intention(model, local, pooled)
    e = torch.zeros_like(e) if null else e
    x = model.input_process.poseEmbedding(x.transpose(0, 1))  # (n, B, D)
    x = x + model.position_enc.pe[: x.shape[0]]
    prefix = [model.cond_emb(e)[None], *(token[None] for token in extra)]
    x = torch.cat((*prefix, x), dim=0)
    mask = torch.cat((torch.zeros_like(padding[:, : len(prefix)]), padding), dim=1)
    memory = model.cond_emb(local.transpose(0, 1))  # (T, B, D)
    out = decoder(x, memory, tgt_key_padding_mask=mask)[len(prefix) :]
    head = model.output_process
    return head.poseFinal(head.LayerNorm(F.gelu(head.dense(out)))).transpose(0, 1)


def masked_logits(
    model: MaskedTransformer,
    decoder: nn.TransformerDecoder,
    ids: Tensor,
    local: Tensor,
    pooled: Tensor,
    padding: Tensor,
    guidance: float,
) -> Tensor:
    """(B, n) -> (B, n, K): the conditional pass, then the unconditional one."""
    full, null = (
        _pass(model, decoder, model.token_emb(ids), [], local, pooled, padding, null) for null in (False, True)
    )
    return null + (full - null) * guidance


def _gather(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table (V, D) for ids (B, n), from a copy of the table for each sample."""
    tables = table[None].repeat(ids.shape[0], 1, 1)
    return tables.gather(1, ids[..., None].expand(-1, -1, table.shape[1]))


def residual_logits(
    model: ResidualTransformer,
    decoder: nn.TransformerDecoder,
    history: Tensor,
    layer: int,
    local: Tensor,
    pooled: Tensor,
    padding: Tensor,
    guidance: float,
) -> Tensor:
    """(B, n, code_dim) -> (B, n, K + 1)."""
    batch = history.shape[0]
    one_hot = F.one_hot(torch.full((batch,), layer), model.cfg.num_quantizers).to(history)
    token = model.quant_emb(one_hot)
    table = model.output_proj_weight[layer - 1][None].repeat(batch, 1, 1)
    bias = model.output_proj_bias[layer - 1][None, None].repeat(batch, 1, 1)
    both = []
    for null in (False, True):
        h = _pass(model, decoder, history, [token], local, pooled, padding, null)
        out = torch.einsum("bnd,bvd->bnv", h, table)
        both.append(out + out + bias)
    full, null_logits = both
    return null_logits + (full - null_logits) * guidance


def _draw(logits: Tensor, generator: torch.Generator, topk: float) -> Tensor:
    """Categorical draw among the top classes, (B, n, K) -> (B, n)."""
    keep = math.ceil((1 - topk) * logits.shape[-1])
    value, index = logits.topk(keep, dim=-1)
    filtered = torch.full_like(logits, -math.inf).scatter(-1, index, value)
    p = filtered.softmax(dim=-1)
    p = p / p.sum(dim=-1, keepdim=True)
    return (p / torch.empty(p.shape).exponential_(generator=generator)).argmax(dim=-1)


@torch.no_grad()
def generate(
    masked: MaskedTransformer,
    residual: ResidualTransformer,
    decoders: tuple[nn.TransformerDecoder, nn.TransformerDecoder],
    local: Tensor,
    pooled: Tensor,
    lengths: Tensor,
    generator: torch.Generator,
    steps: int = 10,
    guidance: float = 4.0,
    residual_guidance: float = 5.0,
) -> Tensor:
    """local (B, T, d_vl), pooled (B, d_vl), lengths (B,) tokens -> (B, n, Q)."""
    n = int(lengths.max())
    padding = torch.arange(n) >= lengths[:, None]
    ids = torch.where(padding, masked.pad_id, masked.mask_id)
    scores = torch.where(padding, 1e5, 0.0)
    for time in torch.linspace(0, 1, steps):
        count = torch.round(torch.cos(time * math.pi * 0.5) * lengths).clamp(min=1)
        hidden = scores.argsort(dim=1).argsort(dim=1) < count[:, None]
        ids = torch.where(hidden, masked.mask_id, ids)
        logits = masked_logits(masked, decoders[0], ids, local, pooled, padding, guidance)
        chosen = _draw(logits, generator, 0.9)
        ids = torch.where(hidden, chosen, ids)
        sure = logits.softmax(dim=-1).gather(2, chosen[..., None])[..., 0]
        scores = sure.masked_fill(~hidden, 1e5)
    layers = [torch.where(padding, residual.pad_id, ids)]
    history = torch.zeros(())
    for layer in range(1, residual.cfg.num_quantizers):
        history = history + _gather(residual.token_embed_weight[layer - 1], layers[-1])
        logits = residual_logits(residual, decoders[1], history, layer, local, pooled, padding, residual_guidance)
        chosen = _draw(logits, generator, 0.9)
        layers.append(torch.where(padding, residual.pad_id, chosen))
    out = torch.stack(layers, dim=-1)
    return torch.where(out == residual.pad_id, -1, out)


# Motion tokenizer -------------------------------------------------------------------------------------------------


@torch.no_grad()
def decode(model: RVQVAE, ids: Tensor) -> Tensor:
    """(B, n, Q) -> (B, 4 n, 263), from a copy of all codebooks for each sample."""
    books = torch.stack([book.codebook for book in model.quantizer.books()])  # (Q, V, D)
    books = books[:, None].repeat(1, ids.shape[0], 1, 1)  # (Q, B, V, D)
    index = ids.permute(2, 0, 1)[..., None].expand(-1, -1, -1, books.shape[-1])  # (Q, B, n, D)
    codes = books.gather(2, index.clamp(min=0)).masked_fill(index < 0, 0.0)
    return model.decoder(codes.sum(dim=0).transpose(1, 2)).transpose(1, 2)
