"""Scores of an image, brought to its size a few classes at a time.

The scores of 20 classes at the size of a 12-megapixel photograph take 1 GB, of 847 classes 40 GB.
Here they stay at the size at which the model works, and only what is asked for becomes large.

Shapes: M words, h x w pixels of the network's input, H x W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# PyTorch resizes three channels by another routine, which rounds otherwise: a part never has three
# of more channels, so that the result is, bit by bit, that of all at once.
_PART = 8


@dataclass(frozen=True)
class BestWords:
    """The best word of every pixel.

    Attributes:
        ids: (H, W), int64; of equal words the first.
        scores: Its probability, (H, W).
        normaliser: Logarithm of the sum of the exponentials of all M logits, (H, W); None where
            the scores are probabilities already.
    """

    ids: Tensor
    scores: Tensor
    normaliser: Tensor | None


@dataclass(frozen=True)
class ScoreMaps:
    """Scores of M words at the size of the network's input.

    Attributes:
        scores: (M, h, w): probabilities or logits.
        size: (H, W), of the image.
        are_probabilities: Whether the scores are probabilities.
        align_corners: How the model resizes.
    """

    scores: Tensor
    size: tuple[int, int]
    are_probabilities: bool
    align_corners: bool

    def best(self) -> BestWords:
        """Find the best word of every pixel."""
        best, ids, total, first = None, None, None, 0
        for part in self._parts():
            highest, index = part.max(dim=0)
            if best is None:
                new, best, ids = highest, highest, index
            else:
                new = torch.maximum(best, highest)
                ids = torch.where(highest > best, index + first, ids)
            if not self.are_probabilities:
                here = (part - new).exp().sum(dim=0)
                total = here if total is None else total * (best - new).exp() + here
            best, first = new, first + len(part)
        if self.are_probabilities:
            return BestWords(ids, best, None)
        return BestWords(ids, total.reciprocal(), best + total.log())

    def of(self, words: Sequence[int], normaliser: Tensor | None) -> Tensor:
        """The highest probability that some words have.

        Args:
            words: Ids of the words.
            normaliser: As :meth:`best` returns it.

        Returns:
            (H, W).
        """
        highest = None
        for word in words:
            scores = self._resize(self.scores[word : word + 1])[0]
            highest = scores if highest is None else torch.maximum(highest, scores)
        return highest if self.are_probabilities else (highest - normaliser).exp()

    def cpu(self) -> ScoreMaps:
        """The same on the CPU."""
        return ScoreMaps(self.scores.cpu(), self.size, self.are_probabilities, self.align_corners)

    def _parts(self) -> Iterator[Tensor]:
        count = max(len(self.scores) // _PART, 1)
        for number in range(count):
            last = None if number == count - 1 else (number + 1) * _PART
            yield self._resize(self.scores[number * _PART : last])

    def _resize(self, scores: Tensor) -> Tensor:
        return F.interpolate(
            scores[None], self.size, mode='bilinear', align_corners=self.align_corners
        )[0]
