"""The trained miniature model of the toy world, to try everything without other weights."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from ..config import config_folder
from ..errors import ESCNetError
from ..vocabulary import Vocabulary
from .vocabulary import ALL_NAMES

TOY_VOCABULARY = Vocabulary.create(ALL_NAMES)
_SIZE = (96, 96)  # of its scenes


def toy_model() -> tuple[Config, Path]:
    """The config and weights of the toy model, which come with the package.

    It segments drawings of coloured shapes on textured ground (docs/toyworld.md). Images are
    resized to the size of its scenes, as those of the full model to 640x640.

    Raises:
        ESCNetError: If the weights are missing.
    """
    configs = config_folder()
    checkpoint = configs.parent / 'data/toyworld/escnet.pth'
    if not checkpoint.is_file():
        raise ESCNetError(
            f'The weights of the toy model are missing ({checkpoint}): they come with the '
            'repository and the wheel, so reinstall the package or give your own config and '
            'checkpoint.'
        )
    cfg = Config.fromfile(configs / 'toyworld/escnet_toy.py')
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline.insert(1, dict(type='Resize', scale=_SIZE, keep_ratio=False))
    return cfg, checkpoint
