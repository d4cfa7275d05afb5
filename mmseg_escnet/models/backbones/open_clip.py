"""Dense image features from an unmodified open_clip model.

Shapes: B images, h x w patch grid, L = h * w, W CLIP width, D CLIP joint width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import open_clip
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from open_clip.transformer import TextTransformer
from timm.models.eva import EvaBlock
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...errors import ESCNetError
from ..clip_weights import load_clip, resize_positions, set_activation
from .towers import EvaTower, PlainTower, eva_value_path, tower_type

_TRAINABLE = ('attention', 'all', 'none')
_READOUTS = ('value', 'correlative', 'attention')


@dataclass
class DenseFeatures:
    """Output of the backbone for a batch of images.

    Attributes:
        image: F_v (B, D, h, w), in the joint image-text space, not normalised.
        skips: Outputs of the blocks at one third and two thirds of the depth, each (B, W, h, w).
    """

    image: Tensor
    skips: tuple[Tensor, ...]


@MODELS.register_module()
class OpenCLIPBackbone(BaseModule):
    """Both towers of an open_clip model; its forward pass computes dense image features.

    ::

        image --resize--> --patches, norm--> blocks 1 .. n-1 --> last block, by readout
              --norm, projection--> F_v           |
                                                  +--> skips at n/3 and 2n/3

    The last block is read out in one of three ways, and the class token is dropped:

    * 'value' (CAT-Seg's recipe, after MaskCLIP): the attention is replaced by its value path, so
      every patch keeps its own content: ``v = out_proj(W_v ln_1(x) + b_v)``, ``x = x + v``,
      ``x = x + mlp(ln_2(x))``.
    * 'correlative' (SCLIP, arXiv 2312.01597): softmax(q q^T) + softmax(k k^T) instead of
      softmax(q k^T), so every patch attends to similar ones.
    * 'attention': the block as in CLIP.

    Positional embeddings are resized to any grid, including non-square ones, by plain bicubic
    interpolation (recipe); rotary embeddings are computed for the grid.

    The image tower is open_clip's own vision transformer or timm's EVA, as in EVA-02-CLIP (ours).
    EVA's value path includes the inner norm and the layer scale. The text tower is ``clip.text``,
    called by the text encoder.

    Args:
        model_name: open_clip's name of an architecture with a plain vision transformer or EVA-02.
        model_cfg: Instead of a name, the keyword arguments of ``open_clip.CustomTextCLIP``.
        pretrained: open_clip tag ('openai'), local file, or None for random weights; loaded by
            ``init_weights()``, never by the constructor.
        activation: 'auto' takes QuickGELU or GELU from the weights; 'quick_gelu' or 'gelu' for a
            file that does not specify it. EVA has GELU in its text tower, SwiGLU in the other.
        readout: Of the last block: 'value' (recipe), 'correlative' or 'attention'.
        stride: Image pixels per patch. Images are resized so that a patch of any CLIP covers that
            many: 384 x 384 px give 24 x 24 patches for ViT-B/16 and, resized to 336, for
            ViT-L/14 (recipe).
        trainable: Which parameters of both towers are trained: their 'attention' layers (paper),
            'all' or 'none'. Always frozen are the logit scale, and separate queries and keys of the
            last block if the read-out does not use them.
        with_cp: Recompute each block in the backward pass instead of keeping its activations.

    Raises:
        ESCNetError: If the architecture is unknown or dense features are not defined for it.
    """

    def __init__(
        self,
        *,
        model_name: str | None = None,
        model_cfg: dict | None = None,
        pretrained: str | None = None,
        activation: Literal['auto', 'quick_gelu', 'gelu'] = 'auto',
        readout: Literal['value', 'correlative', 'attention'] = 'value',
        stride: int = 16,
        trainable: Literal['attention', 'all', 'none'] = 'attention',
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if (model_name is None) == (model_cfg is None):
            raise ESCNetError(
                'OpenCLIPBackbone: give either model_name (an open_clip architecture) or model_cfg '
                '(the arguments of open_clip.CustomTextCLIP).'
            )
        if activation not in ('auto', 'quick_gelu', 'gelu'):
            raise ESCNetError(
                f"OpenCLIPBackbone: activation={activation!r} must be 'auto', 'quick_gelu' or "
                "'gelu'."
            )
        if readout not in _READOUTS:
            raise ESCNetError(f'OpenCLIPBackbone: readout={readout!r} must be in {_READOUTS}.')
        if trainable not in _TRAINABLE:
            raise ESCNetError(f'OpenCLIPBackbone: trainable={trainable!r} must be in {_TRAINABLE}.')
        if model_cfg is None:
            model_cfg = open_clip.get_model_config(model_name)
            if model_cfg is None:
                raise ESCNetError(
                    f'open_clip has no architecture {model_name!r}: choose one of '
                    'open_clip.list_models(), for instance ViT-B-16.'
                )
        if 'multimodal_cfg' in model_cfg or 'hf_model_name' in model_cfg.get('text_cfg', {}):
            raise ESCNetError(
                f"The text tower of {model_name or model_cfg} is not CLIP's own (it captions, or "
                'comes from another library): choose an architecture such as ViT-B-16.'
            )
        model_cfg = {key: value for key, value in model_cfg.items() if key != 'custom_text'}
        vision_cfg = model_cfg.get('vision_cfg', {})
        if (timm_name := vision_cfg.get('timm_model_name')) is not None:
            if not timm.is_model(timm_name):  # it may even be an address
                raise ESCNetError(
                    f'timm has no model {timm_name!r}: choose another timm_model_name, for '
                    'instance eva02_base_patch16_clip_224.'
                )
            model_cfg['vision_cfg'] = dict(vision_cfg, timm_model_pretrained=False)
        self.model_name = model_name
        self.pretrained = pretrained
        self.activation = activation
        self.stride = stride
        self.with_cp = with_cp
        self.clip = open_clip.CustomTextCLIP(**model_cfg)
        kind = tower_type(self.clip.visual)
        if kind is None:
            raise ESCNetError(
                f'The image tower of {model_name or model_cfg} is neither a plain vision '
                "transformer of open_clip nor timm's pre-norm EVA-02, the only ones with a dense "
                'value path: choose an architecture such as ViT-B-16 or EVA02-B-16.'
            )
        if readout == 'correlative' and kind is EvaTower:
            raise ESCNetError(
                "OpenCLIPBackbone: readout='correlative' is defined for CLIP's plain vision "
                "transformer, not for an EVA-02: use 'value' or 'attention'."
            )
        self._tower_type = kind
        self.readout = readout
        _check_text_tower(self.clip.text, model_name or model_cfg)
        quick_gelu = activation == 'quick_gelu' or (
            activation == 'auto' and bool(model_cfg.get('quick_gelu', False))
        )
        if quick_gelu and kind is EvaTower:
            raise ESCNetError(
                'OpenCLIPBackbone: QuickGELU (activation or model_cfg.quick_gelu) cannot be used '
                "with EVA-02, which was trained with GELU: set activation='auto'."
            )
        # in the state dict, so that a checkpoint records the activation of its weights
        self.register_buffer('quick_gelu', torch.tensor(quick_gelu))
        set_activation(self.clip, quick_gelu)
        tower = self.tower
        self.embed_dims = self.clip.text.output_dim
        depth = len(tower.blocks)
        if depth < 3:
            raise ESCNetError(
                f'The image tower of {model_name or model_cfg} has {depth} layers, but the skips '
                'at one and two thirds of the depth need at least 3: choose a deeper one.'
            )
        self.skip_layers = (round(depth / 3), round(2 * depth / 3))  # 1-based
        self.skip_dims = (tower.width,) * len(self.skip_layers)
        for name, parameter in self.clip.named_parameters():
            parameter.requires_grad = name != 'logit_scale' and (
                trainable == 'all' or (trainable == 'attention' and '.attn.' in name)
            )
        if readout == 'value':
            for parameter in tower.unread():
                parameter.requires_grad = False

    def init_weights(self) -> None:
        """Load CLIP's weights, if any are configured: see :meth:`load_pretrained`."""
        super().init_weights()
        self.load_pretrained()

    def load_pretrained(self) -> None:
        """Load CLIP's weights and set their activation.

        Raises:
            ESCNetError: If the weights are missing, damaged or do not fit, or their activation is
                unknown.
        """
        if self.pretrained is not None:
            quick_gelu = load_clip(
                self.clip,
                model_name=self.model_name,
                pretrained=str(self.pretrained),
                activation=self.activation,
            )
            self.quick_gelu.fill_(quick_gelu)
            set_activation(self.clip, quick_gelu)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        set_activation(self.clip, bool(self.quick_gelu))

    @property
    def tower(self) -> PlainTower | EvaTower:
        """The image tower."""
        return self._tower_type(self.clip.visual)

    @property
    def logit_scale(self) -> Tensor:
        """CLIP's logit scale, about 100 once trained; a scalar."""
        return self.clip.logit_scale.exp()

    def grid_size(self, height: int, width: int) -> tuple[int, int]:
        """The patch grid (h, w) of an image of that size in pixels."""
        return max(1, round(height / self.stride)), max(1, round(width / self.stride))

    def forward(self, images: Tensor) -> DenseFeatures:
        """Dense CLIP features.

        Args:
            images: (B, 3, H, W) RGB, normalised with CLIP's mean and standard deviation.
        """
        tower = self.tower
        x, skips = self.penultimate(images)
        height, width = self.grid_size(*images.shape[-2:])
        last = tower.blocks[-1]
        if self.readout == 'value':
            x = value_path(last, x[:, 1:])
        elif self.readout == 'correlative':
            x = correlative_attention(last, x)[:, 1:]
        else:
            x = last(x, *tower.rotary(height, width))[:, 1:]
        return DenseFeatures(image=self._to_map(tower.project(x), height, width), skips=skips)

    def penultimate(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Input of the last block, and the skips.

        Args:
            images: (B, 3, H, W) RGB, normalised with CLIP's mean and standard deviation.

        Returns:
            Class token and patch tokens (B, 1 + L, W); the two skips, each (B, W, h, w).
        """
        tower = self.tower
        height, width = self.grid_size(*images.shape[-2:])
        patch_height, patch_width = tower.patch_size
        size = (height * patch_height, width * patch_width)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode='bilinear', align_corners=False)
        x = tower.patches(images)
        class_token = tower.class_token.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([class_token, x], dim=1)
        x = tower.norm_pre(x + self._positional_embedding(height, width).to(x.dtype))
        rotary = tower.rotary(height, width)
        skips = []
        for index, block in enumerate(tower.blocks[:-1], start=1):
            if self.with_cp and self.training:
                x = checkpoint(block, x, *rotary, use_reentrant=False)
            else:
                x = block(x, *rotary)
            if index in self.skip_layers:
                skips.append(self._to_map(x[:, 1:], height, width))
        return x, tuple(skips)

    @staticmethod
    def _to_map(tokens: Tensor, height: int, width: int) -> Tensor:
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    def _positional_embedding(self, height: int, width: int) -> Tensor:
        """(1, 1 + L, W) positional embeddings on an h x w grid."""
        tower = self.tower
        return resize_positions(tower.positions, tower.grid_size, (height, width))[None]


def _check_text_tower(tower: nn.Module, name: str | dict) -> None:
    # the text encoder relies on this when it removes padding
    causal = (
        isinstance(tower, TextTransformer)
        and tower.attn_mask is not None
        and tower.cls_emb is None
        and not tower.use_pad_mask
        and tower.pool_type == 'argmax'
    )
    if not causal:
        raise ESCNetError(
            f"The text tower of {name} is not CLIP's causal transformer, pooled at the end-of-text "
            'token: choose an architecture such as ViT-B-16.'
        )


def value_path(block: nn.Module, x: Tensor) -> Tensor:
    """A transformer block in which every token attends only to itself.

    Args:
        block: open_clip's ResidualAttentionBlock or timm's EvaBlock.
        x: Tokens (B, L, W).

    Returns:
        Tokens (B, L, W).
    """
    if isinstance(block, EvaBlock):
        return eva_value_path(block, x)
    attention = block.attn
    width = attention.embed_dim
    value = F.linear(
        block.ln_1(x), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    )
    x = x + block.ls_1(attention.out_proj(value))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def correlative_attention(block: nn.Module, x: Tensor) -> Tensor:
    """A transformer block in which every token attends to similar ones (SCLIP, section 3.2).

    Args:
        block: open_clip's ResidualAttentionBlock.
        x: Class token and patch tokens (B, 1 + L, W).

    Returns:
        Tokens (B, 1 + L, W).
    """
    attention = block.attn
    projected = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in projected.chunk(3, dim=-1)
    )
    # the sum of two softmaxes: the weights of a token sum to two
    mixed = F.scaled_dot_product_attention(query, query, value)
    mixed = mixed + F.scaled_dot_product_attention(key, key, value)
    x = x + block.ls_1(attention.out_proj(mixed.transpose(1, 2).flatten(2)))
    return x + block.ls_2(block.mlp(block.ln_2(x)))
