"""Scores of an image at its own size, which become large only where they are asked for.

The scores of 20 classes at the size of a 12-megapixel photograph take 1 GB, of 847 classes 40 GB.
Here they are brought to it some rows and some classes at a time.

Shapes: N classes, n of them at a time, h x w pixels of the network's input, H x W pixels of the
image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.profiler import record_function

from .row_resizer import RowResizer, tile
from .score_views import ViewScores

# as mmcv's RandomFlip names them -> dimensions of (n, h, w)
_FLIP_DIMS = {'horizontal': (2,), 'vertical': (1,), 'diagonal': (1, 2)}


@dataclass(frozen=True)
class BestClasses:
    """The best class of every pixel.

    Attributes:
        ids: (H, W), int64; of equal classes the first.
        scores: Its probability, (H, W).
        normaliser: Logarithm of the sum of the exponentials of all N logits, (H, W); None where
            the scores are probabilities already.
    """

    ids: Tensor
    scores: Tensor
    normaliser: Tensor | None


class PixelScores(ABC):
    """Scores of N classes for H x W pixels, of which parts can be computed."""

    num_classes: int
    size: tuple[int, int]
    are_probabilities: bool
    device: torch.device

    @abstractmethod
    def part(self, first: int, last: int, classes: slice) -> Tensor:
        """Scores (n, last - first, W) of some classes for some rows."""

    @abstractmethod
    def tile(self) -> tuple[int, int]:
        """How many rows of how many classes to compute at a time."""

    def labels(self) -> Tensor:
        """The best class of every pixel (H, W), int64; of equal classes the first."""
        return self._best(normalise=False)[0]

    def best(self) -> BestClasses:
        """The best class of every pixel, with its probability."""
        ids, best, total = self._best(normalise=not self.are_probabilities)
        if self.are_probabilities:
            return BestClasses(ids, best.clamp_(max=1), None)
        return BestClasses(ids, total.reciprocal(), best + total.log())

    @torch.no_grad()
    def all(self) -> Tensor:
        """All scores (N, H, W), as MMSegmentation keeps them: of 847 classes gigabytes."""
        scores = torch.empty(self.num_classes, *self.size, device=self.device)
        with record_function('escnet/scores'):
            for first, last, parts in self._tiles():
                for start, part in parts:
                    scores[start : start + len(part), first:last] = part
        return scores

    @torch.no_grad()
    def _best(self, normalise: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, scores, and the sum of the exponentials of all scores less the best."""
        best = torch.full(self.size, -torch.inf, device=self.device)
        ids = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        total = torch.zeros(self.size, device=self.device)
        numbers = torch.arange(self.num_classes, dtype=torch.int32, device=self.device)
        with record_function('escnet/scores'):
            for first, last, parts in self._tiles():
                rows = slice(first, last)
                for start, part in parts:
                    highest = part.amax(dim=0)
                    # much faster than argmax, which walks through memory pixel by pixel
                    number = numbers[start : start + len(part), None, None]
                    index = torch.where(part == highest, number, self.num_classes).amin(dim=0)
                    ids[rows] = torch.where(highest > best[rows], index, ids[rows])
                    new = torch.maximum(highest, best[rows])
                    if normalise:
                        here = (part - new).exp_().sum(dim=0)
                        total[rows] = total[rows] * (best[rows] - new).exp() + here
                    best[rows] = new
        return ids, best, total

    def _tiles(self) -> Iterator[tuple[int, int, Iterator[tuple[int, Tensor]]]]:
        """Rows from and to, and for these the first id and the scores of all parts."""
        height, (step, num_classes) = self.size[0], self.tile()

        def parts(first: int, last: int) -> Iterator[tuple[int, Tensor]]:
            for start in range(0, self.num_classes, num_classes):
                yield start, self.part(first, last, slice(start, start + num_classes))

        for first in range(0, height, step):
            last = min(first + step, height)
            yield first, last, parts(first, last)


@dataclass(frozen=True, eq=False)
class ScoreMaps(PixelScores):
    """Scores of an image at its own size, from those at the size of the network's input.

    Attributes:
        views: Scores at the size of the network's input.
        corner: (top, left) of the image in that; around it is padding.
        flip_dims: Dimensions of (n, h, w) in which the image was flipped.
        resizer: From there to the size of the image.
    """

    views: ViewScores
    corner: tuple[int, int]
    flip_dims: tuple[int, ...]
    resizer: RowResizer

    @classmethod
    def create(cls, views: ViewScores, meta: dict, *, align_corners: bool) -> ScoreMaps:
        """From what the pipeline did to an image.

        Args:
            views: Scores at the size of the network's input.
            meta: Meta information of the image's sample: padding, flip and original size.
            align_corners: How the model resizes.
        """
        left, right, top, bottom = _padding(meta)
        height, width = views.size
        source = (height - top - bottom, width - left - right)
        target = tuple(meta.get('ori_shape', source)[:2])
        resizer = RowResizer(source, target, align_corners)
        return cls(views, (top, left), _flip_dims(meta), resizer)

    @property
    def num_classes(self) -> int:
        """N."""
        return self.views.num_classes

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.resizer.target

    @property
    def are_probabilities(self) -> bool:
        """Whether scores are probabilities; otherwise they are logits."""
        return self.views.are_probabilities

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return self.views.device

    def part(self, first: int, last: int, classes: slice) -> Tensor:
        """Scores (n, last - first, W) of some classes for some rows."""
        (top, left), (height, width) = self.corner, self.resizer.source
        low, high = self.resizer.needs(first, last)
        if 1 in self.flip_dims:
            low, high = height - high, height - low
        rows = self.views.rows(top + low, top + high, classes)[..., left : left + width]
        if self.flip_dims:
            rows = rows.flip(self.flip_dims)
        return self.resizer.resize(rows, first, last)

    def tile(self) -> tuple[int, int]:
        """How many rows of how many classes to compute at a time."""
        width = max(self.views.size[1], self.size[1])
        rows, num_classes = tile(self.num_classes, width, self.device)
        # not more rows of the network's input either
        rows = max(int(rows * min(1, self.size[0] / self.resizer.source[0])), 1)
        return rows, num_classes

    def of(self, classes: Sequence[int], normaliser: Tensor | None) -> Tensor:
        """The highest probability that some classes have.

        Args:
            classes: Their ids.
            normaliser: As :meth:`best` returns it.

        Returns:
            (H, W).
        """
        highest = None
        for number in classes:
            scores = self.part(0, self.size[0], slice(number, number + 1))[0]
            highest = scores if highest is None else torch.maximum(highest, scores)
        return highest.clamp(max=1) if normaliser is None else (highest - normaliser).exp()

    def cpu(self) -> ScoreMaps:
        """The same on the CPU."""
        return replace(self, views=self.views.to('cpu'))


class MeanScores(PixelScores):
    """The mean of the probabilities of several versions of one image.

    Args:
        versions: Scores of one size.
    """

    def __init__(self, versions: Sequence[ScoreMaps]) -> None:
        self.num_classes, self.size = versions[0].num_classes, versions[0].size
        self.device, self.are_probabilities = versions[0].device, True
        self._versions = [
            (version, None if version.are_probabilities else version.best().normaliser)
            for version in versions
        ]

    def part(self, first: int, last: int, classes: slice) -> Tensor:
        """Mean probabilities (n, last - first, W) of some classes for some rows."""
        total = 0
        for version, normaliser in self._versions:
            scores = version.part(first, last, classes)
            if normaliser is not None:
                scores = (scores - normaliser[first:last]).exp_()
            total = total + scores
        return total / len(self._versions)

    def tile(self) -> tuple[int, int]:
        """How many rows of how many classes to compute at a time."""
        return self._versions[0][0].tile()


def undo_padding_and_flip(maps: Tensor, meta: dict) -> Tensor:
    """Bring maps back to the image as it was before it was padded and flipped.

    Args:
        maps: (n, h, w) at the size of the network's input.
        meta: Meta information of the image's sample.

    Returns:
        (n, h - padding, w - padding).
    """
    left, right, top, bottom = _padding(meta)
    height, width = maps.shape[-2:]
    return maps[:, top : height - bottom, left : width - right].flip(_flip_dims(meta))


def _padding(meta: dict) -> Sequence[int]:
    """Left, right, top, bottom."""
    return meta.get('img_padding_size', meta.get('padding_size', [0] * 4))


def _flip_dims(meta: dict) -> tuple[int, ...]:
    """Dimensions of (n, h, w) in which the image was flipped."""
    return _FLIP_DIMS[meta['flip_direction']] if meta.get('flip', False) else ()


def write_result(sample: SegDataSample, scores: PixelScores, *, keep_scores: bool) -> None:
    """Put label maps, and scores if they are wanted, where MMSegmentation has them.

    Args:
        sample: Gets ``pred_sem_seg`` (1, H, W), int64, with its ``num_classes``.
        scores: Of the image.
        keep_scores: Also set ``seg_logits`` (N, H, W).
    """
    if keep_scores:
        everything = scores.all()
        sample.set_data({'seg_logits': PixelData(data=everything)})
        labels = everything.argmax(dim=0)
    else:
        labels = scores.labels()
    labels = PixelData(metainfo=dict(num_classes=scores.num_classes), data=labels[None])
    sample.set_data({'pred_sem_seg': labels})
