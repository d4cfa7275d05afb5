"""CLIP weights from an open_clip tag or a file, with the activation they were trained with."""

from __future__ import annotations

import math
import os
from pathlib import Path

import huggingface_hub
import open_clip
import torch
import torch.nn as nn
import torch.nn.functional as F
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU
from torch import Tensor

from ..errors import ESCNetError
from .weights import load_strict, read_state_dict

# scalars beside the weights in OpenAI's archives; no other CLIP has them
_OPENAI_SCALARS = ('input_resolution', 'context_length', 'vocab_size')


def find_clip(
    model_name: str | None, pretrained: str, *, allow_download: bool = True
) -> tuple[Path, bool | None]:
    """Find CLIP weights.

    Args:
        model_name: open_clip's name of the architecture; None for a custom one.
        pretrained: A path, or one of open_clip's tags for that architecture ('openai'), which is
            downloaded into open_clip's cache if needed.
        allow_download: Download them if they are not on this machine.

    Returns:
        The file, and whether it was trained with QuickGELU according to the tag; None for a path.

    Raises:
        ESCNetError: If there is no such file or tag, or the download fails.
    """
    if os.path.isfile(pretrained):
        return Path(pretrained), None
    tag = open_clip.get_pretrained_cfg(model_name, pretrained) if model_name else {}
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(model_name) if model_name else []
        raise ESCNetError(
            f'CLIP weights {pretrained!r} are neither a file nor an open_clip tag for '
            f'{model_name}: set model.backbone.pretrained to a file, to one of {tags}, or to None '
            'for random weights.'
        )
    try:
        path = _find_in_cache(tag)
        if path is None and not allow_download and tag.get('hf_hub'):
            raise FileNotFoundError('since more is missing')
        path = path or open_clip.download_pretrained(tag)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:150]
        raise ESCNetError(
            f'The CLIP weights {model_name!r} {pretrained!r} are not on this machine and were not '
            f'downloaded ({reason}): get them with `mmseg-escnet download clip '
            f'--model {model_name} --tag {pretrained}` where there is a network, or set '
            'model.backbone.pretrained to a local file (None trains from random CLIP weights).'
        ) from error
    return Path(path), bool(tag.get('quick_gelu', False))


def is_downloaded(model_name: str, pretrained: str) -> bool:
    """Whether weights are on this machine: a file, or a tag that was downloaded before."""
    tag = open_clip.get_pretrained_cfg(model_name, pretrained)
    return os.path.isfile(pretrained) or _find_in_cache(tag) is not None


def _find_in_cache(tag: dict) -> str | None:
    """The cached file of a tag, found without a network, which huggingface_hub would ask first."""
    repository, name = os.path.split(tag.get('hf_hub', ''))
    if not repository:
        return None  # downloads from elsewhere open_clip finds without a network
    # in open_clip's own order
    names = [f'{Path(name).stem}.safetensors', name] if name else []
    for candidate in names or [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]:
        path = huggingface_hub.try_to_load_from_cache(repository, candidate)
        if isinstance(path, str):
            return path
    return None


def load_clip(clip: nn.Module, *, model_name: str | None, pretrained: str, activation: str) -> bool:
    """Load CLIP weights strictly into an open_clip CustomTextCLIP.

    The wrong activation silently costs accuracy, so it is taken from the weights: open_clip's tags
    specify it, OpenAI's own files (TorchScript, or a state dict of one) need QuickGELU, EVA-02
    needs GELU. For any other file it is unknown and must be given.

    Args:
        clip: The model to load into.
        model_name: open_clip's name of its architecture, if any.
        pretrained: See :func:`find_clip`.
        activation: 'auto' to take it from the weights, or 'quick_gelu' or 'gelu'.

    Returns:
        Whether the weights need QuickGELU.

    Raises:
        ESCNetError: If the weights are missing, damaged, do not fit, or their activation is
            unknown or contradicts ``activation``.
    """
    path, quick_gelu = find_clip(model_name, pretrained)
    state_dict, file_format = read_state_dict(path)
    scalars = [state_dict.pop(key, None) for key in _OPENAI_SCALARS]
    if quick_gelu is None and (file_format == 'torchscript' or scalars[0] is not None):
        quick_gelu = True
    elif quick_gelu is None and isinstance(clip.visual, TimmModel):
        quick_gelu = False  # an EVA-02: all text towers were trained with GELU
    if activation == 'auto' and quick_gelu is None:
        raise ESCNetError(
            f'The file {path} does not say whether this CLIP was trained with QuickGELU or GELU, '
            "and the wrong one silently costs accuracy: set model.backbone.activation='quick_gelu' "
            "(OpenAI, MetaCLIP, DFN) or 'gelu' (LAION, DataComp)."
        )
    if activation != 'auto':
        given = activation == 'quick_gelu'
        if quick_gelu is not None and quick_gelu != given:
            raise ESCNetError(
                f'model.backbone.activation={activation!r} contradicts the weights {pretrained!r}, '
                f'which were trained with {"QuickGELU" if quick_gelu else "GELU"}: set it to '
                "'auto'."
            )
        quick_gelu = given
    state_dict = convert_to_custom_text_state_dict(state_dict)
    if 'visual.positional_embedding' in state_dict:
        _fit_positions(state_dict, clip)
    load_strict(clip, state_dict, source=f'The CLIP weights {path}')
    return quick_gelu


def _fit_positions(state_dict: dict[str, Tensor], clip: nn.Module) -> None:
    """Resize positional embeddings of weights for another image size to the model's grid."""
    key, grid = 'visual.positional_embedding', tuple(clip.visual.grid_size)
    length = len(state_dict[key]) - 1
    side = math.isqrt(length)
    if length != grid[0] * grid[1] and side**2 == length:
        state_dict[key] = resize_positions(state_dict[key], (side, side), grid)


def resize_positions(embedding: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Resize positional embeddings by plain bicubic interpolation (recipe).

    Without antialiasing, unlike open_clip: that uses another cubic kernel even for upsampling and
    changes the dense features of ViT-B/16 at 384 px by 2 % (norm).

    Args:
        embedding: (1 + L, W), of the class token and an h x w grid.
        grid: (h, w).
        new_grid: The target grid.

    Returns:
        (1 + L', W), float32 unless the grids are equal.
    """
    if grid == new_grid:
        return embedding
    maps = embedding[1:].float().unflatten(0, grid).permute(2, 0, 1)[None]
    maps = F.interpolate(maps, new_grid, mode='bicubic', align_corners=False)
    return torch.cat([embedding[:1].float(), maps[0].flatten(1).T])


class ChosenGELU(nn.Module):
    """GELU or QuickGELU, depending on the weights.

    The choice is known only when the weights are loaded. MMEngine does not allow adding or removing
    modules at that point, so both are present from the start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.quick = False
        self.gelu, self.quick_gelu = nn.GELU(), QuickGELU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the chosen activation."""
        return self.quick_gelu(x) if self.quick else self.gelu(x)


def set_activation(clip: nn.Module, quick_gelu: bool) -> None:
    """Set the activation of every transformer block in both towers.

    The image tower of an EVA-02 keeps its own, SwiGLU.
    """
    for tower in (clip.visual, clip.text):
        if isinstance(tower, TimmModel):
            continue
        for block in tower.transformer.resblocks:
            if not isinstance(block.mlp.gelu, ChosenGELU):
                block.mlp.gelu = ChosenGELU()
            block.mlp.gelu.quick = quick_gelu
