"""Window inference: overlapping windows and one global view.

Shapes: B images, N classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .score_views import View, ViewScores


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side, so that they cover it and none reaches out.

    Args:
        length: The side in pixels.
        window: Window size; a window as long as the side if that is shorter.
        stride: Distance of windows; the last one is moved back to end with the side.
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
) -> list[ViewScores]:
    """CAT-Seg's published protocol, with a softmax as activation; or MMSegmentation's 'slide'.

    What is kept of every view are the network's logits, which are smaller than the view.

    Args:
        images: (B, 3, H, W).
        network: From images (b, 3, y, x) to logits (b, N, height, width) of any size.
        crop_size: Window (height, width) in pixels; an image that is smaller is one window.
        stride: Distance of the windows in pixels.
        activate: Average after a softmax; otherwise average logits.
        global_view: Average the result once more with the whole image squeezed into one window.
        batch_size: Windows that are run at a time.
        align_corners: How logits are brought to the size of a view.

    Returns:
        Scores of each of the B images.
    """
    batch, _, height, width = images.shape
    window = (min(crop_size[0], height), min(crop_size[1], width))
    corners = [
        (index, top, left)
        for index in range(batch)
        for top in window_starts(height, window[0], stride[0])
        for left in window_starts(width, window[1], stride[1])
    ]
    views: list[list[View]] = [[] for _ in range(batch)]
    for first in range(0, len(corners), batch_size):
        part = corners[first : first + batch_size]
        crops = torch.stack(
            [images[i, :, y : y + window[0], x : x + window[1]] for i, y, x in part]
        )
        for (index, top, left), logits in zip(part, network(crops).float(), strict=True):
            views[index].append(View(logits, top, left))
    whole: list[Tensor | None] = [None] * batch
    if global_view:
        squeezed = F.interpolate(images, crop_size, mode='bilinear', align_corners=False)
        whole = [network(image).float()[0] for image in squeezed.split(1)]
    return [
        ViewScores.create(
            of_image,
            window=window,
            size=(height, width),
            activate=activate,
            align_corners=align_corners,
            global_view=of_whole,
            global_size=crop_size,
        )
        for of_image, of_whole in zip(views, whole, strict=True)
    ]
