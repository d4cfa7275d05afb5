"""Linear attention from class maps to the words of a vocabulary.

Shapes: B images, N classes, n of them at a time, h x w patch grid, d correlation embedding width,
D CLIP joint width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .class_attention import feature_map


@dataclass
class WordSums:
    """Sums over the words of a vocabulary, as linear attention needs them.

    Attributes:
        key: (d, heads), sum of the keys over the words, one column per head.
        key_value: (d, d), sum of keys times values, projected to the output.
    """

    key: Tensor
    key_value: Tensor


class TextAttention(nn.Module):
    """A pre-norm transformer block with class maps as queries and the words as keys and values.

    Every position of every class attends to all words of the vocabulary (paper, section 3.4),
    without positional embeddings. Linear attention needs only sums over the words, which are the
    same for all positions: :meth:`summarize` computes them once per vocabulary. Classes do not
    interact.

    Args:
        embed_dims: Token width d.
        text_dims: Text width D.
        num_heads: Attention heads; must divide ``embed_dims``.
        own_word: Whether the query of a class includes its own text feature (ours).
        mlp_ratio: Hidden width of an MLP after the attention, relative to d; 0 for none.
    """

    def __init__(
        self,
        *,
        embed_dims: int,
        text_dims: int,
        num_heads: int = 4,
        own_word: bool = False,
        mlp_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide embed_dims={embed_dims}')
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(embed_dims)
        self.text_norm = nn.LayerNorm(text_dims)
        self.query = nn.Linear(embed_dims, embed_dims)
        self.text_query = nn.Linear(text_dims, embed_dims, bias=False) if own_word else None
        self.key = nn.Linear(text_dims, embed_dims)
        self.value = nn.Linear(text_dims, embed_dims)
        self.out = nn.Linear(embed_dims, embed_dims)
        self.norm2 = self.mlp = None
        if mlp_ratio:
            hidden = int(embed_dims * mlp_ratio)
            self.norm2 = nn.LayerNorm(embed_dims)
            self.mlp = nn.Sequential(
                nn.Linear(embed_dims, hidden), nn.GELU(), nn.Linear(hidden, embed_dims)
            )

    def summarize(self, text: Tensor) -> WordSums:
        """Sum over the words of a vocabulary.

        Both sums are divided by the same number, which cancels in the attention and keeps them
        within the range of half precision.

        Args:
            text: Unit-norm text features (N, D) of all words.
        """
        # in full precision: once per vocabulary, and every position depends on it
        with torch.autocast(text.device.type, enabled=False):
            text = self.text_norm(text.to(self.text_norm.weight.dtype))
            key = feature_map(self.key(text)).unflatten(-1, (self.num_heads, -1))  # (N, heads, c)
            value = self.value(text).unflatten(-1, (self.num_heads, -1))
            total = key.sum(dim=0)  # (heads, c)
            scale = total.sum(dim=-1)[:, None, None]
            key_value = torch.einsum('nac,nae->ace', key, value) / scale
            out = self.out.weight.unflatten(1, (self.num_heads, -1))  # (d, heads, c)
            key_value = torch.einsum('ace,dae->acd', key_value, out)
            return WordSums(
                key=torch.block_diag(*(total[..., None] / scale)),
                key_value=key_value.flatten(0, 1),
            )

    def forward(self, x: Tensor, text: Tensor, words: WordSums) -> Tensor:
        """Attend to the words at every position of every class.

        Args:
            x: Class maps (B, n, h, w, d).
            text: Unit-norm text features of these classes (n, D); read with ``own_word`` only.
            words: Sums over the vocabulary, from :meth:`summarize`.

        Returns:
            (B, n, h, w, d).
        """
        query = self.query(self.norm1(x))
        if self.text_query is not None:
            query = query + self.text_query(self.text_norm(text))[:, None, None]
        query = feature_map(query)
        normaliser = query @ words.key.to(query.dtype)  # (B, n, h, w, heads)
        normaliser = normaliser.clamp(min=torch.finfo(normaliser.dtype).tiny)
        query = query.unflatten(-1, (self.num_heads, -1)) / normaliser[..., None]
        x = x + F.linear(query.flatten(-2), words.key_value.T, self.out.bias)
        return x if self.mlp is None else x + self.mlp(self.norm2(x))
