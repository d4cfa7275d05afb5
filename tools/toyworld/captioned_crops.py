"""Crops of toy scenes with true and false captions, to pretrain CLIP on."""

from __future__ import annotations

import numpy as np
import torch
from pretraining import normalize, turn
from torch import Tensor

from mmseg_escnet.toyworld.scenes import IMAGE_SIZE
from mmseg_escnet.toyworld.vocabulary import (
    ALL_NAMES,
    COLORS,
    EVERYDAY_WORDS,
    SHAPES,
    THING_NAMES,
    with_synonyms,
)
from mmseg_escnet.vocabulary import split_synonyms

CROP = 48  # pixels: smaller than a scene, so that a picture has few things in it
TEMPLATES = (
    'A photo of a {} in the scene',
    'A photo of a {} in the scene',
    'A photo of a {}',
    'There is a {} in the scene',
)
EVERYDAY_PER_STEP = 24


class CaptionedCrops:
    """Crops of scenes, captions, and which captions are true of which crop.

    A caption has one name, one colour ('a red thing'), one shape ('a circle'), or an everyday word
    that is never true.

    Args:
        pool: See :func:`pretraining.scene_pool`.
        seed: Determines the batch, together with the step.
        batch_size: Crops per step.
    """

    def __init__(self, pool: np.ndarray, *, seed: int, batch_size: int) -> None:
        self.pool, self.seed, self.batch_size = pool, seed, batch_size
        self.names = (
            *ALL_NAMES,
            *(f'{color} thing' for color in COLORS),
            *SHAPES,
        )
        # (names of the vocabulary 'all', caption names): whether the one implies the other
        follows = np.eye(len(ALL_NAMES), len(self.names), dtype=bool)
        for row, name in enumerate(THING_NAMES):
            color, shape = name.split()
            follows[row, self.names.index(f'{color} thing')] = True
            follows[row, self.names.index(shape)] = True
        self.follows = follows

    def captions(self, rng: np.random.Generator) -> list[str]:
        """A caption for each name, then some everyday ones; random synonym and template."""
        everyday = rng.choice(EVERYDAY_WORDS, EVERYDAY_PER_STEP, replace=False)
        return [
            str(rng.choice(TEMPLATES)).format(rng.choice(split_synonyms(with_synonyms(name))))
            for name in (*self.names, *everyday)
        ]

    def __call__(self, step: int) -> tuple[Tensor, list[str], Tensor, Tensor]:
        """The batch of a step.

        Returns:
            Crops (B, 3, 48, 48); T captions; whether caption t is true of crop b, and whether it is
            false, each (B, T), bool. It is neither if the crop has only a fragment of what it
            names: less than 60 % of the pixels in the scene, and less than 400.
        """
        rng = np.random.default_rng([self.seed, step])
        chosen = np.sort(rng.integers(len(self.pool), size=self.batch_size))
        images, shown, partly = [], [], []
        for index, kind in zip(chosen, rng.integers(8, size=self.batch_size), strict=True):
            picture = self.pool[index]
            whole = np.bincount(picture[..., 3].ravel(), minlength=len(ALL_NAMES))
            crop = _around_a_thing(picture, whole, rng)
            images.append(turn(crop[..., :3], int(kind)))
            inside = np.bincount(crop[..., 3].ravel(), minlength=len(ALL_NAMES))
            enough = inside >= np.minimum(0.6 * whole, 400)
            shown.append((inside > 0) & enough)
            partly.append((inside > 0) & ~enough)
        captions = self.captions(rng)
        true = np.stack(shown).astype(int) @ self.follows > 0
        unsure = (np.stack(partly).astype(int) @ self.follows > 0) & ~true
        strange = len(captions) - len(self.names)
        true = np.pad(true, ((0, 0), (0, strange)))
        unsure = np.pad(unsure, ((0, 0), (0, strange)))
        images = normalize(np.ascontiguousarray(np.stack(images)))
        return images, captions, torch.from_numpy(true), torch.from_numpy(~true & ~unsure)


def _around_a_thing(
    picture: np.ndarray, pixels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A crop (48, 48, 4) roughly centred on a random thing, as people take photographs.

    Args:
        picture: (96, 96, 4), colours and id.
        pixels: Number of pixels of each id.
        rng: Random numbers.
    """
    thing = rng.choice(np.flatnonzero(pixels[: len(THING_NAMES)]))
    corners = [
        int(np.clip(axis.mean() - CROP / 2 + shift, 0, IMAGE_SIZE - CROP))
        for axis, shift in zip(
            np.nonzero(picture[..., 3] == thing), rng.integers(-8, 9, 2), strict=True
        )
    ]
    top, left = corners
    return picture[top : top + CROP, left : left + CROP]
