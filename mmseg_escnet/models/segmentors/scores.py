"""Scores of an image, lazily computed in tiles from the network's small logits.

The logits of a window are small, (N, 96, 96) for 384 x 384 pixels. Those of 847 classes take
1.4 GB at the size of the network's input, and 40 GB at the size of a 12-megapixel photograph. So
they are resized and averaged a few rows and classes at a time.

Shapes: N classes, n of them at a time; y x x pixels of a view, h x w of the network's input,
H x W of the image. Rows and classes are slices with a start and a stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from typing import NamedTuple

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.profiler import record_function

from .row_resizer import RowResizer

# Numbers per tile: per CPU core what fits its cache, and at most what keeps a GPU busy.
_TILE_OF_CORE = 1 << 19
_TILE = 1 << 24
_TILE_CLASSES = 32  # or more: the best of every tile is compared with that of those before

# as mmcv's RandomFlip names them -> dimensions of (n, h, w)
_FLIP_DIMS = {'horizontal': (2,), 'vertical': (1,), 'diagonal': (1, 2)}


@dataclass(frozen=True, eq=False)
class View:
    """One window, or the network's whole input resized to one view.

    Attributes:
        logits: (N, height, width), usually smaller than the view.
        resizer: Resizes logits to the view.
        top: First row of the window in the network's input.
        left: First column.
        log_sums: (y, x) log-sum-exp over all N logits, which turns scores into probabilities; None
            if scores are logits.
    """

    logits: Tensor
    resizer: RowResizer
    top: int = 0
    left: int = 0
    log_sums: Tensor | None = None

    def part(self, rows: slice, classes: slice) -> Tensor:
        """Scores (n, rows, x) of some classes for some rows of the view."""
        scores = self.resizer.resize(self.logits[classes, self.resizer.needs(rows)], rows)
        return scores if self.log_sums is None else (scores - self.log_sums[rows]).exp_()

    def activated(self) -> View:
        """The view with a softmax over the N classes, after resizing."""
        size = self.resizer.target
        log_sums = self.logits.new_full(size, -torch.inf)
        for rows, classes in product(*tiles(len(self.logits), size, self.logits.device)):
            part = self.part(rows, classes).logsumexp(dim=0)
            log_sums[rows] = torch.logaddexp(log_sums[rows], part)
        return replace(self, log_sums=log_sums)


@dataclass(frozen=True, eq=False)
class Version:
    """The views of one version of an image, such as its mirror image, and how to undo it.

    Attributes:
        windows: Windows of equal size that cover the network's input.
        share: (h, w) weight of a window at every pixel.
        global_view: The whole input in one view, or None.
        to_input: Resizes the global view to the input, if there is one.
        to_image: Resizes the image inside the input to its original size.
        corner: (top, left) of the image in the input; the rest is padding.
        flip_dims: Dimensions of (n, h, w) in which the image was flipped.
        log_sums: (H, W) log-sum-exp over all N scores of the image, as for a view.
    """

    windows: tuple[View, ...]
    share: Tensor
    global_view: View | None
    to_input: RowResizer | None
    to_image: RowResizer
    corner: tuple[int, int] = (0, 0)
    flip_dims: tuple[int, ...] = ()
    log_sums: Tensor | None = None

    def part(self, rows: slice, classes: slice) -> Tensor:
        """Scores (n, rows, W) of some classes for some rows of the image."""
        (top, left), (height, width) = self.corner, self.to_image.source
        needed = self.to_image.needs(rows)
        if 1 in self.flip_dims:
            needed = slice(height - needed.stop, height - needed.start)
        scores = self._part_of_input(slice(top + needed.start, top + needed.stop), classes)
        scores = scores[..., left : left + width]
        if self.flip_dims:
            scores = scores.flip(self.flip_dims)
        scores = self.to_image.resize(scores, rows)
        return scores if self.log_sums is None else (scores - self.log_sums[rows]).exp_()

    def _part_of_input(self, rows: slice, classes: slice) -> Tensor:
        """Scores (n, rows, w) of some rows of the network's input."""
        if len(self.windows) == 1 and self.global_view is None:
            return self.windows[0].part(rows, classes)
        size = (classes.stop - classes.start, rows.stop - rows.start, self.share.shape[1])
        scores = self.share.new_zeros(size)
        for view in self.windows:
            height, width = view.resizer.target
            start, stop = max(rows.start, view.top), min(rows.stop, view.top + height)
            if start < stop:
                columns = slice(view.left, view.left + width)
                scores[:, start - rows.start : stop - rows.start, columns].addcmul_(
                    view.part(slice(start - view.top, stop - view.top), classes),
                    self.share[start:stop, columns],
                )
        if self.global_view is not None:
            part = self.global_view.part(self.to_input.needs(rows), classes)
            scores.add_(self.to_input.resize(part, rows), alpha=0.5)
        return scores


class BestClasses(NamedTuple):
    """The best class of every pixel.

    Attributes:
        ids: (H, W), int64; the first of several equal ones.
        scores: (H, W), its probability.
        normaliser: (H, W), log-sum-exp over all N logits; None if the scores are probabilities.
    """

    ids: Tensor
    scores: Tensor
    normaliser: Tensor | None


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of N classes for H x W pixels, averaged over one or more versions of an image.

    Attributes:
        versions: Of the image; they hold a score per phrase.
        class_of_phrase: (P,), ascending: the class of each phrase. A class has the score of its
            best phrase. None if phrases are classes.
    """

    versions: tuple[Version, ...]
    class_of_phrase: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def from_views(
        cls,
        windows: Sequence[View],
        size: tuple[int, int],
        *,
        global_view: View | None = None,
        activate: bool = False,
        class_of_phrase: Tensor | None = None,
    ) -> Scores:
        """Average overlapping windows, and their mean once more with a global view.

        Args:
            windows: Windows of equal size.
            size: (h, w) of the network's input.
            global_view: The whole input in one view.
            activate: Apply a softmax to each view before averaging, so that scores are
                probabilities instead of logits.
            class_of_phrase: See the class.
        """
        count = windows[0].logits.new_zeros(size)
        for view in windows:
            height, width = view.resizer.target
            count[view.top : view.top + height, view.left : view.left + width] += 1
        share = (1 if global_view is None else 0.5) / count
        if activate:
            with record_function('escnet/scores'):
                windows = [view.activated() for view in windows]
                global_view = global_view and global_view.activated()
        to_input = global_view and RowResizer(global_view.resizer.target, size, False)
        to_image = RowResizer(size, size, False)
        version = Version(tuple(windows), share, global_view, to_input, to_image)
        return cls((version,), class_of_phrase)

    @classmethod
    def from_maps(cls, maps: Tensor) -> Scores:
        """From logits (N, h, w) at the size of the network's input."""
        size = maps.shape[1:]
        return cls.from_views([View(maps, RowResizer(size, size, False))], size)

    @classmethod
    def mean(cls, scores: Sequence[Scores]) -> Scores:
        """The mean probabilities of several versions of an image, all at the same size."""
        versions = []
        for one in scores:
            log_sums = None if one.are_probabilities else one.best().normaliser
            versions += [replace(version, log_sums=log_sums) for version in one.versions]
        return cls(tuple(versions), scores[0].class_of_phrase)

    def at_original_size(self, meta: dict, *, align_corners: bool) -> Scores:
        """Undo the padding, flip and resizing recorded in the sample's meta information."""
        (version,) = self.versions
        (left, right, top, bottom), flip_dims = _padding_and_flip(meta)
        source = (self.size[0] - top - bottom, self.size[1] - left - right)
        to_image = RowResizer(source, meta.get('ori_shape', source)[:2], align_corners)
        corner = (top, left)
        version = replace(version, to_image=to_image, corner=corner, flip_dims=flip_dims)
        return Scores((version,), self.class_of_phrase)

    @property
    def num_classes(self) -> int:
        """N."""
        classes = self.class_of_phrase
        return self._num_phrases if classes is None else int(classes[-1]) + 1

    @property
    def _num_phrases(self) -> int:
        return len(self.versions[0].windows[0].logits)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.versions[0].to_image.target

    @property
    def are_probabilities(self) -> bool:
        """Whether scores are probabilities; otherwise they are logits."""
        version = self.versions[0]
        return version.log_sums is not None or version.windows[0].log_sums is not None

    @property
    def device(self) -> torch.device:
        """Device of the scores."""
        return self.versions[0].share.device

    @torch.no_grad()
    def part(self, rows: slice, classes: slice) -> Tensor:
        """Scores (n, rows, W) of some classes for some rows, to read only."""
        if self.class_of_phrase is None:
            return self._part(rows, classes)
        bounds = torch.tensor([classes.start, classes.stop])
        start, stop = torch.searchsorted(self.class_of_phrase, bounds).tolist()
        counts = self.class_of_phrase[start:stop].bincount()[classes.start :].tolist()
        phrases = self._part(rows, slice(start, stop)).split(counts)
        return torch.stack([of_class.amax(dim=0) for of_class in phrases])

    def _part(self, rows: slice, phrases: slice) -> Tensor:
        parts = (version.part(rows, phrases) for version in self.versions)
        return next(parts) if len(self.versions) == 1 else sum(parts) / len(self.versions)

    def labels(self) -> Tensor:
        """The best class of every pixel (H, W), int64; the first of several equal ones."""
        return self._best(normalise=False)[0]

    def best(self) -> BestClasses:
        """The best class of every pixel, with its probability."""
        ids, best, total = self._best(normalise=not self.are_probabilities)
        if self.are_probabilities:
            return BestClasses(ids, best.clamp_(max=1), None)
        return BestClasses(ids, total.reciprocal(), best + total.log())

    def all(self) -> Tensor:
        """All scores (N, H, W), as MMSegmentation keeps them; gigabytes for 847 classes."""
        scores = torch.empty(self.num_classes, *self.size, device=self.device)
        with record_function('escnet/scores'):
            for rows, classes in product(*self._tiles(self.num_classes)):
                scores[classes, rows] = self.part(rows, classes)
        return scores

    def of(self, classes: Sequence[int], normaliser: Tensor | None) -> Tensor:
        """The highest probability (H, W) among some classes.

        Args:
            classes: Class ids.
            normaliser: From :meth:`best`.
        """
        highest = None
        for number in classes:
            scores = self.part(slice(0, self.size[0]), slice(number, number + 1))[0]
            highest = scores if highest is None else torch.maximum(highest, scores)
        return highest.clamp(max=1) if normaliser is None else (highest - normaliser).exp()

    def cpu(self) -> Scores:
        """A copy on the CPU."""
        return _cpu(self)

    @torch.no_grad()
    def _best(self, normalise: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, best scores, and the sum of exp(score - best) over all classes."""
        best = torch.full(self.size, -torch.inf, device=self.device)
        ids = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        total = torch.zeros(self.size, device=self.device)
        numbers = torch.arange(self._num_phrases, dtype=torch.float32, device=self.device)
        with record_function('escnet/scores'):
            for rows, phrases in product(*self._tiles(self._num_phrases)):
                part = self._part(rows, phrases)
                highest = part.amax(dim=0)
                # the first number that is not pushed out of range; several times as fast as argmax,
                # which strides through memory pixel by pixel, or a comparison
                index = (highest - part).sign_().mul_(self._num_phrases)
                index = index.add_(numbers[phrases, None, None]).amin(dim=0).long()
                ids[rows] = torch.where(highest > best[rows], index, ids[rows])
                new = torch.maximum(highest, best[rows])
                if normalise:
                    here = (part - new).exp_().sum(dim=0)
                    total[rows] = total[rows] * (best[rows] - new).exp() + here
                best[rows] = new
        if self.class_of_phrase is not None:
            ids = self.class_of_phrase.to(ids.device)[ids]
        return ids, best, total

    def _tiles(self, number: int) -> tuple[list[slice], list[slice]]:
        version = self.versions[0]
        source = (version.to_image.source[0], version.share.shape[1])
        return tiles(number, self.size, self.device, source)


def tiles(
    num_classes: int,
    size: tuple[int, int],
    device: torch.device,
    source: tuple[int, int] = (1, 1),
) -> tuple[list[slice], list[slice]]:
    """The rows and the classes of the tiles of (N, height, width), resized from ``source``."""
    width = max(size[1], source[1])
    numbers = _TILE
    if device.type == 'cpu':
        numbers = min(_TILE_OF_CORE * torch.get_num_threads(), _TILE)
    rows = max(numbers // (width * min(num_classes, _TILE_CLASSES)), 1)
    classes = max(numbers // (width * rows), 1)
    rows = max(int(rows * min(1, size[0] / source[0])), 1)  # nor more source rows
    return tuple(
        [slice(start, min(start + step, length)) for start in range(0, length, step)]
        for length, step in ((size[0], rows), (num_classes, classes))
    )


def write_result(sample: SegDataSample, scores: Scores, *, keep_scores: bool) -> None:
    """Store the label map, and optionally the scores, in MMSegmentation's data sample.

    Args:
        sample: Receives ``pred_sem_seg`` (1, H, W), int64, with ``num_classes`` in its metainfo.
        scores: Of the image.
        keep_scores: Also store ``seg_logits`` (N, H, W).
    """
    if keep_scores:
        everything = scores.all()
        sample.set_data({'seg_logits': PixelData(data=everything)})
        labels = everything.argmax(dim=0)
    else:
        labels = scores.labels()
    labels = PixelData(metainfo=dict(num_classes=scores.num_classes), data=labels[None])
    sample.set_data({'pred_sem_seg': labels})


def undo_padding_and_flip(maps: Tensor, meta: dict) -> Tensor:
    """Remove the padding and flip recorded in a sample's meta from maps (n, h, w)."""
    (left, right, top, bottom), flip_dims = _padding_and_flip(meta)
    height, width = maps.shape[-2:]
    return maps[:, top : height - bottom, left : width - right].flip(flip_dims)


def _padding_and_flip(meta: dict) -> tuple[Sequence[int], tuple[int, ...]]:
    """Padding (left, right, top, bottom) and the flipped dimensions of (n, h, w)."""
    padding = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
    return padding, _FLIP_DIMS[meta['flip_direction']] if meta.get('flip', False) else ()


def _cpu(found: object) -> object:
    """Copy scores, or a part of them, with all tensors on the CPU."""
    if isinstance(found, Tensor):
        return found.cpu()
    if isinstance(found, tuple):
        return tuple(map(_cpu, found))
    if is_dataclass(found):
        return replace(found, **{f.name: _cpu(getattr(found, f.name)) for f in fields(found)})
    return found
