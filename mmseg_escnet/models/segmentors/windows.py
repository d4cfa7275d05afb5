"""Window inference: overlapping windows and a global view, and the settings in ``test_cfg``.

Shapes: B images, N classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from torch import Tensor

from ...errors import ESCNetError, did_you_mean
from .row_resizer import RowResizer
from .scores import Scores, View
from .shortlist import Shortlist

_MODES = ('whole', 'slide', 'windows')
_SETTINGS = ('mode', 'crop_size', 'stride', 'window_batch_size', 'global_view', 'keep_scores')
_SETTINGS += ('autocast', 'shortlist')


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Start positions of the windows along one side.

    The windows cover the side without exceeding it: the last one is moved back to end with it.

    Args:
        length: The side in pixels.
        window: Window size; a shorter side is a single window.
        stride: Distance between windows.
    """
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


@torch.no_grad()
def window_inference(
    images: Tensor,
    network: Callable[[Tensor], Tensor],
    *,
    crop_size: tuple[int, int],
    stride: tuple[int, int],
    activate: bool = True,
    global_view: bool = True,
    batch_size: int = 1,
    align_corners: bool = False,
    class_of_phrase: Tensor | None = None,
) -> list[Scores]:
    """CAT-Seg's published protocol with a softmax as activation, or MMSegmentation's 'slide'.

    Only the network's logits are kept of every view; they are smaller than the view.

    Args:
        images: (B, 3, H, W).
        network: Maps images (b, 3, y, x) to logits (b, N, height, width) of any size.
        crop_size: Window (height, width) in pixels; a smaller image is a single window.
        stride: Distance between windows in pixels, (vertical, horizontal).
        activate: Average probabilities after a softmax; otherwise average logits.
        global_view: Average the result once more with the whole image resized to one window.
        batch_size: Windows per batch.
        align_corners: Used when logits are resized to the view.
        class_of_phrase: See :class:`.Scores`.

    Returns:
        Scores of each of the B images, at H x W pixels.
    """
    batch, _, height, width = images.shape
    window = (min(crop_size[0], height), min(crop_size[1], width))
    corners = [
        (index, top, left)
        for index in range(batch)
        for top in window_starts(height, window[0], stride[0])
        for left in window_starts(width, window[1], stride[1])
    ]

    def view(logits: Tensor, size: tuple[int, int], *corner: int) -> View:
        return View(logits, RowResizer(logits.shape[1:], size, align_corners), *corner)

    views: list[list[View]] = [[] for _ in range(batch)]
    for first in range(0, len(corners), batch_size):
        part = corners[first : first + batch_size]
        crops = torch.stack(
            [images[i, :, y : y + window[0], x : x + window[1]] for i, y, x in part]
        )
        for (index, top, left), logits in zip(part, network(crops).float(), strict=True):
            views[index].append(view(logits, window, top, left))
    whole: list[View | None] = [None] * batch
    if global_view:
        squeezed = F.interpolate(images, crop_size, mode='bilinear', align_corners=False)
        whole = [view(network(image).float()[0], crop_size) for image in squeezed.split(1)]
    return [
        Scores.from_views(
            of_image,
            (height, width),
            global_view=of_whole,
            activate=activate,
            class_of_phrase=class_of_phrase,
        )
        for of_image, of_whole in zip(views, whole, strict=True)
    ]


def window_options(test_cfg: ConfigDict, images: Tensor) -> dict:
    """The arguments of :func:`window_inference` set by ``test_cfg``, for images (B, 3, H, W)."""
    windows = test_cfg.mode == 'windows'
    options = dict(activate=windows, global_view=windows and test_cfg.get('global_view', True))
    if test_cfg.mode == 'whole':
        size = tuple(images.shape[-2:])
        return options | dict(crop_size=size, stride=size, batch_size=len(images))
    return options | dict(
        crop_size=tuple(test_cfg.crop_size),
        stride=tuple(test_cfg.stride),
        batch_size=test_cfg.get('window_batch_size', 1),
    )


def check_test_cfg(test_cfg: ConfigDict) -> None:
    """Check the inference settings.

    ``test_cfg.mode`` is 'windows' (CAT-Seg's protocol with our softmax: windows of ``crop_size``
    at ``stride`` and a global view, averaged after the softmax, ``window_batch_size`` windows at a
    time), or MMSegmentation's 'whole' or 'slide'. Results contain label maps only;
    ``keep_scores=True`` adds the scores of all classes at image size as ``seg_logits``, which takes
    gigabytes for many words; in 'windows' mode they are the averaged probabilities.
    ``shortlist=dict(top_k=32, threshold=0.0)`` drops unlikely classes before the ESC blocks
    (:class:`.shortlist.Shortlist`): much faster for many words, but approximate.
    ``autocast='bfloat16'`` (or 'float16', on a GPU) computes matrix products in that type: up to
    twice as fast on devices that support it.

    Args:
        test_cfg: Of :class:`.ESCNet`.

    Raises:
        ESCNetError: Naming the invalid setting.
    """
    for name in test_cfg:
        if name not in _SETTINGS:
            raise ESCNetError(f'test_cfg.{name} is no setting: {did_you_mean(name, _SETTINGS)}')
    mode = test_cfg.mode
    if mode not in _MODES:
        raise ESCNetError(f'test_cfg.mode={mode!r} must be one of {_MODES}.')
    if not isinstance(test_cfg.get('keep_scores', False), bool):
        raise ESCNetError(
            f'test_cfg.keep_scores={test_cfg.keep_scores!r} must be True (keep the scores of all '
            'classes) or False.'
        )
    if test_cfg.get('autocast') not in (None, 'bfloat16', 'float16'):
        raise ESCNetError(
            f"test_cfg.autocast={test_cfg.autocast!r} must be None, 'bfloat16' or 'float16'."
        )
    if test_cfg.get('shortlist'):
        Shortlist.create(test_cfg.shortlist)
        if mode == 'slide':  # it averages logits, and a dropped class has none
            raise ESCNetError(
                "test_cfg.shortlist cannot be used with mode='slide': use 'windows' or 'whole'."
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
            f'test_cfg.stride={test_cfg.stride} must not exceed crop_size={test_cfg.crop_size}: '
            'there would be gaps between windows.'
        )


def _is_size(value: object) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and all(type(side) is int and side >= 1 for side in value)
