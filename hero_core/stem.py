# SPDX-License-Identifier: GPL-3.0-or-later
"""Convolutions in front of the small video encoder, in place of the patch embedding's single one.

A transformer that cuts its patches out of raw pixels must be shown hundreds of millions of pictures before it sees
well; CLIP was. The encoder that ships is shown few, so it reads feature maps instead (the hybrid of "An Image is Worth
16x16 Words", section 3.1): the stem has MobileNetV2's layout (Sandler et al. 2018, table 2) up to its last bottleneck,
and hands over its 14 x 14 and 7 x 7 maps as one token for each of 7 x 7 places. Official weights have no stem.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

STRIDE = 32  # pixels of a token
# expansion, channels, how many, stride of the first
LAYOUT = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
FINE = 12  # the last bottleneck at 14 x 14
CHANNELS = 4 * 96 + 320  # of a token: four places of the finer map, one of the coarser


class Bottleneck(nn.Module):
    """Expand (1x1), filter (3x3 depthwise), project (1x1), and add the input where the shape stays."""

    def __init__(self, width: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = width * expansion
        self.stride = stride
        self.residual = stride == 1 and width == out
        self.expand = nn.Conv2d(width, hidden, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 0 if stride == 2 else 1, groups=hidden)
        self.project = nn.Conv2d(hidden, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        if self.stride == 2:  # an even size is padded below and right alone, as the teacher's framework does
            y = F.pad(y, (0, 1, 0, 1))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class ConvStem(nn.Module):
    """Pixels to feature maps. Pixels are scaled to -1..1 (``pixel_mean`` and ``pixel_std`` of the config: 127.5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, 2)
        blocks, width = [], 32
        for expansion, out, count, stride in LAYOUT:
            for i in range(count):
                blocks.append(Bottleneck(width, out, stride if i == 0 else 1, expansion))
                width = out
        self.blocks = nn.ModuleList(blocks)

    def enter(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 32, H/2, W/2)."""
        out: Tensor = F.relu6(self.conv(F.pad(x, (0, 1, 0, 1))))
        return out

    def maps(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> the map after the first convolution and after every bottleneck."""
        out = [self.enter(x)]
        for block in self.blocks:
            out.append(block(out[-1]))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) with H, W multiples of 32 -> (N, 704, H/32, W/32)."""
        x = self.enter(x.contiguous(memory_format=torch.channels_last))
        fine = x
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == FINE:
                fine = x
        return torch.cat((F.pixel_unshuffle(fine, 2), x), dim=1)
