"""The trained miniature model of the toy world: what there is to try before one has weights."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from ..datasets.toyworld_vocabulary import ALL_NAMES, palette_of
from ..errors import ESCNetError
from ..vocabulary import Vocabulary

TOY_VOCABULARY = Vocabulary.create(ALL_NAMES, palette_of(ALL_NAMES))
_ROOT = Path(__file__).resolve().parents[2]
_CONFIG = _ROOT / 'configs/toyworld/escnet_toy.py'
_CHECKPOINT = _ROOT / 'data/toyworld/escnet.pth'
_SIZE = (96, 96)  # of its scenes


def toy_model() -> tuple[Config, Path]:
    """The config and the weights of the toy world, which come with a clone.

    It knows drawings of coloured shapes on textured ground (docs/toyworld.md). Images of another
    size than its scenes are resized to it, as the full model's are to 640x640.

    Raises:
        ESCNetError: If they are not there.
    """
    for path in (_CONFIG, _CHECKPOINT):
        if not path.is_file():
            raise ESCNetError(
                f'The model of the toy world is not here ({path} is missing): it comes with a '
                'clone of the repository, so give a config and a checkpoint of your own.'
            )
    cfg = Config.fromfile(_CONFIG)
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline.insert(1, dict(type='Resize', scale=_SIZE, keep_ratio=False))
    return cfg, _CHECKPOINT
