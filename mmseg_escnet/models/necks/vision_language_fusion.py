"""Vision-language fusion: refine the correlation with image and text features.

Shapes: B images, N classes, h x w patch grid, D CLIP joint width, C SAM width, d correlation
embedding width. Correlation embeddings are channels last, as the attention layers read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from ...errors import ESCNetError
from ..layers import ClassAttention, ClassChunks, SwinBlock, TextAttention
from ..layers.text_attention import WordSums

_VARIANCE_EPS = 1e-8  # far below any meaningful difference of cosines


@MODELS.register_module()
class VisionLanguageFusion(BaseModule):
    """VLF (paper, section 3.4).

    ::

        (a) image guidance, per class after the standardization:
            C --standardize, conv1x1--> + E_{t-1} --[ . ; F_v'] conv1x1, residual-->
            --> Swin --> C_v^n
        (b) text guidance, per position and class:
            linear attention, queries from C_v^n, keys and values from F_l --> E_t

    CLIP's cosines differ by a few hundredths around a common offset, so they are standardized to
    mean 0 and variance 1 over the classes and positions of an image before embedding (ours).

    The 1x1 convolution of a concatenation is the sum of two, so the image half is computed once
    per image instead of once per class.

    Args:
        text_dims: Text width D.
        guidance_dims: Width C of F_v'; None for no image guidance.
        embed_dims: Correlation embedding width d.
        num_heads: Attention heads of both steps.
        window_size: Swin window, in patches.
        mlp_ratio: Hidden width of the Swin block's MLP, relative to d.
        swin_blocks: 'alternate' for one Swin block, with shifted windows in every second ESC block,
            or 'pair' for a regular and a shifted one in every ESC block (both ours: the paper says
            "a Swin Transformer block").
        text_guidance: 'cross' for attention to the words (paper), 'self' for attention over the
            classes, with the words in queries and keys (CAT-Seg's), None for none (ablation).
        own_word: With 'cross', whether the query of a class includes its own word (ours).
        text_mlp_ratio: Hidden width of an MLP after the text guidance, relative to d; 0 for none.
        block_index: Index of this ESC block, from 0; set by the neck.

    Raises:
        ESCNetError: If an option is invalid.
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
        swin_blocks: Literal['alternate', 'pair'] = 'alternate',
        text_guidance: Literal['cross', 'self'] | None = 'cross',
        own_word: bool = False,
        text_mlp_ratio: float = 0.0,
        block_index: int = 0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if swin_blocks not in ('alternate', 'pair'):
            raise ESCNetError(
                f"VisionLanguageFusion: swin_blocks={swin_blocks!r} must be 'alternate' or 'pair'."
            )
        if text_guidance not in ('cross', 'self', None):
            raise ESCNetError(
                f"VisionLanguageFusion: text_guidance={text_guidance!r} must be 'cross' (attention "
                "to the words, as in the paper), 'self' (over the classes, as in CAT-Seg) or None."
            )
        if own_word and text_guidance != 'cross':
            raise ESCNetError(
                "VisionLanguageFusion: own_word=True needs text_guidance='cross', not "
                f'{text_guidance!r}: remove own_word.'
            )
        self.embed_dims = embed_dims
        self.correlation_embed = nn.Linear(1, embed_dims)
        self.correlation_proj = nn.Linear(embed_dims, embed_dims)
        self.image_proj = (
            None if guidance_dims is None else nn.Linear(guidance_dims, embed_dims, bias=False)
        )
        shifted = (False, True) if swin_blocks == 'pair' else (block_index % 2 == 1,)
        self.swin = nn.ModuleList(
            SwinBlock(
                embed_dims,
                num_heads=num_heads,
                window_size=window_size,
                shift=window_size // 2 if shift else 0,
                mlp_ratio=mlp_ratio,
            )
            for shift in shifted
        )
        common = dict(
            embed_dims=embed_dims,
            text_dims=text_dims,
            num_heads=num_heads,
            mlp_ratio=text_mlp_ratio,
        )
        self.text_attention = self.class_attention = None
        if text_guidance == 'cross':
            self.text_attention = TextAttention(**common, own_word=own_word)
        elif text_guidance == 'self':
            self.class_attention = ClassAttention(**common)

    def forward(
        self,
        correlation: Tensor,
        embedding: Tensor | None,
        image_features: Tensor | None,
        text: Tensor,
        chunks: ClassChunks,
        counts: Tensor | None = None,
        vocabulary: Tensor | None = None,
    ) -> Tensor:
        """Refine the correlation embedding, in one pass over the classes.

        Args:
            correlation: Scalar correlation C_{t-1} (B, N, h, w).
            embedding: E_{t-1} (B, N, h, w, d), None in the first block; overwritten by E_t if no
                gradient is computed.
            image_features: F_v' (B, C, h, w); None without image guidance.
            text: F_l (N, D), unit norm.
            chunks: How many classes at a time.
            counts: How many classes each represents (N,); None for one.
            vocabulary: F_l (N', D) of all words that the classes attend to, if ``text`` has only
                some of them.

        Returns:
            E_t (B, N, h, w, d).
        """
        correlations = chunks.split(standardize(correlation, counts), dim=1)
        embeddings = (None,) * len(correlations)
        if embedding is not None:
            embeddings = chunks.split(embedding, dim=1)
        guidance = words = None
        if image_features is not None:
            guidance = self.image_proj(image_features.movedim(1, -1))[:, None]
        if self.text_attention is not None:
            words = self.text_attention.summarize(text if vocabulary is None else vocabulary)
        biases = [block.attention_bias(*correlation.shape[-2:]) for block in self.swin]
        x = chunks.collect(
            (
                chunks.run(self._refine, *some, guidance, biases, words)
                for some in zip(correlations, embeddings, chunks.split(text, dim=0), strict=True)
            ),
            num_classes=text.shape[0],  # not len(), which would fix it in an export
            out=embedding,
        )
        if self.class_attention is not None:  # needs a second pass
            x = self.class_attention(x, text, chunks, counts)
        return x

    def _refine(
        self,
        correlation: Tensor,
        embedding: Tensor | None,
        text: Tensor,
        guidance: Tensor | None,
        biases: Sequence[Tensor],
        words: WordSums | None,
    ) -> Tensor:
        """Image and text guidance for some classes (B, n, h, w): (B, n, h, w, d)."""
        x = self._see_image(correlation, embedding, guidance, biases)
        return x if words is None else self.text_attention(x, text, words)

    def _see_image(
        self,
        correlation: Tensor,
        embedding: Tensor | None,
        guidance: Tensor | None,
        biases: Sequence[Tensor],
    ) -> Tensor:
        """Embedding and image guidance of classes (B, n, h, w): C_v^n (B, n, h, w, d)."""
        x = self.correlation_embed(correlation[..., None])
        if embedding is not None:
            x = x + embedding
        fused = self.correlation_proj(x)
        if guidance is not None:
            fused = fused + guidance
        x = x + fused
        maps = x.flatten(0, 1)
        for block, bias in zip(self.swin, biases, strict=True):
            maps = block(maps, bias)
        return maps.unflatten(0, x.shape[:2])


def standardize(correlation: Tensor, counts: Tensor | None = None) -> Tensor:
    """Standardize each image's correlation to mean 0 and variance 1 over classes and positions.

    Args:
        correlation: (B, N, h, w).
        counts: How many classes each represents (N,); None for one.

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
