"""What the ESC blocks do for one word of an image.

Shapes: H x W pixels of the picture, h x w patch grid, y x x pixels of the decoder, D CLIP joint
width, C SAM width, N classes, K objects, T blocks.
"""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ESCNetError
from ..files import write_file
from ..models.necks import PseudoPrompts
from ..models.necks.esc_neck import ESCFeatures
from ..models.segmentors.escnet import ESCNet
from ..models.segmentors.score_maps import undo_padding_and_flip
from ..vocabulary import Vocabulary
from .query import Query

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_SUFFIXES = ('.png', '.pdf', '.svg')
_LARGEST = 1024  # pixels of the longer side of the picture
_SHOWN = 5
_RESOLUTION = 144  # pixels per inch


@dataclass(frozen=True, eq=False)
class WordPrompts:
    """The pseudo prompts that one block gives SAM for one word.

    Attributes:
        region: (h, w) bool, the patches where the word is nearly as probable as at its peak.
        objects: (h, w), which of the K objects (clusters) a patch of the region belongs to, from 0
            on; -1 outside of the region.
        points: (K, 2), the point (x, y) of each object, in [0, 1] image coordinates.
        masks: (K, h, w), the peak-normalised probability of each object, 0 outside of it.
        valid: (K,) bool, False where there are fewer objects than K: point and mask mean nothing.
        presence: How likely the word is in the image, among all words, as the block sees it.
    """

    region: np.ndarray
    objects: np.ndarray
    points: np.ndarray
    masks: np.ndarray
    valid: np.ndarray
    presence: float


@dataclass(frozen=True, eq=False)
class WordBlock:
    """What one block does for one word.

    Attributes:
        read: C_{t-1} (h, w), the correlation before the block.
        correlation: C_t (h, w), the one after it; after the last block the same as before it: the
            decoder reads that block's embedding.
        prompts: The pseudo prompts, which are read off C_{t-1}; None without a SAM block.
        similarity: (h, w), cosine of F_v' at :attr:`.WordInside.point` with F_v' everywhere; F_v'
            is what the SAM block makes of F_v, or without one its projection. None without image
            guidance.
    """

    read: np.ndarray
    correlation: np.ndarray
    prompts: WordPrompts | None
    similarity: np.ndarray | None


@dataclass(frozen=True, eq=False)
class WordInside:
    """What the T ESC blocks do for one word of an image.

    Attributes:
        word: The word.
        image: (H, W, 3) uint8, RGB: the picture, which all maps cover; its longer side has at most
            1024 pixels.
        blocks: The T blocks.
        point: (row, column) of the patch where C_T is highest, with which the others are compared.
        similarity: (h, w), cosine of F_v at the point with F_v everywhere: what CLIP says belongs
            together, before any SAM block.
        probability: (y, x), of the word among all words, as the decoder reads it off the last
            block's embedding.
    """

    word: str
    image: np.ndarray
    blocks: tuple[WordBlock, ...]
    point: tuple[int, int]
    similarity: np.ndarray
    probability: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays by name, those of the blocks one after the other.

        ``correlation`` (T + 1, h, w) holds C_0 to C_T. What a model without SAM block, or without
        image guidance, does not have is left out.
        """
        found = dict(
            word=np.array(self.word),
            image=self.image,
            point=np.array(self.point),
            correlation=np.stack([self.blocks[0].read, *(b.correlation for b in self.blocks)]),
            similarity_clip=self.similarity,
            probability=self.probability,
        )
        if all(block.similarity is not None for block in self.blocks):
            found['similarity'] = np.stack([block.similarity for block in self.blocks])
        prompts = [block.prompts for block in self.blocks]
        if all(prompt is not None for prompt in prompts):
            for name in ('region', 'objects', 'points', 'masks', 'valid', 'presence'):
                found[name] = np.stack([getattr(prompt, name) for prompt in prompts])
        return found

    def figure(self) -> Figure:
        """Draw it: a column for each block."""
        from ..visualization.blocks import blocks_figure  # brings matplotlib along

        return blocks_figure(self)

    def save(self, path: str | os.PathLike, *, arrays: str | os.PathLike | None = None) -> None:
        """Write the figure.

        Args:
            path: A ``.png``, ``.pdf`` or ``.svg``.
            arrays: Also write :meth:`arrays` to this ``.npz``.

        Raises:
            ESCNetError: If a path has another suffix, or cannot be written.
        """
        check_suffix(path, FIGURE_SUFFIXES)
        if arrays is not None:
            check_suffix(arrays, ('.npz',))
        buffer = io.BytesIO()
        self.figure().savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=_RESOLUTION)
        write_file(Path(path), buffer.getvalue())
        if arrays is not None:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **self.arrays())
            write_file(Path(arrays), buffer.getvalue())


@torch.no_grad()
def look_inside(
    model: ESCNet,
    view: Tensor,
    image: np.ndarray,
    text: Tensor,
    words: Mapping[str, int],
) -> list[WordInside]:
    """Run a model once on one view and keep what its blocks do for some words.

    Args:
        model: The network.
        view: (1, 3, height, width), as the network reads it.
        image: (H, W, 3) uint8, RGB: what the view shows, at any size.
        text: F_l (N, D) of all words.
        words: Those to look at, with their numbers among all.
    """
    features = model.extract_feat(view, text, keep_blocks=True)
    probability = model.decode_head(features)[0].float().softmax(dim=0)
    image = _shrink(image)
    return [_of_word(word, image, features, probability[i], i) for word, i in words.items()]


def _of_word(
    word: str, image: np.ndarray, features: ESCFeatures, probability: Tensor, class_id: int
) -> WordInside:
    final = features.blocks[-1].correlation[0, class_id]
    point = divmod(int(final.argmax()), final.shape[-1])
    return WordInside(
        word=word,
        image=image,
        blocks=tuple(
            WordBlock(
                read=_array(block.read[0, class_id]),
                correlation=_array(block.correlation[0, class_id]),
                prompts=None if block.prompts is None else _prompts(block.prompts, class_id),
                similarity=_similarity(block.image_features, point),
            )
            for block in features.blocks
        ),
        point=point,
        similarity=_similarity(features.image, point),
        probability=_array(probability),
    )


def find_word(query: Query, word: str) -> int:
    """Which of the M words of a query is meant: by its name, or by one of its synonyms.

    Raises:
        ESCNetError: If none is, with the names that resemble it.
    """
    words: Vocabulary = query.vocabulary
    if word in words.names:
        return words.names.index(word)
    wanted = word.strip().lower()
    ids = [
        index
        for index, (name, phrases) in enumerate(zip(words.names, words.synonyms, strict=True))
        if wanted in (name.lower(), *(phrase.lower() for phrase in phrases))
    ]
    if len(ids) == 1:
        return ids[0]
    if query.background is not None and wanted == query.background.lower():
        what, near = 'is the background and no word', words.names[query.num_asked :]
        if query.background_below is not None:
            what, near = 'is a low score and no word', words.names
    else:
        lower = {name.lower(): name for name in words.names}
        close = difflib.get_close_matches(wanted, lower, n=_SHOWN)
        what, near = 'is none of the words', [lower[name] for name in close] or words.names
    shown = ', '.join(map(repr, near[:_SHOWN])) + (', ...' if len(near) > _SHOWN else '')
    raise ESCNetError(f'{word!r} {what} that were asked for: look at one such as {shown}.')


def whole_view(
    model: ESCNet, inputs: Tensor, meta: dict, size: tuple[int, int] | None = None
) -> Tensor:
    """The whole image as one view.

    Args:
        model: It has windows, or reads images as they are.
        inputs: (1, 3, H, W), what the pipeline and the preprocessor make of an image.
        meta: Meta information of the image's sample.
        size: (height, width) in pixels that the image is resized to; by default, where the model
            has windows, the size of one, as for its global view.

    Returns:
        (1, 3, height, width), without padding and flip.

    Raises:
        ESCNetError: If the size is none.
    """
    inputs = undo_padding_and_flip(inputs[0], meta)[None]
    if size is None and model.test_cfg.mode == 'whole':
        return inputs
    size = model.test_cfg.crop_size if size is None else size
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not is_pair or not all(isinstance(side, int) and side >= 1 for side in size):
        raise ESCNetError(f'size={size!r} must be (height, width) in pixels.')
    return F.interpolate(inputs, tuple(size), mode='bilinear', align_corners=False)


def check_suffix(path: str | os.PathLike, suffixes: Sequence[str]) -> None:
    """Refuse a file whose suffix says something else than what will be written.

    Raises:
        ESCNetError: If it does.
    """
    if Path(path).suffix.lower() not in suffixes:
        raise ESCNetError(f'{path} must end in {" or ".join(suffixes)}.')


def _prompts(prompts: PseudoPrompts, class_id: int) -> WordPrompts:
    region, masks = _array(prompts.region[0, class_id]), _array(prompts.masks[0, class_id])
    return WordPrompts(
        region=region,
        objects=np.where(region, masks.argmax(axis=0), -1),
        points=_array(prompts.points[0, class_id]),
        masks=masks,
        valid=_array(prompts.valid[0, class_id]),
        presence=float(prompts.presence[0, class_id]),
    )


def _similarity(features: Tensor | None, point: tuple[int, int]) -> np.ndarray | None:
    """Cosine (h, w) of features (1, C, h, w) with those of a point."""
    if features is None:
        return None
    maps = F.normalize(features[0].float(), dim=0)
    row, column = point
    return _array(torch.einsum('chw,c->hw', maps, maps[:, row, column]))


def _shrink(image: np.ndarray) -> np.ndarray:
    scale = _LARGEST / max(image.shape[:2])
    image = np.ascontiguousarray(image)
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy() if values.is_floating_point() else values.cpu().numpy()
