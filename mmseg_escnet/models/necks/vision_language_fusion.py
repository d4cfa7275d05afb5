"""Vision-language fusion: refine the correlation with image and text.

Shapes: B images, N classes, h x w patch grid, D CLIP joint width, C SAM width, d correlation
embedding width. Correlation embeddings are channels last, as window and class attention read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from ..layers import ClassAttentionBlock, ClassChunks, SwinBlock

# the sums are as large as what 32 classes bring to them, so they are not made for fewer
_CLASSES_OF_A_SUM = 32
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
        self.window_attention = nn.ModuleList(
            SwinBlock(
                embed_dims,
                num_heads=num_heads,
                window_size=window_size,
                shift=shift,
                mlp_ratio=mlp_ratio,
            )
            for shift in (0, window_size // 2)
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
        chunks: ClassChunks,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Refine the correlation embedding.

        Args:
            correlation: Scalar correlation C_{t-1} (B, N, h, w).
            embedding: E_{t-1} (B, N, h, w, d), None in the first block; overwritten by E_t if no
                gradient is computed.
            image_features: F_v' (B, C, h, w), or one for each class (B, N, C, h, w); None
                without image guidance.
            text: F_l (N, D), unit norm.
            chunks: How many classes at a time.
            counts: How many classes each stands for (N,); None for one.

        Returns:
            E_t (B, N, h, w, d).
        """
        num_classes = text.shape[0]
        correlations = chunks.split(standardize(correlation, counts), dim=1)
        embeddings = guidance = (None,) * len(correlations)
        if embedding is not None:
            embeddings = chunks.split(embedding, dim=1)
        if image_features is not None:
            image = self.image_proj(image_features.movedim(-3, -1))
            per_class = image.dim() == 5
            guidance = (
                chunks.split(image, dim=1) if per_class else (image[:, None],) * len(guidance)
            )
        biases = [block.attention_bias(*correlation.shape[-2:]) for block in self.window_attention]
        x = chunks.collect(
            (
                chunks.run(self._see_image, *arguments, biases)
                for arguments in zip(correlations, embeddings, guidance, strict=True)
            ),
            num_classes,
            out=embedding,
        )
        wide = replace(chunks, size=chunks.size and _CLASSES_OF_A_SUM)
        classes, words = wide.split(x, dim=1), wide.split(text, dim=0)
        of_classes = (None,) * len(classes) if counts is None else wide.split(counts, dim=0)
        sums = None
        for arguments in zip(classes, words, of_classes, strict=True):
            seen = wide.run(self.class_attention.summarize, *arguments)
            sums = seen if sums is None else sums + seen
        return chunks.collect(
            (
                chunks.run(self.class_attention, some, words, sums)
                for some, words in zip(
                    chunks.split(x, dim=1), chunks.split(text, dim=0), strict=True
                )
            ),
            num_classes,
            out=x,
        )

    def _see_image(
        self,
        correlation: Tensor,
        embedding: Tensor | None,
        guidance: Tensor | None,
        biases: Sequence[Tensor],
    ) -> Tensor:
        """Embed classes (B, n, h, w) and let each look at the image: C_v^n (B, n, h, w, d)."""
        x = self.correlation_embed(correlation[..., None])
        if embedding is not None:
            x = x + embedding
        fused = self.correlation_proj(x)
        if guidance is not None:
            fused = fused + guidance
        x = x + fused
        maps = x.flatten(0, 1)
        for block, bias in zip(self.window_attention, biases, strict=True):
            maps = block(maps, bias)
        return maps.unflatten(0, x.shape[:2])


def standardize(correlation: Tensor, counts: Tensor | None = None) -> Tensor:
    """Bring each image's correlation to mean 0 and variance 1 over classes and positions.

    Args:
        correlation: (B, N, h, w).
        counts: How many classes each stands for (N,); None for one.

    Returns:
        (B, N, h, w), zero where all values of an image are equal.
    """
    values = correlation.to(torch.promote_types(correlation.dtype, torch.float32))

    def mean(values: Tensor) -> Tensor:
        if counts is None:
            return values.mean(dim=(1, 2, 3), keepdim=True)
        of_classes = values.mean(dim=(2, 3), keepdim=True) * counts[:, None, None]
        return of_classes.sum(dim=1, keepdim=True) / counts.sum()

    values = values - mean(values)
    values = values * torch.rsqrt(mean(values.square()) + _VARIANCE_EPS)
    return values.to(correlation.dtype)
