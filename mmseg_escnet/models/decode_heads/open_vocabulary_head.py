"""U-Net decoder from correlation embeddings to logits for any number of classes.

Shapes: B images, N classes, n of them at a time, h x w patch grid, d correlation embedding width,
W CLIP width.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from ..necks.esc_neck import ESCFeatures

_CHANNELS_PER_GROUP = 16


class UpsampleStage(nn.Module):
    """Double the resolution of every class's map and merge a skip shared by all classes.

    Bilinear upsampling and a 3x3 convolution of the concatenated map and skip (paper). That is the
    sum of two convolutions, so the skip half is computed once per image instead of once per class.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result; a norm group has gcd(16, out_channels) channels.
        skip_dims: Width W of the CLIP skip.
        skip_channels: Channels of the skip after a 1x1 convolution.
        skip_scale: Scale from the patch grid to this stage's resolution.
        num_convs: 3x3 convolutions, the first of which reads the skip.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        skip_dims: int,
        skip_channels: int,
        skip_scale: int,
        num_convs: int,
    ) -> None:
        super().__init__()
        groups = out_channels // gcd(out_channels, _CHANNELS_PER_GROUP)
        self.up = nn.Upsample(scale_factor=2, mode='bilinear')
        # cheaper in this order, with the same result
        self.skip_up = nn.Sequential(
            nn.Conv2d(skip_dims, skip_channels, 1),
            nn.Upsample(scale_factor=skip_scale, mode='bilinear'),
        )
        self.conv_map = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv_skip = nn.Conv2d(skip_channels, out_channels, 3, padding=1, bias=False)
        self.refine = nn.Sequential(nn.GroupNorm(groups, out_channels), nn.ReLU(inplace=True))
        for _ in range(num_convs - 1):
            self.refine.extend(
                [
                    nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                    nn.GroupNorm(groups, out_channels),
                    nn.ReLU(inplace=True),
                ]
            )

    def read_skip(self, skip: Tensor) -> Tensor:
        """Skip half (B, out_channels, 2sh, 2sw), computed from the CLIP skip (B, W, h, w)."""
        return self.conv_skip(self.skip_up(skip))

    def forward(self, x: Tensor, from_skip: Tensor) -> Tensor:
        """Upsample once.

        Args:
            x: Maps (B * n, in_channels, s * h, s * w).
            from_skip: From :meth:`read_skip`.

        Returns:
            Maps (B * n, out_channels, 2 * s * h, 2 * s * w).
        """
        from_map = self.conv_map(self.up(x)).unflatten(0, (len(from_skip), -1))
        return self.refine((from_map + from_skip[:, None]).flatten(0, 1))


@MODELS.register_module()
class OpenVocabularyHead(BaseDecodeHead):
    """U-Net style decoder with weights shared by all classes (paper, section 3.5).

    ::

        E_T --x2, skip of 2n/3--> --x2, skip of n/3--> --conv3x3--> logits (B, N, 4h, 4w)

    There are no per-class weights: the segmentor sets ``num_classes`` and ``out_channels`` to the
    size of the vocabulary. ``loss_decode`` can be any of MMSegmentation's losses that take any
    number of classes; by default cross-entropy over the classes without ignored pixels (paper).
    With several processes the loss is the mean over the labelled pixels of all of them, as for one
    process with all images (ours).

    Args:
        in_channels: Width d of the correlation embedding; set by the segmentor.
        skip_dims: Widths of the two CLIP skips, shallow first; set by the segmentor.
        stage_channels: Channels after the first and second upsampling (recipe: 64, 32).
        skip_channels: Channels of the corresponding skips (recipe: 32, 16).
        num_convs: 3x3 convolutions after each upsampling (ours: one).
        residual: Add the last block's correlation times CLIP's logit scale to the logits, and
            zero-initialise the last convolution, so that an untrained network predicts CLIP's own
            map (ours; off, as the paper does not mention it).
        loss_decode: Config of the loss or losses.
        **kwargs: Further arguments of MMSegmentation's BaseDecodeHead, such as ``ignore_index``.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        skip_dims: Sequence[int],
        stage_channels: Sequence[int] = (64, 32),
        skip_channels: Sequence[int] = (32, 16),
        num_convs: int = 1,
        residual: bool = False,
        loss_decode: dict | Sequence[dict] = dict(  # noqa: B006  (read only)
            type='CrossEntropyLoss', avg_non_ignore=True
        ),
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        # two classes as a placeholder for the unknown vocabulary; no size depends on them
        super().__init__(
            in_channels=in_channels,
            channels=stage_channels[-1],
            num_classes=2,
            out_channels=2,
            dropout_ratio=0,
            loss_decode=loss_decode,
            init_cfg=init_cfg,
            **kwargs,
        )
        del self.conv_seg  # a classifier with per-class weights
        self.num_classes = self.out_channels = 0
        widths = (in_channels, *stage_channels)
        self.stages = nn.ModuleList(
            UpsampleStage(
                in_channels=widths[index],
                out_channels=widths[index + 1],
                skip_dims=skip_dims[-1 - index],
                skip_channels=skip_channels[index],
                skip_scale=2 ** (index + 1),
                num_convs=num_convs,
            )
            for index in range(len(stage_channels))
        )
        self.predict_logits = nn.Conv2d(stage_channels[-1], 1, 3, padding=1)
        self.residual = residual
        if residual:
            nn.init.zeros_(self.predict_logits.weight)
            nn.init.zeros_(self.predict_logits.bias)

    def forward(self, inputs: ESCFeatures) -> Tensor:
        """Decode.

        Args:
            inputs: The neck's output.

        Returns:
            Logits (B, N, 4h, 4w).
        """
        from_skips = [
            stage.read_skip(skip)
            for stage, skip in zip(self.stages, reversed(inputs.skips), strict=True)
        ]
        chunks, embedding = inputs.chunks, inputs.embedding
        logits = chunks.collect(
            (chunks.run(self._decode, part, from_skips) for part in chunks.split(embedding, dim=1)),
            num_classes=embedding.shape[1],
        )
        if self.residual:
            logits = logits + F.interpolate(
                inputs.correlation_logits,
                logits.shape[-2:],
                mode='bilinear',
                align_corners=self.align_corners,
            )
        return logits

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses and accuracy of this process.

        Distributed training averages gradients over processes, which gives a mean of means. A loss
        that averages over labelled pixels (``avg_non_ignore``) is therefore weighted by this
        process's share of them, so that the result is the mean over those of all processes.

        Args:
            seg_logits: (B, N, 4h, 4w).
            batch_data_samples: B samples with ``gt_sem_seg``.

        Returns:
            Losses by name, and ``acc_seg``.
        """
        losses = super().loss_by_feat(seg_logits, batch_data_samples)
        if get_world_size() > 1:
            weight = self._share_of_labelled(batch_data_samples, seg_logits.device)
            modules = self.loss_decode
            modules = modules if isinstance(modules, nn.ModuleList) else [modules]
            means = [loss for loss in modules if getattr(loss, 'avg_non_ignore', False)]
            for name in {loss.loss_name for loss in means}:
                losses[name] = losses[name] * weight
        return losses

    def _share_of_labelled(self, samples: SampleList, device: torch.device) -> Tensor:
        """Number of labelled pixels of this process, relative to the mean over all processes."""
        labels = (sample.gt_sem_seg.data for sample in samples)
        own = sum((label != self.ignore_index).sum() for label in labels).to(device).double()
        mean = own.clone()
        all_reduce(mean, op='mean')
        return (own / mean.clamp(min=1)).float()

    def _decode(self, embedding: Tensor, from_skips: Sequence[Tensor]) -> Tensor:
        """Logits (B, n, 4h, 4w) of some classes (B, n, h, w, d), without the residual."""
        x = embedding.flatten(0, 1).permute(0, 3, 1, 2)
        for stage, from_skip in zip(self.stages, from_skips, strict=True):
            x = stage(x, from_skip)
        return self.predict_logits(x).squeeze(1).unflatten(0, embedding.shape[:2])
