"""A common interface to the image towers of open_clip for which dense features are defined.

Shapes: B images, h x w patch grid, L = h * w, W CLIP width, D CLIP joint width. A tower has no
state: it only locates the parts of a model that :class:`OpenCLIPBackbone` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import RotaryEmbeddingCat, build_rotary_pos_embed
from timm.models.eva import Eva, EvaAttention, EvaBlock
from torch import Tensor


@dataclass(frozen=True)
class PlainTower:
    """open_clip's own vision transformer."""

    visual: VisionTransformer

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, called with tokens and :meth:`rotary`."""
        return self.visual.transformer.resblocks

    @property
    def width(self) -> int:
        """W."""
        return self.visual.conv1.out_channels

    @property
    def patch_size(self) -> tuple[int, int]:
        """Pixels of a patch, height and width."""
        return tuple(self.visual.patch_size)

    @property
    def grid_size(self) -> tuple[int, int]:
        """The patch grid of the positional embeddings."""
        return tuple(self.visual.grid_size)

    @property
    def class_token(self) -> Tensor:
        """(W,)"""
        return self.visual.class_embedding

    @property
    def positions(self) -> Tensor:
        """Positional embeddings (1 + L, W) of the class token and of :attr:`grid_size`."""
        return self.visual.positional_embedding

    def patches(self, images: Tensor) -> Tensor:
        """Patch embeddings (B, L, W) of images (B, 3, H, W)."""
        return self.visual.conv1(images).flatten(2).transpose(1, 2)

    def norm_pre(self, x: Tensor) -> Tensor:
        """The norm between the embeddings and the first block."""
        return self.visual.ln_pre(x)

    def rotary(self, height: int, width: int) -> tuple[Tensor, ...]:
        """Further arguments of a block: none, as positions are added to the tokens."""
        return ()

    def project(self, x: Tensor) -> Tensor:
        """Tokens (B, L, W) after the last block, in the joint space (B, L, D)."""
        return self.visual.ln_post(x) @ self.visual.proj

    def unread(self) -> list[nn.Parameter]:
        """Parameters on which the dense features do not depend."""
        return []


@dataclass(frozen=True)
class EvaTower:
    """timm's EVA-02 in open_clip's adapter (arXiv 2303.15389), with or without rotary embeddings.

    A block applies the rotary embedding to queries and keys, so it does not affect the value path.
    """

    visual: TimmModel

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, called with tokens and :meth:`rotary`."""
        return self.visual.trunk.blocks

    @property
    def width(self) -> int:
        """W."""
        return self.visual.trunk.embed_dim

    @property
    def patch_size(self) -> tuple[int, int]:
        """Pixels of a patch, height and width."""
        return tuple(self.visual.trunk.patch_embed.patch_size)

    @property
    def grid_size(self) -> tuple[int, int]:
        """The patch grid of the positional embeddings."""
        return tuple(self.visual.trunk.patch_embed.grid_size)

    @property
    def class_token(self) -> Tensor:
        """(W,)"""
        return self.visual.trunk.cls_token[0, 0]

    @property
    def positions(self) -> Tensor:
        """Positional embeddings (1 + L, W) of the class token and of :attr:`grid_size`."""
        return self.visual.trunk.pos_embed[0]

    def patches(self, images: Tensor) -> Tensor:
        """Patch embeddings (B, L, W) of images (B, 3, H, W)."""
        # only the convolution of PatchEmbed, whose forward pass accepts a single image size
        return self.visual.trunk.patch_embed.proj(images).flatten(2).transpose(1, 2)

    def norm_pre(self, x: Tensor) -> Tensor:
        """The norm between the embeddings and the first block."""
        return self.visual.trunk.norm_pre(x)

    def rotary(self, height: int, width: int) -> tuple[Tensor, ...]:
        """Further arguments of a block: the rotary embedding (L, 2 * head width) of an h x w grid.

        timm stores it for one image size. Other grids span the same range of positions, 16 x 16 for
        the published models, as in timm with ``dynamic_img_size``.
        """
        rope = self.visual.trunk.rope
        if rope is None:
            return ()
        embedding = build_rotary_pos_embed(
            feat_shape=[height, width],
            dim=rope.dim,
            temperature=rope.temperature,
            in_pixels=rope.in_pixels,
            ref_feat_shape=rope.ref_feat_shape,
            grid_offset=rope.grid_offset,
            grid_indexing=rope.grid_indexing,
            device=self.visual.trunk.pos_embed.device,
        )
        return (torch.cat(embedding, dim=-1),)

    def project(self, x: Tensor) -> Tensor:
        """Tokens (B, L, W) after the last block, in the joint space (B, L, D)."""
        trunk = self.visual.trunk
        return self.visual.head(trunk.head(trunk.fc_norm(trunk.norm(x))))

    def unread(self) -> list[nn.Parameter]:
        """Parameters on which the dense features do not depend: the last queries and keys."""
        last = self.blocks[-1].attn
        return [p for name, p in last.named_parameters() if name.startswith(('q_', 'k_'))]


def tower_type(visual: nn.Module) -> type[PlainTower] | type[EvaTower] | None:
    """The kind of an open_clip image tower; None if dense features are not defined for it."""
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
        return PlainTower
    if isinstance(visual, TimmModel) and _is_clip_eva(visual.trunk):
        return EvaTower
    return None


def _is_clip_eva(trunk: nn.Module) -> bool:
    # one class token, read at the end; norms before attention and MLP; at most axial rotation
    return (
        isinstance(trunk, Eva)
        and trunk.global_pool == 'token'
        and trunk.num_prefix_tokens == 1
        and trunk.pos_embed is not None
        and not trunk.no_embed_class
        and (trunk.rope is None or type(trunk.rope) is RotaryEmbeddingCat)
        and all(
            isinstance(block, EvaBlock) and isinstance(block.attn, EvaAttention)
            for block in trunk.blocks
        )
    )


def eva_value_path(block: EvaBlock, x: Tensor) -> Tensor:
    """timm's EVA block in which every token attends only to itself.

    Keeps the norm inside the attention, the projections, the gated MLP and the layer scales.

    Args:
        block: The block.
        x: Tokens (B, L, W).

    Returns:
        Tokens (B, L, W).
    """
    attention = block.attn
    normed = block.norm1(x)
    if attention.qkv is None:
        value = attention.v_proj(normed)
    else:
        first = 2 * attention.qkv.out_features // 3  # queries, keys, values
        value = F.linear(normed, attention.qkv.weight[first:], attention.v_bias)
    value = attention.proj(attention.norm(value))
    if block.gamma_1 is not None:
        value = block.gamma_1 * value
    x = x + block.drop_path1(value)
    hidden = block.mlp(block.norm2(x))
    if block.gamma_2 is not None:
        hidden = block.gamma_2 * hidden
    return x + block.drop_path2(hidden)
