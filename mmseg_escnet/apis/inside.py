"""What the ESC blocks do for one word of an image.

Shapes: H x W pixels of the picture, h x w patch grid, y x x pixels of the decoder, K objects,
T blocks.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ESCNetError
from ..files import check_suffix, write_file
from ..models.segmentors.escnet import ESCNet
from ..models.segmentors.scores import undo_padding_and_flip
from ..visualization.figure_files import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGEST = 1024  # pixels of the longer side of the picture


@dataclass(frozen=True, eq=False)
class WordInside:
    """What the T ESC blocks do for one word of an image.

    Index t - 1 of the arrays that begin with T is block t.

    Attributes:
        word: The word.
        image: (H, W, 3) uint8, RGB: the picture, which all maps cover; its longer side has at most
            1024 pixels.
        point: (row, column) of the patch where C_T is highest.
        correlation: (T + 1, h, w), C_0 to C_T: block t reads C_{t-1} and makes C_t. The last block
            leaves it unchanged: the decoder reads that block's embedding.
        probability: (y, x), of the word among all words, as the decoder computes it from the last
            block's embedding.
        similarity_clip: (h, w), cosine of F_v at the point with F_v everywhere, before any SAM
            block.
        similarity: (T, h, w), the same of F_v', the output of the SAM block or, without one, of the
            projection. None without image guidance.
        region: (T, h, w) bool, the patches where the word is nearly as probable as at its peak.
            This and the following are the pseudo prompts, which block t derives from C_{t-1}; all
            of them are None without a SAM block.
        objects: (T, h, w), which of the K objects (clusters) a patch of the region belongs to, from
            0 on; -1 outside the region.
        points: (T, K, 2), the point (x, y) of each object, in [0, 1] image coordinates.
        masks: (T, K, h, w), the peak-normalised probability of each object, 0 outside it.
        valid: (T, K) bool, False where there are fewer objects than K: ignore point and mask.
        presence: (T,), how likely the word is in the image, among all words, as the block sees it.
    """

    word: str
    image: np.ndarray
    point: tuple[int, int]
    correlation: np.ndarray
    probability: np.ndarray
    similarity_clip: np.ndarray
    similarity: np.ndarray | None = None
    region: np.ndarray | None = None
    objects: np.ndarray | None = None
    points: np.ndarray | None = None
    masks: np.ndarray | None = None
    valid: np.ndarray | None = None
    presence: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """All attributes that are not None as arrays, by name."""
        return {name: np.asarray(value) for name, value in vars(self).items() if value is not None}

    def figure(self) -> Figure:
        """Draw it: a column for each block."""
        from ..visualization.blocks import blocks_figure

        return blocks_figure(self.arrays())

    def save(self, path: str | os.PathLike, *, arrays: str | os.PathLike | None = None) -> None:
        """Write the figure.

        Args:
            path: A ``.png``, ``.pdf`` or ``.svg``.
            arrays: Also write :meth:`arrays` to this ``.npz``.

        Raises:
            ESCNetError: If a path has another suffix, or cannot be written.
        """
        if arrays is not None:
            check_suffix(arrays, ['.npz'])
        save_figure(self.figure(), path)
        if arrays is not None:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **self.arrays())
            write_file(arrays, buffer.getvalue())


@torch.no_grad()
def look_inside(
    model: ESCNet, view: Tensor, image: np.ndarray, text: Tensor, words: Mapping[str, int]
) -> list[WordInside]:
    """Run a model once on one view and keep what its blocks compute for some words.

    Args:
        model: The network.
        view: (1, 3, height, width), as the network reads it.
        image: (H, W, 3) uint8, RGB: what the view shows, at any size.
        text: F_l (N, D) of all words.
        words: The words of interest -> their ids among all.
    """
    features = model.extract_feat(view, text, keep_blocks=True)
    blocks = features.blocks
    probability = model.decode_head(features)[0].float().softmax(dim=0)
    image = np.ascontiguousarray(image)
    scale = _LARGEST / max(image.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    found = []
    for word, i in words.items():
        final = blocks[-1].correlation[0, i]
        point = divmod(int(final.argmax()), final.shape[-1])
        correlation = [blocks[0].read, *(block.correlation for block in blocks)]
        maps = dict(
            correlation=_array(torch.stack([values[0, i] for values in correlation])),
            probability=_array(probability[i]),
            similarity_clip=_similarity(features.image, point),
        )
        if blocks[0].image_features is not None:
            maps['similarity'] = np.stack([_similarity(b.image_features, point) for b in blocks])
        if blocks[0].prompts is not None:
            for name in ('region', 'points', 'masks', 'valid', 'presence'):
                maps[name] = _array(torch.stack([getattr(b.prompts, name)[0, i] for b in blocks]))
            maps['objects'] = np.where(maps['region'], maps['masks'].argmax(axis=1), -1)
        found.append(WordInside(word, image, point, **maps))
    return found


def whole_view(
    model: ESCNet, inputs: Tensor, meta: dict, size: tuple[int, int] | None = None
) -> Tensor:
    """The whole image as one view.

    Args:
        model: Its test protocol is windows or the whole image.
        inputs: (1, 3, H, W), an image after the pipeline and the preprocessor.
        meta: Meta information of the image's sample.
        size: (height, width) in pixels to resize the image to; by default the size of a window, as
            for the global view, and without windows that of the image.

    Returns:
        (1, 3, height, width), without padding and flip.

    Raises:
        ESCNetError: If the size is invalid.
    """
    inputs = undo_padding_and_flip(inputs[0], meta)[None]
    if size is None and model.test_cfg.mode == 'whole':
        return inputs
    size = model.test_cfg.crop_size if size is None else size
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not is_pair or not all(isinstance(side, int) and side >= 1 for side in size):
        raise ESCNetError(f'size={size!r} must be (height, width) in pixels.')
    return F.interpolate(inputs, tuple(size), mode='bilinear', align_corners=False)


def _similarity(features: Tensor, point: tuple[int, int]) -> np.ndarray:
    """Cosine (h, w) of features (1, C, h, w) with those at a point."""
    maps = F.normalize(features[0].float(), dim=0)
    row, column = point
    return _array(torch.einsum('chw,c->hw', maps, maps[:, row, column]))


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy() if values.is_floating_point() else values.cpu().numpy()
