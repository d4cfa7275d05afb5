"""The trained miniature model of the toy world: what there is to try before one has weights."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from ..config import config_folder
from ..errors import ESCNetError
from ..vocabulary import Vocabulary
from .vocabulary import ALL_NAMES, palette_of

TOY_VOCABULARY = Vocabulary.create(ALL_NAMES, palette_of(ALL_NAMES))
_SIZE = (96, 96)  # of its scenes


def toy_model() -> tuple[Config, Path]:
    """The config and the weights of the toy world, which come with the package.

    It knows drawings of coloured shapes on textured ground (docs/toyworld.md). Images of another
    size than its scenes are resized to it, as the full model's are to 640x640.

    Raises:
        ESCNetError: If they are not there.
    """
    configs = config_folder()
    checkpoint = configs.parent / 'data/toyworld/escnet.pth'
    if not checkpoint.is_file():
        raise ESCNetError(
            f'The model of the toy world is not here ({checkpoint} is missing): it comes with the '
            'repository and its wheel, so give a config and a checkpoint of your own.'
        )
    cfg = Config.fromfile(configs / 'toyworld/escnet_toy.py')
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline.insert(1, dict(type='Resize', scale=_SIZE, keep_ratio=False))
    return cfg, checkpoint
