"""Vision-language fusion: refine the correlation with image and text.

Shapes: B images, N classes, h x w patch grid, D CLIP joint width, C SAM width, d correlation
embedding width. Correlation embeddings are channels last, as window and class attention read them.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor
from torchvision.models.swin_transformer import SwinTransformerBlock

from ..layers import ClassAttentionBlock

_VARIANCE_EPS = 1e-8  # of cosines: far below any difference that means something


@MODELS.register_module()
class VisionLanguageFusion(BaseModule):
    """VLF (paper, section 3.4).

    ::

        (a) image guidance, each class alone after the standardization:
            C --standardize, conv1x1--> + E_{t-1} --[ . ; F_v'] conv1x1, residual-->
            --> Swin, shifted Swin --> C_v^n
        (b) text guidance, each position alone:
            linear attention over the classes, queries and keys see F_l --> E_t

    CLIP's cosines differ by a few hundredths around a common offset, so they are brought to mean 0
    and variance 1 over the classes and positions of an image before they are embedded (ours).

    The 1x1 convolution of a concatenation is the sum of two, so the image half is computed once
    per image and not once per class.

    Args:
        text_dims: Text width D.
        guidance_dims: Width C of F_v'; None for no image guidance.
        embed_dims: Correlation embedding width d.
        num_heads: Attention heads of both steps.
        window_size: Swin window, in patches.
        mlp_ratio: Hidden width of the MLPs over d.
        text_guidance: Whether queries and keys of the class attention see the text.
    """

    def __init__(
        self,
        *,
        text_dims: int,
        guidance_dims: int | None,
        embed_dims: int = 128,
        num_heads: int = 4,
        window_size: int = 12,
        mlp_ratio: float = 4.0,
        text_guidance: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self.correlation_embed = nn.Linear(1, embed_dims)
        self.correlation_proj = nn.Linear(embed_dims, embed_dims)
        self.image_proj = (
            None if guidance_dims is None else nn.Linear(guidance_dims, embed_dims, bias=False)
        )
        self.window_attention = nn.Sequential(
            *(
                SwinTransformerBlock(
                    embed_dims,
                    num_heads,
                    window_size=[window_size, window_size],
                    shift_size=[shift, shift],
                    mlp_ratio=mlp_ratio,
                )
                for shift in (0, window_size // 2)
            )
        )
        self.class_attention = ClassAttentionBlock(
            embed_dims=embed_dims,
            text_dims=text_dims if text_guidance else None,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
        )

    def forward(
        self,
        correlation: Tensor,
        embedding: Tensor | None,
        image_features: Tensor | None,
        text: Tensor,
    ) -> Tensor:
        """Refine the correlation embedding.

        Args:
            correlation: Scalar correlation C_{t-1} (B, N, h, w).
            embedding: E_{t-1} (B, N, h, w, d), None in the first block.
            image_features: F_v' (B, C, h, w), or one for each class (B, N, C, h, w); None
                without image guidance.
            text: F_l (N, D), unit norm.

        Returns:
            E_t (B, N, h, w, d).
        """
        batch, num_classes = correlation.shape[:2]
        x = self.correlation_embed(standardize(correlation)[..., None])
        if embedding is not None:
            x = x + embedding
        fused = self.correlation_proj(x)
        if self.image_proj is not None:
            guidance = self.image_proj(image_features.movedim(-3, -1))
            fused = fused + (guidance if guidance.dim() == fused.dim() else guidance[:, None])
        x = x + fused
        x = self.window_attention(x.flatten(0, 1)).unflatten(0, (batch, num_classes))
        return self.class_attention(x, text)


def standardize(correlation: Tensor) -> Tensor:
    """Bring each image's correlation to mean 0 and variance 1 over classes and positions.

    Args:
        correlation: (B, N, h, w).

    Returns:
        (B, N, h, w), zero where all values of an image are equal.
    """
    values = correlation.to(torch.promote_types(correlation.dtype, torch.float32))
    mean = values.mean(dim=(1, 2, 3), keepdim=True)
    variance = values.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
    values = (values - mean) * torch.rsqrt(variance + _VARIANCE_EPS)
    return values.to(correlation.dtype)
