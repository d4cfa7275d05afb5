"""A Swin block.

Shapes: M maps, h x w patch grid, d width, S tokens per window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.swin_transformer import SwinTransformerBlock

_MASKED = -100.0  # as in torchvision, for pairs of tokens that only the shift made neighbours


class SwinBlock(SwinTransformerBlock):
    """torchvision's Swin block, with the same parameters and result.

    What depends only on the grid, the relative positions and the mask of the shift, is computed
    once for all maps by :meth:`attention_bias`; torchvision computes it in every call.

    Args:
        dims: Width d.
        num_heads: Attention heads.
        window_size: Window size in patches.
        shift: Shift of the windows in patches.
        mlp_ratio: Hidden width of the MLP, relative to d.
    """

    def __init__(
        self, dims: int, *, num_heads: int, window_size: int, shift: int, mlp_ratio: float
    ) -> None:
        super().__init__(
            dims,
            num_heads,
            window_size=[window_size, window_size],
            shift_size=[shift, shift],
            mlp_ratio=mlp_ratio,
        )

    def attention_bias(self, height: int, width: int) -> Tensor:
        """Bias of the attention scores on an h x w grid, (1, windows * heads, S, S)."""
        bias = self.attn.get_relative_position_bias()  # (1, heads, S, S)
        size, shifts = self.attn.window_size[0], self._shifts(height, width)
        grid = [-(-side // size) * size for side in (height, width)]
        # only patches of the same part of the map are neighbours after the shift
        parts = [
            torch.bucketize(
                torch.arange(side, device=bias.device),
                torch.tensor([side - size, side - shift], device=bias.device)[: 2 * bool(shift)],
                right=True,
            )
            for side, shift in zip(grid, shifts, strict=True)
        ]
        part = (parts[0][:, None] * 3 + parts[1])[None, ..., None]
        part = to_windows(part, size)[0, ..., 0]  # (windows, S)
        mask = _MASKED * (part[:, None] != part[:, :, None])
        return (bias + mask[:, None]).flatten(0, 1)[None]

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attend within the windows.

        Args:
            x: Maps (M, h, w, d).
            bias: From :meth:`attention_bias`.

        Returns:
            (M, h, w, d).
        """
        x = x + self._attention(self.norm1(x), bias)
        return x + self.mlp(self.norm2(x))

    def _attention(self, x: Tensor, bias: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        size, shifts = self.attn.window_size[0], self._shifts(height, width)
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        grid = x.shape[1:3]
        if any(shifts):
            x = x.roll([-shift for shift in shifts], dims=(1, 2))
        heads = self.attn.num_heads
        x = self.attn.qkv(to_windows(x, size))  # (M, windows, S, 3 * d)
        # merge windows and heads into one dimension, as the bias depends on both
        x = x.unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        x = attend(*x, bias.to(x.dtype), fused=x.is_cuda)
        x = x.unflatten(1, (-1, heads)).transpose(2, 3).flatten(3)
        x = from_windows(self.attn.proj(x), size, *grid)
        if any(shifts):
            x = x.roll(shifts, dims=(1, 2))
        return x[:, :height, :width]

    def _shifts(self, height: int, width: int) -> list[int]:
        # no shift along a side that one window covers
        return [
            0 if side <= size else shift
            for side, size, shift in zip(
                (height, width), self.attn.window_size, self.attn.shift_size, strict=True
            )
        ]


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, *, fused: bool) -> Tensor:
    """Attention of tokens (M, windows * heads, S, d / heads) with a bias on the scores.

    Args:
        query: Queries.
        key: Keys.
        value: Values.
        bias: (1, windows * heads, S, S).
        fused: Use torch's fused kernel. On a CPU it takes 1.1 times (float32) to 1.9 times
            (bfloat16) as long for windows of 144 tokens.
    """
    if fused:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    scores += bias  # in place: the scores are the largest tensor
    return scores.softmax(dim=-1) @ value


def to_windows(x: Tensor, size: int) -> Tensor:
    """Maps (M, h, w, d), with sides divisible by the window, to windows (M, windows, S, d)."""
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x: Tensor, size: int, height: int, width: int) -> Tensor:
    """Windows (M, windows, S, d) to maps (M, h, w, d)."""
    x = x.unflatten(2, (size, size)).unflatten(1, (height // size, width // size))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
