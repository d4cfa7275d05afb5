"""Scores of an image, computed where they are asked for from what the network said of its views.

The logits of a window are small, (N, 96, 96) for 384 x 384 pixels. Brought to the size of the
network's input, those of 847 classes take 1.4 GB: here they are so for some rows and some classes
at a time only.

Shapes: N classes, n of them at a time, H x W pixels of the network's input, y x x of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.profiler import record_function

from .row_resizer import RowResizer, tile

_ALL = slice(None)


@dataclass(frozen=True)
class View:
    """What the network said of one view of an image.

    Attributes:
        logits: (N, height, width), smaller than the view.
        top: Row of the image where a window begins.
        left: Its first column.
        log_sums: (y, x): logarithm of the sum of the exponentials of all N logits, with which
            scores are probabilities; None if they are logits.
    """

    logits: Tensor
    top: int = 0
    left: int = 0
    log_sums: Tensor | None = None

    def rows(self, resizer: RowResizer, first: int, last: int, classes: slice = _ALL) -> Tensor:
        """Scores (n, last - first, x) of some rows of the view."""
        low, high = resizer.needs(first, last)
        scores = resizer.resize(self.logits[classes, low:high], first, last)
        if self.log_sums is None:
            return scores
        return (scores - self.log_sums[first:last]).exp_()

    def activated(self, resizer: RowResizer) -> View:
        """The same with ``log_sums``: a softmax over the N classes, after resizing."""
        height, width = resizer.target
        log_sums = self.logits.new_empty(height, width)
        step, num_classes = tile(len(self.logits), width, self.logits.device)
        for first in range(0, height, step):
            last = min(first + step, height)
            total = None
            for start in range(0, len(self.logits), num_classes):
                part = self.rows(resizer, first, last, slice(start, start + num_classes))
                part = part.logsumexp(dim=0)
                total = part if total is None else torch.logaddexp(total, part)
            log_sums[first:last] = total
        return replace(self, log_sums=log_sums)

    def to(self, device: torch.device | str) -> View:
        """The same on another device."""
        log_sums = None if self.log_sums is None else self.log_sums.to(device)
        return replace(self, logits=self.logits.to(device), log_sums=log_sums)


@dataclass(frozen=True, eq=False)
class ViewScores:
    """Scores of one image at the size of the network's input: see :meth:`create`.

    Attributes:
        windows: All of one size, which cover the image.
        to_window: From the logits of a window to its size.
        share: (H, W): weight of a window at every pixel.
        global_view: The whole image in one view, or None.
        to_global: From its logits to its size, if there is one.
        to_image: From there to the image.
    """

    windows: tuple[View, ...]
    to_window: RowResizer
    share: Tensor
    global_view: View | None = None
    to_global: RowResizer | None = None
    to_image: RowResizer | None = None

    @classmethod
    @torch.no_grad()
    def create(
        cls,
        windows: Sequence[View],
        *,
        window: tuple[int, int],
        size: tuple[int, int],
        activate: bool,
        align_corners: bool,
        global_view: Tensor | None = None,
        global_size: tuple[int, int] | None = None,
    ) -> ViewScores:
        """Average windows where they overlap, and their mean once more with a global view.

        Args:
            windows: With their logits.
            window: (y, x), their size.
            size: (H, W), of the image as the network sees it.
            activate: Apply a softmax to each view, before averaging: scores are probabilities
                then, and otherwise logits.
            align_corners: How the model brings its logits to the size of a view.
            global_view: Logits (N, height, width) of the whole image squeezed into one view.
            global_size: (y, x), of that view.
        """
        count = windows[0].logits.new_zeros(size)
        for view in windows:
            count[view.top : view.top + window[0], view.left : view.left + window[1]] += 1
        share = (1 if global_view is None else 0.5) / count
        to_window = RowResizer(windows[0].logits.shape[1:], window, align_corners)
        whole = to_global = to_image = None
        if global_view is not None:
            whole = View(global_view)
            to_global = RowResizer(global_view.shape[1:], global_size, align_corners)
            to_image = RowResizer(global_size, size, False)
        if activate:
            with record_function('escnet/scores'):
                windows = [view.activated(to_window) for view in windows]
                whole = whole and whole.activated(to_global)
        return cls(tuple(windows), to_window, share, whole, to_global, to_image)

    @classmethod
    def of_scores(cls, scores: Tensor) -> ViewScores:
        """From logits (N, H, W) that have the size of the network's input already."""
        size = scores.shape[1:]
        options = dict(window=size, size=size, activate=False, align_corners=False)
        return cls.create([View(scores)], **options)

    @property
    def num_classes(self) -> int:
        """N."""
        return len(self.windows[0].logits)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return tuple(self.share.shape)

    @property
    def device(self) -> torch.device:
        """Where the logits are."""
        return self.share.device

    @property
    def are_probabilities(self) -> bool:
        """Whether scores are probabilities; otherwise they are logits."""
        return self.windows[0].log_sums is not None

    def to(self, device: torch.device | str) -> ViewScores:
        """The same on another device."""
        return replace(
            self,
            windows=tuple(view.to(device) for view in self.windows),
            share=self.share.to(device),
            global_view=self.global_view and self.global_view.to(device),
        )

    @torch.no_grad()
    def rows(self, first: int, last: int, classes: slice = _ALL) -> Tensor:
        """Compute scores of some rows.

        Args:
            first: Row to begin with.
            last: Row before which to end.
            classes: Of which classes.

        Returns:
            (n, last - first, W), to read only.
        """
        if len(self.windows) == 1 and self.global_view is None:
            return self.windows[0].rows(self.to_window, first, last, classes)
        num_classes = len(range(*classes.indices(self.num_classes)))
        scores = self.share.new_zeros(num_classes, last - first, self.size[1])
        height, width = self.to_window.target
        for view in self.windows:
            start, stop = max(first, view.top), min(last, view.top + height)
            if start < stop:
                columns = slice(view.left, view.left + width)
                scores[:, start - first : stop - first, columns].addcmul_(
                    view.rows(self.to_window, start - view.top, stop - view.top, classes),
                    self.share[start:stop, columns],
                )
        if self.global_view is not None:
            needed = self.to_image.needs(first, last)
            part = self.global_view.rows(self.to_global, *needed, classes)
            scores.add_(self.to_image.resize(part, first, last), alpha=0.5)
        return scores

    def all(self) -> Tensor:
        """All scores (N, H, W): 1.4 GB for 847 classes and 640 x 640 pixels."""
        scores = self.share.new_empty(self.num_classes, *self.size)
        with record_function('escnet/scores'):
            step, _ = tile(self.num_classes, self.size[1], self.device)
            for first in range(0, self.size[0], step):
                last = min(first + step, self.size[0])
                scores[:, first:last] = self.rows(first, last)
        return scores
