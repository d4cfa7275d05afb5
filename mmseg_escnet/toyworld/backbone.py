"""A miniature CLIP with a convolutional stem, to learn shapes from little data."""

from collections.abc import Sequence

import torch.nn as nn
from mmseg.registry import MODELS
from open_clip.transformer import VisionTransformer

from ..errors import ESCNetError
from ..models.backbones.open_clip import OpenCLIPBackbone


@MODELS.register_module()
class ToyCLIPBackbone(OpenCLIPBackbone):
    """:class:`OpenCLIPBackbone` with overlapping convolutions as patch embedding.

    The patch embedding of published CLIP models is one linear layer.

    Args:
        stem_channels: Channels of 3x3 convolutions with stride 2; a last one reduces the resolution
            to patches.
        trainable: As in :class:`OpenCLIPBackbone`; the stem is trained only with 'all'.
        kwargs: Other arguments of :class:`OpenCLIPBackbone`.

    Raises:
        ESCNetError: If the strides do not divide the patch size, channels are not multiples of 8,
            or the image tower is not open_clip's own vision transformer.
    """

    def __init__(
        self, *, stem_channels: Sequence[int], trainable: str = 'attention', **kwargs
    ) -> None:
        super().__init__(trainable=trainable, **kwargs)
        visual = self.clip.visual
        if not isinstance(visual, VisionTransformer):
            raise ESCNetError(
                'ToyCLIPBackbone needs a plain vision transformer of open_clip: use '
                'OpenCLIPBackbone for an EVA-02.'
            )
        visual.conv1 = _build_stem(stem_channels, visual.conv1)
        visual.conv1.requires_grad_(trainable == 'all')


class _Stem(nn.Sequential):
    out_channels: int  # read by the tower as its width


def _build_stem(channels: Sequence[int], patch_embedding: nn.Conv2d) -> _Stem:
    patch = patch_embedding.stride[0]
    if patch % 2 ** len(channels) or any(count < 1 or count % 8 for count in channels):
        raise ESCNetError(
            f'ToyCLIPBackbone: stem_channels={tuple(channels)} must be multiples of 8, and at most '
            f'as many as a patch of {patch} pixels can be halved.'
        )
    layers, width = [], patch_embedding.in_channels
    for out_channels in channels:
        layers += [
            nn.Conv2d(width, out_channels, 3, stride=2, padding=1),
            nn.GroupNorm(8, out_channels),
            nn.GELU(),
        ]
        width = out_channels
    rest = patch // 2 ** len(channels)
    layers.append(nn.Conv2d(width, patch_embedding.out_channels, 3, stride=rest, padding=1))
    stem = _Stem(*layers)
    stem.out_channels = patch_embedding.out_channels
    return stem
