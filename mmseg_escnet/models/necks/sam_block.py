"""SAM's pretrained decoder transformer, applied to CLIP's features.

Shapes: B images, N classes, n of them at a time, h x w patch grid, L = h * w, D CLIP joint width,
C SAM width, M = B * n.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor

from ...errors import ESCNetError
from ..layers import two_way_attention

_ATTENTION = ('self_attn', 'cross_attn_token_to_image', 'cross_attn_image_to_token')


@MODELS.register_module()
class SAMBlock(BaseModule):
    """Applies SAM's decoder layers to CLIP's features, class by class (paper, section 3.3).

    ::

        F_v --conv1x1, LayerNorm--> image tokens + dense prompt (per class)
             --two-way transformer with the sparse prompts--> (F_v^n)' per class
             --pooled over classes--> --conv1x1--> F_v'

    The layers are those of ``segment_anything``'s transformer, initialised from
    ``mask_decoder.transformer.layers.*`` of a SAM checkpoint. Only the image tokens are used, so
    the last token-to-image attention, which does not affect them, is left out.

    Args:
        image_dims: Width D of the dense CLIP features.
        embed_dims: SAM width C.
        depth: Layers of the two-way transformer (SAM: 2).
        layers: Which of them this block has: 'alternate' for layer t mod depth in ESC block t, or
            'all' (both ours: the paper says "a SAM block").
        block_index: Index of this ESC block, from 0; set by the neck.
        num_heads: Attention heads (SAM: 8).
        mlp_dims: Hidden width of the MLP (SAM: 2048).
        class_fusion: How (F_v^n)' is pooled over the classes before the 1x1 convolution: 'mean',
            or 'presence', weighted by how likely each class is in the image (both ours).
        trainable: Which parameters of the transformer are trained: its 'attention' layers
            (paper), 'all' or 'none'. The two new convolutions are always trained.
    """

    def __init__(
        self,
        *,
        image_dims: int,
        embed_dims: int = 256,
        depth: int = 2,
        layers: Literal['alternate', 'all'] = 'alternate',
        num_heads: int = 8,
        mlp_dims: int = 2048,
        class_fusion: Literal['mean', 'presence'] = 'mean',
        trainable: Literal['attention', 'all', 'none'] = 'attention',
        block_index: int = 0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if layers not in ('alternate', 'all'):
            raise ESCNetError(f"SAMBlock: layers={layers!r} must be 'alternate' or 'all'.")
        if class_fusion not in ('mean', 'presence'):
            raise ESCNetError(
                f"SAMBlock: class_fusion={class_fusion!r} must be 'mean' or 'presence'."
            )
        if trainable not in ('attention', 'all', 'none'):
            raise ESCNetError(
                f"SAMBlock: trainable={trainable!r} must be 'attention', 'all' or 'none'."
            )
        self.class_fusion = class_fusion
        self.depth = depth
        self.embed_dims = embed_dims
        self.image_proj = nn.Sequential(
            nn.Conv2d(image_dims, embed_dims, 1), LayerNorm2d(embed_dims)
        )
        # keyed by their number in a SAM checkpoint
        self.layers = nn.ModuleDict(
            (str(index), layer)
            for index, layer in enumerate(
                TwoWayTransformer(depth, embed_dims, num_heads, mlp_dims).layers
            )
            if layers == 'all' or index == block_index % depth
        )
        self.fuse = nn.Conv2d(embed_dims, embed_dims, 1)
        for name, parameter in self.layers.named_parameters():
            parameter.requires_grad = trainable == 'all' or (
                trainable == 'attention' and any(part in name.split('.') for part in _ATTENTION)
            )

    def class_weights(self, presence: Tensor, counts: Tensor | None = None) -> Tensor:
        """Weights (B, N) of the classes, which sum to one.

        Args:
            presence: Class presence (B, N), sums to one over the classes.
            counts: How many classes each represents (N,); None for one.
        """
        weights = presence if self.class_fusion == 'presence' else torch.ones_like(presence)
        if counts is not None:
            weights = weights * counts
        return weights / weights.sum(dim=1, keepdim=True)

    def forward(
        self,
        image: Tensor,
        sparse: Tensor,
        dense: Tensor,
        position: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Run SAM's decoder on some of the classes.

        Args:
            image: F_v after ``image_proj``, (B, C, h, w).
            sparse: Sparse prompt embeddings of n classes (B * n, number of tokens, C).
            dense: Their dense prompt embeddings (B * n, C, h, w) or (B * n, C, 1, 1).
            position: Positional encoding of the image tokens (1, C, h, w).
            weights: Weights of these classes (B, n), see :meth:`class_weights`.

        Returns:
            Their contribution to the pooled (F_v^n)', (B, C, h, w). The sum over all classes goes
            through ``fuse``.
        """
        batch, height, width = len(image), *image.shape[-2:]
        # the many tokens of all classes take the dtype that autocast gives to convolutions
        image, sparse, position = (x.to(dense.dtype) for x in (image, sparse, position))
        image = image.flatten(2).transpose(1, 2)[:, None]  # (B, 1, L, C)
        dense = dense.flatten(2).transpose(1, 2).unflatten(0, (batch, -1))
        tokens = self.image_tokens(
            (image + dense).flatten(0, 1), position.flatten(2).transpose(1, 2), sparse
        ).unflatten(0, (batch, -1))
        pooled = weights[:, None].to(tokens.dtype) @ tokens.flatten(2)  # (B, 1, L * C)
        pooled = pooled.view(batch, height, width, -1).movedim(-1, 1)
        return pooled.to(torch.promote_types(pooled.dtype, torch.float32))  # a sum over all classes

    def image_tokens(self, image: Tensor, position: Tensor, sparse: Tensor) -> Tensor:
        """The output image tokens of SAM's two-way transformer.

        Args:
            image: Image tokens with the dense prompt added (M, L, C).
            position: Positional encoding (1, L, C).
            sparse: Sparse prompt embeddings (M, number of tokens, C).

        Returns:
            Image tokens (M, L, C).
        """
        prompts = sparse
        for layer in self.layers.values():
            prompts, image = two_way_attention(layer, prompts, image, sparse, position)
        return image
