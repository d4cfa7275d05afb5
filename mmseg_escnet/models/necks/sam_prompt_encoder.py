"""SAM's prompt encoder, applied to pseudo prompts.

Shapes: B images, N classes, h x w patch grid, K objects per class, C SAM width, M = B * N.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from segment_anything.modeling import PromptEncoder
from torch import Tensor

from ...errors import ESCNetError
from .pseudo_prompt_generator import PseudoPrompts

PROMPT_KINDS = ('points', 'boxes', 'masks')
# SAM's input size; coordinates are divided by it again, so any value gives the same encoding
_SAM_IMAGE_SIZE = 1024
# SAM's mask downscaling reads masks at four times the resolution of the image tokens
_MASK_SCALE = 4
# clamps mask logits to +-9.2, so that pixels outside an object are not minus infinity
_MASK_PROBABILITY_EPS = 1e-4


@MODELS.register_module()
class SAMPromptEncoder(BaseModule):
    """SAM's frozen prompt encoder (paper, section 3.3), shared by all ESC blocks (ours).

    ::

        K points or boxes --PromptEncoder--> sparse embeddings
        K masks --logit, x4--> mask_downscaling --mean over valid objects--> dense embedding

    An invalid object is encoded as SAM's "not a point" and excluded from the mean of the masks;
    without any mask, SAM's ``no_mask_embed`` is the dense embedding.

    Args:
        embed_dims: SAM width C.
        mask_channels: Hidden channels of the mask downscaling (SAM: 16).
        prompts: Prompts to use: a non-empty subset of 'points', 'boxes' and 'masks'.
        mask_as_logits: Pass masks as logits, on which SAM was trained (ours), instead of
            probabilities.
    """

    def __init__(
        self,
        *,
        embed_dims: int = 256,
        mask_channels: int = 16,
        prompts: Sequence[str] = ('points', 'masks'),
        mask_as_logits: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        if not prompts or not set(prompts) <= set(PROMPT_KINDS):
            raise ESCNetError(
                f'SAMPromptEncoder: prompts={prompts!r} must be a non-empty subset of '
                f'{PROMPT_KINDS}.'
            )
        self.prompts = prompts
        self.mask_as_logits = mask_as_logits
        # this grid only sizes unused buffers: any grid can be encoded
        self.encoder = PromptEncoder(
            embed_dim=embed_dims,
            image_embedding_size=(1, 1),
            input_image_size=(_SAM_IMAGE_SIZE, _SAM_IMAGE_SIZE),
            mask_in_chans=mask_channels,
        )
        self.encoder.requires_grad_(False)

    def position_encoding(self, height: int, width: int) -> Tensor:
        """SAM's positional encoding of the image tokens, (1, C, h, w), for any grid."""
        with torch.autocast(self._device_type, enabled=False):  # sines of large angles
            return self.encoder.pe_layer((height, width))[None]

    def forward(self, prompts: PseudoPrompts) -> tuple[Tensor, Tensor]:
        """Encode the prompts of all classes.

        Args:
            prompts: From the pseudo prompt generator.

        Returns:
            Sparse embeddings (M, number of tokens, C) and dense embeddings (M, C, h, w), or
            (M, C, 1, 1), to be broadcast, without masks.
        """
        with torch.autocast(self._device_type, enabled=False):  # sines of large angles
            sparse = self._encode_sparse(prompts)
        if 'masks' in self.prompts:
            dense = self._encode_masks(prompts)
        else:
            dense = self._no_mask(sparse.shape[0])
        return sparse, dense

    @property
    def _device_type(self) -> str:
        return self.encoder.no_mask_embed.weight.device.type

    def _no_mask(self, batch: int) -> Tensor:
        return self.encoder.no_mask_embed.weight[..., None, None].expand(batch, -1, 1, 1)

    def _encode_sparse(self, prompts: PseudoPrompts) -> Tensor:
        tokens = []
        if 'points' in self.prompts or 'boxes' not in self.prompts:
            points = prompts.points.flatten(0, 1)
            valid = prompts.valid.flatten(0, 1)
            if 'points' not in self.prompts:
                # masks only: SAM's decoder needs a token, here a single "not a point"
                points, valid = points[:, :0], valid[:, :0]
            # PromptEncoder adds half a pixel; our coordinates are exact
            coordinates = points * _SAM_IMAGE_SIZE - 0.5
            labels = torch.where(valid, 1, -1)  # 1: foreground point, -1: not a point
            padded, _ = self.encoder(points=(coordinates, labels), boxes=None, masks=None)
            # SAM appends one "not a point" to the points, unless there are boxes
            tokens.append(padded[:, :-1] if 'boxes' in self.prompts else padded)
        if 'boxes' in self.prompts:
            tokens.append(self._encode_boxes(prompts))
        return torch.cat(tokens, dim=1)

    def _encode_boxes(self, prompts: PseudoPrompts) -> Tensor:
        valid = prompts.valid.flatten()
        boxes = mask_boxes(prompts.masks.flatten(0, 2) > 0) * _SAM_IMAGE_SIZE - 0.5
        corners, _ = self.encoder(points=None, boxes=boxes, masks=None)  # (M * K, 2, C)
        corners = torch.where(valid[:, None, None], corners, self.encoder.not_a_point_embed.weight)
        return corners.view(prompts.valid.flatten(0, 1).shape[0], -1, corners.shape[-1])

    def _encode_masks(self, prompts: PseudoPrompts) -> Tensor:
        valid = prompts.valid.flatten(0, 1)
        masks = prompts.masks.flatten(0, 1).masked_fill(~valid[..., None, None], 0)  # (M, K, h, w)
        num_maps, num_objects, height, width = masks.shape
        if self.mask_as_logits:
            masks = masks.clamp(_MASK_PROBABILITY_EPS, 1 - _MASK_PROBABILITY_EPS).logit()
        masks = F.interpolate(masks, scale_factor=_MASK_SCALE, mode='bilinear', align_corners=False)
        *hidden_layers, projection = self.encoder.mask_downscaling
        hidden = masks.flatten(0, 1)[:, None]
        for layer in hidden_layers:
            hidden = layer(hidden)
        hidden = hidden.view(num_maps, num_objects, -1, height, width)
        weight = valid.to(hidden.dtype)
        count = weight.sum(1)
        weight = weight / count.clamp(min=1)[:, None]
        # the last layer is linear, so average before it: the same result for 1 / K of the work
        pooled = torch.einsum('mkchw,mk->mchw', hidden, weight)
        # a class without masks has zeros here, which an extra channel turns into no_mask_embed
        without = (count == 0).to(hidden.dtype)[:, None, None, None].expand(-1, 1, height, width)
        pooled = torch.cat([pooled, without], dim=1)
        no_mask = self.encoder.no_mask_embed.weight[0] - projection.bias
        weight = torch.cat([projection.weight, no_mask[:, None, None, None]], dim=1)
        # channels last, as SAM's transformer reads positions as tokens
        return F.conv2d(
            pooled.contiguous(memory_format=torch.channels_last), weight, projection.bias
        )


def mask_boxes(masks: Tensor) -> Tensor:
    """The tight bounding boxes of masks.

    Args:
        masks: (M, h, w) bool.

    Returns:
        (M, 4) boxes (left, top, right, bottom) in [0, 1] image coordinates, at pixel edges; the
        whole image for an empty mask.
    """

    def extent(line: Tensor) -> tuple[Tensor, Tensor]:
        size = line.shape[1]
        line = line.float()
        first, last = line.argmax(1), size - 1 - line.flip(1).argmax(1)
        return first / size, (last + 1) / size

    left, right = extent(masks.any(1))
    top, bottom = extent(masks.any(2))
    return torch.stack([left, top, right, bottom], dim=1)
