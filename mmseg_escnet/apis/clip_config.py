"""A config of CLIP alone for any CLIP that has a plain vision transformer."""

from __future__ import annotations

import open_clip
from mmengine.config import Config

from ..config import config_folder
from ..errors import ESCNetError


def clip_config(clip: str) -> Config:
    """The config of :class:`.CLIPReadout` for a CLIP of open_clip.

    ``configs/clip``, with windows of the size that the CLIP was trained with at half their
    distance, on images whose shorter side is one and a half of them.

    Args:
        clip: An architecture of open_clip such as 'ViT-B-16', with OpenAI's weights; or
            'NAME:TAG' for other weights of open_clip, or 'NAME:FILE' for a local file.

    Raises:
        ESCNetError: If there is no such architecture, or it has no plain vision transformer.
    """
    name, _, weights = clip.partition(':')
    architecture = open_clip.get_model_config(name)
    if architecture is None:
        raise ESCNetError(
            f'open_clip has no architecture {name!r}: choose one of open_clip.list_models(), such '
            'as ViT-B-16.'
        )
    vision = architecture['vision_cfg']
    patch, size = vision.get('patch_size'), vision.get('image_size')
    if not isinstance(patch, int) or not isinstance(size, int):
        raise ESCNetError(
            f'{name} has no plain vision transformer with square patches: choose an architecture '
            'such as ViT-B-16.'
        )
    cfg = Config.fromfile(config_folder() / 'clip' / 'clip_vitb16_readout.py')
    cfg.model.backbone.update(model_name=name, pretrained=weights or 'openai', stride=patch)
    cfg.model.test_cfg.update(crop_size=(size, size), stride=(size // 2, size // 2))
    for step in cfg.test_dataloader.dataset.pipeline:
        if step['type'] == 'Resize':
            step['scale'] = (2048, size * 3 // 2)
    return cfg
