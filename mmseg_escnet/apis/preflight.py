"""Checks of a config's inputs, before anything expensive is done."""

from __future__ import annotations

import os

from mmengine.config import Config, ConfigDict
from mmseg.registry import DATASETS

from ..models.clip_weights import find_clip
from ..models.sam_weights import find_sam
from ..models.weights import read_state_dict


def check_datasets(cfg: Config, *phases: str) -> None:
    """Build the data sets of some phases once: that checks their files.

    Args:
        cfg: A whole config.
        *phases: Of 'train', 'val' and 'test'.

    Raises:
        ESCNetError: Naming what is missing and the command that makes it.
    """
    from mmengine.registry import init_default_scope

    init_default_scope(cfg.get('default_scope', 'mmseg'))
    for phase in phases:
        dataloader = cfg.get(f'{phase}_dataloader')
        if dataloader is not None:
            DATASETS.build(dataloader.dataset)


def check_weights(model: ConfigDict) -> None:
    """Find the pretrained weights of a model, downloading what is to be downloaded.

    Raises:
        ESCNetError: Naming what is missing and the command that gets it.
    """
    sam = model.neck.get('sam_pretrained')
    if sam is not None:
        find_sam(str(sam), verify=False)
    clip = model.backbone.get('pretrained')
    if clip is not None:
        find_clip(model.backbone.get('model_name'), str(clip))


def forget_pretrained(model: ConfigDict) -> None:
    """Take the pretrained weights out of a model's config: a checkpoint has them all, or none."""
    model.backbone.pretrained = None
    model.neck.sam_pretrained = None


def check_checkpoint(path: str) -> None:
    """Read a checkpoint file once, without executing anything in it.

    Raises:
        ESCNetError: If it does not exist, is damaged, or holds more than tensors and records.
    """
    if not str(path).startswith(('http://', 'https://')):
        read_state_dict(os.fspath(path))
