"""What ``test_cfg`` of ESC-Net may say."""

from mmengine.config import ConfigDict

from ...errors import ESCNetError
from .shortlist import Shortlist

_MODES = ('whole', 'slide', 'windows')


def check_test_cfg(test_cfg: ConfigDict) -> None:
    """Check the settings of inference (see :class:`.ESCNet`).

    Raises:
        ESCNetError: Naming the setting.
    """
    mode = test_cfg.mode
    if mode not in _MODES:
        raise ESCNetError(f'test_cfg.mode={mode!r} must be one of {_MODES}.')
    if not isinstance(test_cfg.get('keep_scores', False), bool):
        raise ESCNetError(
            f'test_cfg.keep_scores={test_cfg.keep_scores!r} must be True, to keep the scores of '
            'all classes, or False.'
        )
    if test_cfg.get('autocast') not in (None, 'bfloat16', 'float16'):
        raise ESCNetError(
            f"test_cfg.autocast={test_cfg.autocast!r} must be None, 'bfloat16' or 'float16'."
        )
    if test_cfg.get('shortlist'):
        Shortlist.create(test_cfg.shortlist)
        if mode == 'slide':  # it averages logits, and a dropped class has none
            raise ESCNetError(
                "test_cfg.shortlist does not go with mode='slide': use 'windows' or 'whole'."
            )
    if mode == 'whole':
        return
    for key in ('crop_size', 'stride'):
        value = test_cfg.get(key)
        if not _is_size(value):
            raise ESCNetError(
                f'test_cfg.{key}={value!r} must be (height, width) in pixels for mode={mode!r}.'
            )
    if any(step > size for step, size in zip(test_cfg.stride, test_cfg.crop_size, strict=True)):
        raise ESCNetError(
            f'test_cfg.stride={test_cfg.stride} is larger than crop_size={test_cfg.crop_size}: '
            'windows would leave gaps; make it smaller.'
        )


def _is_size(value: object) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and all(type(side) is int and side >= 1 for side in value)
