"""Linear attention over the classes of a vocabulary.

Shapes: B images, N classes, h x w patch grid, d correlation embedding width, D CLIP joint width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor


@dataclass
class ClassSums:
    """Sums over classes: all that linear attention has to know of them.

    Attributes:
        key_value: Of keys times values, (B, h * w, heads, d / heads, d / heads).
        key: Of keys, (B, h * w, heads, d / heads).
    """

    key_value: Tensor
    key: Tensor

    def __add__(self, other: ClassSums) -> ClassSums:
        return ClassSums(self.key_value + other.key_value, self.key + other.key)


def _precise(x: Tensor) -> Tensor:
    # sums over the classes leave the range of half precision
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _feature_map(x: Tensor) -> Tensor:
    """The positive feature map elu(x) + 1 of linear attention (Katharopoulos et al., 2020).

    Written so that it stays positive where ``elu(x) + 1`` rounds to zero, below x = -17, and
    without ``torch.where``, which takes longer on a processor than all else here.
    """
    return x.clamp(max=0).exp() + x.relu()


class ClassAttentionBlock(nn.Module):
    """A pre-norm transformer block whose tokens are the N classes of one position.

    There is no positional embedding, and linear attention sums over the classes, so the block
    commutes with any reordering of the vocabulary and takes any number of classes at a cost that
    is linear in N.

    Queries and keys see the text: each is a linear map of the concatenation of the class token
    and its text feature, which by linearity is the sum of two maps, so the text half is computed
    once per vocabulary and not once per position.

    Args:
        embed_dims: Token width d.
        text_dims: Text width D; None for attention that does not see the text.
        num_heads: Attention heads; must divide ``embed_dims``.
        mlp_ratio: Hidden width of the MLP over d.
    """

    def __init__(
        self, *, embed_dims: int, text_dims: int | None, num_heads: int = 4, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide embed_dims={embed_dims}')
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(embed_dims)
        self.query = nn.Linear(embed_dims, embed_dims)
        self.key = nn.Linear(embed_dims, embed_dims)
        self.value = nn.Linear(embed_dims, embed_dims)
        self.out = nn.Linear(embed_dims, embed_dims)
        if text_dims is not None:
            self.text_norm = nn.LayerNorm(text_dims)
            self.text_query = nn.Linear(text_dims, embed_dims, bias=False)
            self.text_key = nn.Linear(text_dims, embed_dims, bias=False)
        self.sees_text = text_dims is not None
        self.norm2 = nn.LayerNorm(embed_dims)
        hidden = int(embed_dims * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dims, hidden), nn.GELU(), nn.Linear(hidden, embed_dims)
        )

    def forward(self, x: Tensor, text: Tensor, sums: ClassSums | None = None) -> Tensor:
        """Let the classes of each position look at each other.

        Args:
            x: Class tokens (B, N, h, w, d).
            text: Unit-norm text features (N, D).
            sums: Of all classes, where ``x`` holds only some of them; None if these are all.

        Returns:
            Refined class tokens (B, N, h, w, d).
        """
        if sums is None:
            sums = self.summarize(x, text)
        x = x + self._attend(self.norm1(x), text, sums)
        return x + self.mlp(self.norm2(x))

    def summarize(self, x: Tensor, text: Tensor, counts: Tensor | None = None) -> ClassSums:
        """What the attention needs to know of these classes, to be added to that of others.

        Args:
            x: Class tokens (B, N, h, w, d).
            text: Unit-norm text features (N, D).
            counts: How many classes each stands for (N,); None for one.
        """
        x = self.norm1(x)
        key, value = self.key(x), self.value(x)
        if self.sees_text:
            key = key + self.text_key(self.text_norm(text))[:, None, None]
        with torch.autocast(x.device.type, enabled=False):
            key = _feature_map(_precise(key))
            if counts is not None:
                key = key * counts[:, None, None, None]
            key = self._tokens_first(key)
            value = self._tokens_first(_precise(value))
            return ClassSums(key_value=key.transpose(-1, -2) @ value, key=key.sum(dim=-2))

    def _attend(self, x: Tensor, text: Tensor, sums: ClassSums) -> Tensor:
        query = self.query(x)
        if self.sees_text:
            query = query + self.text_query(self.text_norm(text))[:, None, None]
        with torch.autocast(x.device.type, enabled=False):
            precise = self._tokens_first(_feature_map(_precise(query)))
            normaliser = precise @ sums.key[..., None]
            attended = precise @ sums.key_value
            attended = attended / normaliser.clamp(min=torch.finfo(attended.dtype).tiny)
        attended = attended.permute(0, 3, 1, 2, 4).reshape(x.shape)
        return self.out(attended.to(query.dtype))

    def _tokens_first(self, x: Tensor) -> Tensor:
        """(B, N, h, w, d) to (B, h * w, heads, N, d / heads)."""
        return x.flatten(2, 3).unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1, 4)
