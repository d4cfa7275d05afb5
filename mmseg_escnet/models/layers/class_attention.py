"""Linear attention over the classes of a vocabulary, as in CAT-Seg.

Shapes: B images, N classes, h x w patch grid, d correlation embedding width, D CLIP joint width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn as nn
from torch import Tensor

from .class_chunks import ClassChunks

# the sums are as large as the keys and values of 32 classes, so smaller chunks do not pay
_CLASSES_OF_A_SUM = 32


@dataclass
class ClassSums:
    """Sums over classes, as linear attention needs them.

    Attributes:
        key_value: (B, h * w, heads, d / heads, d / heads), sum of keys times values.
        key: (B, h * w, heads, d / heads), sum of keys.
    """

    key_value: Tensor
    key: Tensor

    def __add__(self, other: ClassSums) -> ClassSums:
        return ClassSums(self.key_value + other.key_value, self.key + other.key)


def _precise(x: Tensor) -> Tensor:
    # sums over the classes exceed the range of half precision
    return x.to(torch.promote_types(x.dtype, torch.float32))


def feature_map(x: Tensor) -> Tensor:
    """The positive feature map elu(x) + 1 of linear attention (Katharopoulos et al., 2020).

    This form stays positive below x = -17, where ``elu(x) + 1`` rounds to zero, and avoids
    ``torch.where``, which would dominate the time on a CPU.
    """
    return x.clamp(max=0).exp() + x.relu()


class ClassAttention(nn.Module):
    """A pre-norm transformer block whose tokens are the N classes of one position (recipe).

    Without positional embeddings, the block is equivariant to permutations of the vocabulary and
    works with any number of classes at a cost linear in N. It makes two passes over the classes:
    one for the sums, one to refine the tokens.

    Queries and keys include the text: each is a linear map of the concatenated class token and text
    feature. That is the sum of two maps, so the text half is computed once per vocabulary instead
    of once per position.

    Args:
        embed_dims: Token width d.
        text_dims: Text width D.
        num_heads: Attention heads; must divide ``embed_dims``.
        mlp_ratio: Hidden width of the MLP, relative to d; 0 for none.
    """

    def __init__(
        self, *, embed_dims: int, text_dims: int, num_heads: int = 4, mlp_ratio: float = 4.0
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
        self.text_norm = nn.LayerNorm(text_dims)
        self.text_query = nn.Linear(text_dims, embed_dims, bias=False)
        self.text_key = nn.Linear(text_dims, embed_dims, bias=False)
        self.norm2 = self.mlp = None
        if mlp_ratio:
            hidden = int(embed_dims * mlp_ratio)
            self.norm2 = nn.LayerNorm(embed_dims)
            self.mlp = nn.Sequential(
                nn.Linear(embed_dims, hidden), nn.GELU(), nn.Linear(hidden, embed_dims)
            )

    def forward(
        self, x: Tensor, text: Tensor, chunks: ClassChunks, counts: Tensor | None = None
    ) -> Tensor:
        """Attend over the classes at each position.

        Args:
            x: Class tokens (B, N, h, w, d); overwritten by the result if no gradient is computed.
            text: Unit-norm text features (N, D).
            chunks: How many classes at a time.
            counts: How many classes each represents (N,); None for one.

        Returns:
            Refined class tokens (B, N, h, w, d).
        """
        wide = replace(chunks, size=chunks.size and max(chunks.size, _CLASSES_OF_A_SUM))
        classes, words = wide.split(x, dim=1), wide.split(text, dim=0)
        of_classes = (None,) * len(classes) if counts is None else wide.split(counts, dim=0)
        sums = None
        for arguments in zip(classes, words, of_classes, strict=True):
            seen = wide.run(self.summarize, *arguments)
            sums = seen if sums is None else sums + seen
        parts = zip(chunks.split(x, dim=1), chunks.split(text, dim=0), strict=True)
        refined = (chunks.run(self.refine, *part, sums) for part in parts)
        return chunks.collect(refined, x.shape[1], out=x)

    def summarize(self, x: Tensor, text: Tensor, counts: Tensor | None = None) -> ClassSums:
        """Sums over some of the classes, to be added to those over the others.

        Args:
            x: Class tokens (B, N, h, w, d).
            text: Unit-norm text features (N, D).
            counts: How many classes each represents (N,); None for one.
        """
        x = self.norm1(x)
        key = self.key(x) + self.text_key(self.text_norm(text))[:, None, None]
        value = self.value(x)
        with torch.autocast(x.device.type, enabled=False):
            key = feature_map(_precise(key))
            if counts is not None:
                key = key * counts[:, None, None, None]
            key = self._tokens_first(key)
            value = self._tokens_first(_precise(value))
            return ClassSums(key_value=key.transpose(-1, -2) @ value, key=key.sum(dim=-2))

    def refine(self, x: Tensor, text: Tensor, sums: ClassSums) -> Tensor:
        """Refine some of the classes, given the sums over all of them."""
        x = x + self._attend(self.norm1(x), text, sums)
        return x if self.mlp is None else x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, text: Tensor, sums: ClassSums) -> Tensor:
        query = self.query(x) + self.text_query(self.text_norm(text))[:, None, None]
        with torch.autocast(x.device.type, enabled=False):
            precise = self._tokens_first(feature_map(_precise(query)))
            normaliser = precise @ sums.key[..., None]
            attended = precise @ sums.key_value
            attended = attended / normaliser.clamp(min=torch.finfo(attended.dtype).tiny)
        attended = attended.permute(0, 3, 1, 2, 4).reshape(x.shape)
        return self.out(attended.to(query.dtype))

    def _tokens_first(self, x: Tensor) -> Tensor:
        """(B, N, h, w, d) to (B, h * w, heads, N, d / heads)."""
        return x.flatten(2, 3).unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1, 4)
