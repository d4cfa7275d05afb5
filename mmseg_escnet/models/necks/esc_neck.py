"""The sequence of ESC blocks.

Shapes: B images, N classes, n of them at a time, h x w patch grid, D CLIP joint width, C SAM width,
d correlation embedding width, T blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch.nn as nn
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor
from torch.profiler import record_function

from ...errors import ESCNetError
from ..backbones import DenseFeatures
from ..layers import ClassChunks
from ..sam_weights import load_sam_decoder
from .pseudo_prompt_generator import PseudoPrompts


@dataclass
class ESCBlockOutput:
    """Output of an ESC block.

    Attributes:
        read: C_{t-1} (B, N, h, w), the input of the block.
        correlation: C_t (B, N, h, w); equal to C_{t-1} in the last block.
        embedding: E_t (B, N, h, w, d).
        prompts: The pseudo prompts from C_{t-1}; None without a SAM block.
        image_features: F_v' (B, C, h, w) of the SAM block; the projected F_v without a SAM block,
            None without image guidance.
    """

    read: Tensor
    correlation: Tensor
    embedding: Tensor
    prompts: PseudoPrompts | None
    image_features: Tensor | None


@dataclass
class ESCFeatures:
    """Output of the neck, input of the decode head.

    Attributes:
        embedding: E_T (B, N, h, w, d).
        correlation_logits: C_T times CLIP's logit scale (B, N, h, w).
        image: F_v (B, D, h, w).
        skips: The two CLIP skips, shallow first, each (B, W, h, w) with CLIP's width W.
        chunks: How many classes at a time.
        blocks: The output of every block, if requested.
    """

    embedding: Tensor
    correlation_logits: Tensor
    image: Tensor
    skips: tuple[Tensor, ...]
    chunks: ClassChunks
    blocks: list[ESCBlockOutput] = field(default_factory=list)

    def first(self, num_classes: int) -> ESCFeatures:
        """The features of the first classes only."""
        return replace(
            self,
            embedding=self.embedding[:, :num_classes],
            correlation_logits=self.correlation_logits[:, :num_classes],
        )


class ESCBlock(BaseModule):
    """PPG -> SAM block -> VLF (paper, section 3.1).

    ::

        C_{t-1} --PPG--> pseudo prompts --+
        F_v ------------------------------+--SAM block--> F_v'
        C_{t-1}, E_{t-1}, F_v', F_l --VLF--> E_t
        C_t = C_{t-1} + conv1x1(E_t)      (zero-initialised: starts from CLIP's own map)

    The next block's PPG reads the scalar map C_t. As PPG has no gradient, C_t also enters the next
    VLF. The last block has no such convolution (ours).

    Args:
        image_dims: CLIP joint width D.
        fusion: Config of the vision-language fusion.
        sam_block: Config of the SAM block; None for a 1x1 convolution of F_v to ``guidance_dims``
            channels instead (ablation).
        guidance_dims: Width C of F_v' without a SAM block.
        image_guidance: Whether VLF reads F_v'. Without it there is no SAM block (ablation).
        index: Number of this block, from 0.
        last: Whether this is the last block.
    """

    def __init__(
        self,
        *,
        image_dims: int,
        fusion: dict,
        sam_block: dict | None,
        guidance_dims: int,
        image_guidance: bool,
        index: int,
        last: bool,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.sam_block = self.image_proj = None
        if image_guidance and sam_block is not None:
            self.sam_block = MODELS.build(
                sam_block, default_args=dict(image_dims=image_dims, block_index=index)
            )
            guidance_dims = self.sam_block.embed_dims
        elif image_guidance:
            self.image_proj = nn.Conv2d(image_dims, guidance_dims, 1)
        self.fusion = MODELS.build(
            fusion,
            default_args=dict(
                text_dims=image_dims,
                guidance_dims=guidance_dims if image_guidance else None,
                block_index=index,
            ),
        )
        # without a bias: a constant in C_t changes neither PPG nor VLF
        self.correlation_update = None if last else nn.Linear(self.fusion.embed_dims, 1, bias=False)
        if not last:
            nn.init.zeros_(self.correlation_update.weight)

    def forward(
        self,
        correlation: Tensor,
        embedding: Tensor | None,
        image_features: Tensor,
        text: Tensor,
        logit_scale: Tensor,
        prompt_generator: nn.Module,
        prompt_encoder: nn.Module | None,
        chunks: ClassChunks,
        counts: Tensor | None = None,
        vocabulary: Tensor | None = None,
    ) -> ESCBlockOutput:
        """Refine the correlation.

        Args:
            correlation: C_{t-1} (B, N, h, w).
            embedding: E_{t-1} (B, N, h, w, d), None in the first block; overwritten by E_t if no
                gradient is computed.
            image_features: F_v (B, D, h, w).
            text: F_l (N, D), unit norm.
            logit_scale: CLIP's, a scalar.
            prompt_generator: The PPG; it has no parameters and is shared by the blocks.
            prompt_encoder: SAM's, frozen and shared by the blocks.
            chunks: How many classes at a time.
            counts: How many classes each represents (N,); None for one.
            vocabulary: F_l (N', D) of all words that the classes attend to, if ``text`` has only
                some of them.
        """
        prompts = guidance = None
        if self.sam_block is not None:
            with record_function('escnet/ppg'):
                prompts = prompt_generator(correlation, logit_scale)
            guidance = self._understand(image_features, prompts, prompt_encoder, chunks, counts)
        elif self.image_proj is not None:
            guidance = self.image_proj(image_features)
        with record_function('escnet/vlf'):
            embedding = self.fusion(
                correlation, embedding, guidance, text, chunks, counts, vocabulary
            )
            read = correlation
            if self.correlation_update is not None:
                correlation = correlation + self.correlation_update(embedding).squeeze(-1)
        return ESCBlockOutput(read, correlation, embedding, prompts, guidance)

    def _understand(
        self,
        image_features: Tensor,
        prompts: PseudoPrompts,
        prompt_encoder: nn.Module,
        chunks: ClassChunks,
        counts: Tensor | None,
    ) -> Tensor:
        """F_v' (B, C, h, w)."""
        image = self.sam_block.image_proj(image_features)
        position = prompt_encoder.position_encoding(*image_features.shape[-2:])
        weights = self.sam_block.class_weights(prompts.presence, counts)

        def decode(part: PseudoPrompts, weights: Tensor) -> Tensor:
            with record_function('escnet/prompts'):
                sparse, dense = prompt_encoder(part)
            with record_function('escnet/sam'):
                return self.sam_block(image, sparse, dense, position, weights)

        parts = (
            chunks.run(decode, part, weight)
            for part, weight in zip(
                prompts.split(chunks), chunks.split(weights, dim=1), strict=True
            )
        )
        return self.sam_block.fuse(sum(parts))


@MODELS.register_module()
class ESCNeck(BaseModule):
    """T = 4 ESC blocks in sequence (paper, section 3.1).

    Args:
        image_dims: CLIP joint width D; set by the segmentor from the built backbone.
        num_blocks: T.
        prompt_generator: Config of the pseudo prompt generator.
        prompt_encoder: Config of SAM's prompt encoder.
        sam_block: Config of the SAM block; None for none (ablation).
        fusion: Config of the vision-language fusion.
        guidance_dims: Width of the projected F_v without a SAM block.
        image_guidance: Whether the fusion reads F_v' (ablation).
        sam_pretrained: SAM checkpoint (official, or the extracted decoder part), as a path or
            URL, loaded by ``init_weights()`` into the prompt encoder and every SAM block; None for
            random weights.
        with_cp: Recompute each chunk of classes in the backward pass instead of keeping its
            activations.
    """

    def __init__(
        self,
        *,
        image_dims: int,
        fusion: dict,
        prompt_generator: dict,
        prompt_encoder: dict,
        sam_block: dict | None,
        num_blocks: int = 4,
        guidance_dims: int = 256,
        image_guidance: bool = True,
        sam_pretrained: str | None = None,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_blocks < 1:
            raise ESCNetError(f'ESCNeck: num_blocks={num_blocks} must be at least 1.')
        self.sam_pretrained = sam_pretrained
        self.with_cp = with_cp
        self.blocks = nn.ModuleList(
            ESCBlock(
                image_dims=image_dims,
                fusion=fusion,
                sam_block=sam_block,
                guidance_dims=guidance_dims,
                image_guidance=image_guidance,
                index=index,
                last=index == num_blocks - 1,
            )
            for index in range(num_blocks)
        )
        self.prompt_generator = self.prompt_encoder = None
        if any(block.sam_block is not None for block in self.blocks):
            self.prompt_generator = MODELS.build(prompt_generator)
            self.prompt_encoder = MODELS.build(prompt_encoder)
            widths = (self.prompt_encoder.encoder.embed_dim, self.blocks[0].sam_block.embed_dims)
            if widths[0] != widths[1]:
                raise ESCNetError(
                    f'ESCNeck: embed_dims of prompt_encoder ({widths[0]}) and sam_block '
                    f'({widths[1]}) must be equal.'
                )
        self.embed_dims = self.blocks[0].fusion.embed_dims

    def init_weights(self) -> None:
        """Load SAM's weights.

        Raises:
            ESCNetError: If the file is missing, damaged, or does not fit.
        """
        super().init_weights()
        if self.sam_pretrained is not None and self.prompt_encoder is not None:
            load_sam_decoder(
                self.sam_pretrained,
                prompt_encoder=self.prompt_encoder.encoder,
                transformer_layers=[block.sam_block.layers for block in self.blocks],
                depth=self.blocks[0].sam_block.depth,
            )

    def forward(
        self,
        features: DenseFeatures,
        correlation: Tensor,
        text: Tensor,
        logit_scale: Tensor,
        class_chunk: int | Literal['auto', 'all'] = 'auto',
        counts: Tensor | None = None,
        vocabulary: Tensor | None = None,
        keep_blocks: bool = False,
    ) -> ESCFeatures:
        """Refine CLIP's correlation map.

        Args:
            features: Dense CLIP features F_v and skips.
            correlation: C_0 (B, N, h, w).
            text: F_l (N, D), unit norm.
            logit_scale: CLIP's, a scalar.
            class_chunk: Classes at a time, see :meth:`.ClassChunks.create`; the result does not
                depend on it.
            counts: How many classes each represents (N,), for a shortlist; None for one.
            vocabulary: F_l (N', D) of all words that the classes attend to, if ``text`` has only
                some of them.
            keep_blocks: Also return the output of every block.
        """
        chunks = ClassChunks.create(
            class_chunk,
            num_tokens=correlation[:, 0].numel(),
            device=correlation.device,
            recompute=self.with_cp and self.training,
        )
        embedding, kept = None, []
        for block in self.blocks:
            output = block(
                correlation,
                embedding,
                features.image,
                text,
                logit_scale,
                self.prompt_generator,
                self.prompt_encoder,
                chunks,
                counts,
                vocabulary,
            )
            correlation, embedding = output.correlation, output.embedding
            if keep_blocks:
                kept.append(replace(output, embedding=embedding.clone()))
        return ESCFeatures(
            embedding=embedding,
            correlation_logits=correlation * logit_scale.detach(),
            image=features.image,
            skips=features.skips,
            chunks=chunks,
            blocks=kept,
        )
