"""Window inference: overlapping windows and one global view, averaged after the activation.

Shapes: B images, N classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side, so that they cover it and none reaches out.

    Args:
        length: The side in pixels.
        window: Window size; a window as long as the side if that is shorter.
        stride: Distance of windows; the last one is moved back to end with the side.
    """
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def window_inference(
    images: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    *,
    crop_size: tuple[int, int],
    stride: tuple[int, int],
    global_view: bool = True,
    batch_size: int = 1,
) -> Tensor:
    """CAT-Seg's published protocol, with whatever activation ``probabilities`` applies.

    Args:
        images: (B, 3, H, W).
        probabilities: From images (b, 3, y, x) to class probabilities (b, N, y, x).
        crop_size: Window (height, width) in pixels; an image that is smaller is one window.
        stride: Distance of the windows in pixels.
        global_view: Average the result once more with the whole image squeezed into one window.
        batch_size: Windows that are run at a time.

    Returns:
        Averaged probabilities (B, N, H, W).
    """
    batch, _, height, width = images.shape
    window = (min(crop_size[0], height), min(crop_size[1], width))
    corners = [
        (index, top, left)
        for index in range(batch)
        for top in window_starts(height, window[0], stride[0])
        for left in window_starts(width, window[1], stride[1])
    ]
    total = None
    count = images.new_zeros(1, 1, height, width)
    for first in range(0, len(corners), batch_size):
        part = corners[first : first + batch_size]
        crops = torch.stack(
            [images[i, :, y : y + window[0], x : x + window[1]] for i, y, x in part]
        )
        scores = probabilities(crops)
        if total is None:
            total = scores.new_zeros(batch, scores.shape[1], height, width)
        for (i, y, x), score in zip(part, scores, strict=True):
            total[i, :, y : y + window[0], x : x + window[1]] += score
            if i == 0:
                count[0, 0, y : y + window[0], x : x + window[1]] += 1
    total /= count
    if global_view:
        squeezed = F.interpolate(images, crop_size, mode='bilinear', align_corners=False)
        for index, image in enumerate(squeezed.split(1)):
            scores = F.interpolate(
                probabilities(image), (height, width), mode='bilinear', align_corners=False
            )
            total[index] += scores[0]
        total /= 2
    return total
