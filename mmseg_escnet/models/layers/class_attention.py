"""Linear attention over the classes of a vocabulary.

Shapes: B images, N classes, h x w patch grid, d correlation embedding width, D CLIP joint width.
"""

import torch
import torch.nn as nn
from torch import Tensor


def _feature_map(x: Tensor) -> Tensor:
    """The positive feature map elu(x) + 1 of linear attention (Katharopoulos et al., 2020).

    Written so that it stays positive where ``elu(x) + 1`` rounds to zero, below x = -17.
    """
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


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

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Let the classes of each position look at each other.

        Args:
            x: Class tokens (B, N, h, w, d).
            text: Unit-norm text features (N, D).

        Returns:
            Refined class tokens (B, N, h, w, d).
        """
        x = x + self._attention(self.norm1(x), text)
        return x + self.mlp(self.norm2(x))

    def _attention(self, x: Tensor, text: Tensor) -> Tensor:
        batch, num_classes, height, width, dims = x.shape
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.sees_text:
            text = self.text_norm(text)
            query = query + self.text_query(text)[:, None, None]
            key = key + self.text_key(text)[:, None, None]

        def tokens_first(t: Tensor) -> Tensor:  # (B, h*w, heads, N, d / heads)
            t = t.reshape(batch, num_classes, height * width, self.num_heads, -1)
            return t.permute(0, 2, 3, 1, 4)

        # sums over the classes leave the range of half precision
        precise = torch.promote_types(value.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            query = tokens_first(_feature_map(query.to(precise)))
            key = tokens_first(_feature_map(key.to(precise)))
            key_value = key.transpose(-1, -2) @ tokens_first(value.to(precise))
            normaliser = query @ key.sum(dim=-2, keepdim=True).transpose(-1, -2)
            attended = (query @ key_value) / normaliser.clamp(min=torch.finfo(precise).tiny)
        attended = attended.permute(0, 3, 1, 2, 4).reshape(batch, num_classes, height, width, dims)
        return self.out(attended.to(value.dtype))
