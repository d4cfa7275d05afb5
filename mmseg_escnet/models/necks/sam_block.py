"""SAM's pretrained decoder transformer, applied to CLIP's features.

Shapes: B images, N classes, h x w patch grid, D CLIP joint width, C SAM width, M = B * N.
"""

from __future__ import annotations

from typing import Literal

import torch.nn as nn
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor

from ...errors import ESCNetError

_ATTENTION = ('self_attn', 'cross_attn_token_to_image', 'cross_attn_image_to_token')


@MODELS.register_module()
class SAMBlock(BaseModule):
    """Spatial understanding from SAM's decoder blocks (paper, section 3.3).

    ::

        F_v --conv1x1, LayerNorm--> image tokens + dense prompt (per class)
             --two-way transformer with the sparse prompts--> (F_v^n)' per class
             --pooled over classes--> --conv1x1--> F_v'

    The transformer is ``segment_anything``'s, with ``mask_decoder.transformer.*`` of a SAM
    checkpoint in it. Only its image tokens are used, so its last token-to-image attention, which
    does not reach them, is left out.

    Args:
        image_dims: Width D of the dense CLIP features.
        embed_dims: SAM width C.
        depth: Layers of the two-way transformer (SAM: 2).
        num_heads: Attention heads (SAM: 8).
        mlp_dims: Hidden width of its MLP (SAM: 2048).
        class_fusion: How (F_v^n)' are pooled over the classes before the 1x1 convolution: 'mean',
            or 'presence', weighted by how likely each class is in the image (both ours). 'none'
            pools nothing: every class is guided by its own (F_v^n)' (ours, not the paper's).
        trainable: Which parameters of the transformer are trained: its 'attention' layers
            (paper), 'all' or 'none'. The two convolutions are new and always trained.
    """

    def __init__(
        self,
        *,
        image_dims: int,
        embed_dims: int = 256,
        depth: int = 2,
        num_heads: int = 8,
        mlp_dims: int = 2048,
        class_fusion: Literal['mean', 'presence', 'none'] = 'mean',
        trainable: Literal['attention', 'all', 'none'] = 'attention',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if class_fusion not in ('mean', 'presence', 'none'):
            raise ESCNetError(
                f"SAMBlock: class_fusion={class_fusion!r} must be 'mean', 'presence' or 'none'."
            )
        if trainable not in ('attention', 'all', 'none'):
            raise ESCNetError(
                f"SAMBlock: trainable={trainable!r} must be 'attention', 'all' or 'none'."
            )
        self.class_fusion = class_fusion
        self.embed_dims = embed_dims
        self.image_proj = nn.Sequential(
            nn.Conv2d(image_dims, embed_dims, 1), LayerNorm2d(embed_dims)
        )
        self.layers = TwoWayTransformer(depth, embed_dims, num_heads, mlp_dims).layers
        self.fuse = nn.Conv2d(embed_dims, embed_dims, 1)
        for name, parameter in self.layers.named_parameters():
            parameter.requires_grad = trainable == 'all' or (
                trainable == 'attention' and any(part in name.split('.') for part in _ATTENTION)
            )

    def forward(
        self,
        image_features: Tensor,
        sparse: Tensor,
        dense: Tensor,
        position: Tensor,
        presence: Tensor,
    ) -> Tensor:
        """Run SAM's decoder on every class and fuse the classes.

        Args:
            image_features: Dense CLIP features F_v (B, D, h, w).
            sparse: Sparse prompt embeddings (M, number of tokens, C).
            dense: Dense prompt embeddings (M, C, h, w) or (M, C, 1, 1).
            position: Positional encoding of the image tokens (1, C, h, w).
            presence: Class presence (B, N), sums to one over the classes.

        Returns:
            Image features with spatial understanding F_v' (B, C, h, w), or (F_v^n)'
            (B, N, C, h, w) if classes are not pooled.
        """
        batch, num_classes = presence.shape
        tokens = self.image_tokens(
            self.image_proj(image_features).repeat_interleave(num_classes, dim=0) + dense,
            position,
            sparse,
        )
        tokens = tokens.unflatten(0, (batch, num_classes))
        if self.class_fusion == 'none':
            pooled = tokens.flatten(0, 1)
        elif self.class_fusion == 'mean':
            pooled = tokens.mean(dim=1)
        else:
            pooled = (tokens * presence[..., None, None].to(tokens.dtype)).sum(dim=1)
        fused = self.fuse(pooled.transpose(1, 2).unflatten(2, image_features.shape[-2:]))
        return fused.unflatten(0, (batch, -1)) if self.class_fusion == 'none' else fused

    def image_tokens(self, image: Tensor, position: Tensor, sparse: Tensor) -> Tensor:
        """The image tokens that SAM's two-way transformer returns.

        Args:
            image: Image embedding with the dense prompt added (M, C, h, w).
            position: Positional encoding (1, C, h, w).
            sparse: Sparse prompt embeddings (M, number of tokens, C).

        Returns:
            Image tokens (M, h * w, C).
        """
        keys = image.flatten(2).transpose(1, 2)
        key_position = position.flatten(2).transpose(1, 2)
        queries = sparse
        for layer in self.layers:
            queries, keys = layer(queries=queries, keys=keys, query_pe=sparse, key_pe=key_position)
        return keys
