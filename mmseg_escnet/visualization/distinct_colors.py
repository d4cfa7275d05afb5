"""Colours of drawings, and distinguishable colours for the classes of one picture."""

from collections.abc import Sequence

import cv2
import numpy as np

INK, QUIET = '#1e2126', '#6b7078'  # of text, and of less important text
# of Okabe and Ito, distinguishable for the colour-blind
OKABE_ITO = ('#d55e00', '#0072b2', '#009e73', '#cc79a7', '#b07d00', '#56b4e9')
# In CIELAB (CIE 1976), where about 2 is just noticeable. Of 20 random names of A-847 the two most
# similar are 6.5 apart (median); an overlay over a photograph halves every distance.
LEAST_DISTANCE = 20.0
_LEVELS = np.arange(0, 256, 17)
_LEAST_SPREAD = 60  # between the channels: greys belong to the photograph and to ignored pixels
_LEAST_VALUE = 110  # of the brightest channel: dark ones hide the photograph


def tell_apart(
    palette: Sequence[Sequence[int]], class_ids: Sequence[int]
) -> dict[int, tuple[int, int, int]]:
    """Give the classes of one picture distinguishable colours.

    A class keeps its colour unless that of an earlier class is similar; then it gets the colour
    that is least similar to all others.

    Args:
        palette: N colours (R, G, B).
        class_ids: The classes in the picture, the most important first. Beyond about sixty, the
            last ones may keep similar colours.

    Returns:
        Class id -> colour, for the classes whose colour changed.
    """
    own = {i: _lab(np.array([palette[i]], np.uint8))[0] for i in class_ids}
    kept: list[int] = []
    for i in class_ids:
        if all(_distance(own[i], own[j]) >= LEAST_DISTANCE for j in kept):
            kept.append(i)
    choice = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS), axis=-1).reshape(-1, 3)
    usable = (np.ptp(choice, axis=1) >= _LEAST_SPREAD) & (choice.max(axis=1) >= _LEAST_VALUE)
    choice = choice[usable].astype(np.uint8)
    places = _lab(choice)
    room = np.full(len(choice), np.inf)  # distance of each to the nearest colour in use
    for i in kept:
        room = np.minimum(room, _distance(places, own[i]))
    changed = {}
    for i in (i for i in class_ids if i not in kept):
        best = room.argmax()
        if room[best] < LEAST_DISTANCE:
            break
        changed[i] = tuple(choice[best].tolist())
        room = np.minimum(room, _distance(places, places[best]))
    return changed


def _lab(colors: np.ndarray) -> np.ndarray:
    """(N, 3) uint8 RGB to CIELAB."""
    return cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.linalg.norm(one - other, axis=-1)
