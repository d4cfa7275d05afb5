"""The toy world: coloured shapes on textured ground, drawn by a procedure.

A scene is a pure function of (seed, index), whatever was drawn before it and in which process.
All concepts stand in one table here: colours, shapes and textures, their names, and which of
them training may see the masks of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import cv2
import numpy as np

from ..errors import ESCNetError

IGNORE_INDEX = 255
IMAGE_SIZE = 96  # pixels; lengths below are for this size and grow with it

# --- concepts -----------------------------------------------------------------------------------

COLORS: dict[str, tuple[int, int, int]] = {
    'red': (222, 40, 42),
    'green': (38, 190, 70),
    'blue': (48, 72, 226),
    'yellow': (246, 224, 44),
    'purple': (142, 46, 190),
    'orange': (250, 134, 22),
    'cyan': (50, 214, 224),
    'white': (244, 244, 246),
}
SHAPES = ('circle', 'square', 'triangle', 'star', 'cross', 'ring', 'heart', 'crescent')
TEXTURES: dict[str, tuple[int, int, int]] = {  # name -> colour in pictures of label maps
    'brick': (150, 74, 58),
    'grass': (70, 104, 44),
    'sand': (196, 172, 124),
    'water': (40, 92, 128),
    'wood': (122, 84, 50),
    'stone': (122, 122, 126),
}


def _is_unseen(color_index: int, shape_index: int) -> bool:
    """Two of every eight, like a Latin square: each colour and each shape is six times seen."""
    return (color_index + shape_index) % 8 in (2, 5)


THING_NAMES = tuple(f'{color} {shape}' for color, shape in product(COLORS, SHAPES))
UNSEEN_NAMES = tuple(
    f'{color} {shape}'
    for (i, color), (j, shape) in product(enumerate(COLORS), enumerate(SHAPES))
    if _is_unseen(i, j)
)
ALL_NAMES = THING_NAMES + tuple(TEXTURES)
SEEN_NAMES = tuple(name for name in ALL_NAMES if name not in UNSEEN_NAMES)

_VOCABULARIES = {'all': ALL_NAMES, 'seen': SEEN_NAMES}


def vocabulary_of(name: str) -> tuple[str, ...]:
    """Class names in the order of their ids.

    Args:
        name: ``'all'`` (70 names) or ``'seen'`` (the 54 that training has masks of).

    Raises:
        ESCNetError: If there is no such vocabulary.
    """
    if name not in _VOCABULARIES:
        raise ESCNetError(
            f'The toy world has no vocabulary {name!r}: choose one of {", ".join(_VOCABULARIES)}.'
        )
    return _VOCABULARIES[name]


def palette_of(names: Sequence[str]) -> list[list[int]]:
    """Colours ``[R, G, B]`` for pictures of label maps; shapes of one colour differ in shade."""
    palette = []
    for name in names:
        if name in TEXTURES:
            palette.append(list(TEXTURES[name]))
            continue
        color, shape = name.split()
        shade = 1.0 - 0.07 * SHAPES.index(shape)
        palette.append([round(channel * shade) for channel in COLORS[color]])
    return palette


def to_seen_ids(label: np.ndarray) -> np.ndarray:
    """Turn ids of the vocabulary 'all' into ids of 'seen'; unseen classes become 255.

    Args:
        label: (height, width), uint8.

    Returns:
        (height, width), uint8.
    """
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for new_id, name in enumerate(SEEN_NAMES):
        table[ALL_NAMES.index(name)] = new_id
    return table[label]


# --- scenes -------------------------------------------------------------------------------------


def scene(
    seed: int, index: int, size: int = IMAGE_SIZE, things: Sequence[str] = THING_NAMES
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    One or two grounds and two to five shapes of varying size, turn and brightness, which may
    partly hide each other, under mild noise.

    Args:
        seed: Seed of the world.
        index: Number of the scene.
        size: Height and width in pixels.
        things: Names of the shapes that may occur.

    Returns:
        Image (size, size, 3), uint8, RGB; label (size, size), uint8, ids of the vocabulary 'all'.
    """
    rng = np.random.default_rng([seed, index])
    image, label = _draw_grounds(rng, size)
    owner = np.zeros((size, size), int)  # 0 is ground, k the k-th shape
    for number in range(1, rng.integers(2, 6) + 1):
        _add_shape(rng, number, rng.choice(things), image, label, owner)
    image += rng.uniform(1.0, 5.0) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), label


def _draw_grounds(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    names = rng.permutation(list(TEXTURES))[: rng.integers(1, 3)]
    image = _draw_texture(rng, names[0], size)
    label = np.full((size, size), ALL_NAMES.index(names[0]), np.uint8)
    if len(names) == 2:  # a straight border anywhere near the middle
        y, x = _pixel_grid(size)
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25) * size
        side = (x - size / 2) * np.cos(angle) + (y - size / 2) * np.sin(angle) > offset
        image[side] = _draw_texture(rng, names[1], size)[side]
        label[side] = ALL_NAMES.index(names[1])
    return image, label


def _add_shape(
    rng: np.random.Generator,
    number: int,
    name: str,
    image: np.ndarray,
    label: np.ndarray,
    owner: np.ndarray,
) -> None:
    """Draw a shape in place, where it leaves at least 60 % of each other one as visible as it was.

    Draws nothing if eight tries find no such place.
    """
    size = label.shape[0]
    color, shape = name.split()
    visible = np.bincount(owner.ravel(), minlength=number)
    for _ in range(8):
        radius = rng.uniform(10.0, 21.0) * size / IMAGE_SIZE
        center = rng.uniform(0.6 * radius, size - 0.6 * radius, 2)
        coverage = _draw_shape(shape, center, radius, rng.uniform(0, 2 * np.pi), size)
        inside = coverage > 0.5
        hidden = np.bincount(owner[inside], minlength=number)
        if np.all(hidden[1:] <= 0.4 * visible[1:]):
            break
    else:
        return
    owner[inside] = number
    paint = np.array(COLORS[color], np.float32) * rng.uniform(0.75, 1.05)
    image += coverage[..., None] * (paint - image)
    label[inside] = ALL_NAMES.index(name)


def _draw_shape(
    shape: str, center: np.ndarray, radius: float, angle: float, size: int
) -> np.ndarray:
    """Share of each pixel that a shape covers, (size, size), float32, in [0, 1]."""
    fine = 4  # sub-pixels a side
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outlines = [
        np.rint((outline @ turn.T * radius + center) * fine).astype(np.int32)
        for outline in _OUTLINES[shape]
    ]
    canvas = np.zeros((size * fine, size * fine), np.uint8)
    cv2.fillPoly(canvas, outlines, 255)  # even-odd rule: a second outline is a hole
    coverage = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return coverage.astype(np.float32) / 255


def _arc(radius: float, start: float, stop: float, center: float = 0.0) -> np.ndarray:
    angles = np.linspace(start, stop, 49)
    return np.stack([center + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _make_outlines() -> dict[str, list[np.ndarray]]:
    """Outlines of the shapes within the unit circle, each (points, 2)."""
    full = 2 * np.pi
    t = np.linspace(0, full, 64, endpoint=False)
    heart = np.stack(
        [
            16 * np.sin(t) ** 3,
            -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t),
        ],
        axis=1,
    )
    spikes = np.where(np.arange(10) % 2, 0.42, 1.0)[:, None]
    bar = 0.3
    cross = [(-bar, -1), (bar, -1), (bar, -bar), (1, -bar), (1, bar), (bar, bar)]
    cross += [(bar, 1), (-bar, 1), (-bar, bar), (-1, bar), (-1, -bar), (-bar, -bar)]
    corners = np.pi / 4 + np.arange(4) * np.pi / 2
    # The crescent's inner edge is an arc of the same radius about a centre to the right.
    shift, tip = 0.7, np.arccos(0.7 / 2)
    crescent = np.concatenate(
        [_arc(1.0, tip, full - tip), _arc(1.0, np.pi + tip, np.pi - tip, center=shift)]
    )
    return {
        'circle': [_arc(0.9, 0, full)],
        'square': [np.stack([np.cos(corners), np.sin(corners)], axis=1)],
        'triangle': [_arc(1.0, 0, full)[[0, 16, 32]]],
        'star': [
            np.stack([np.cos(np.arange(10) * full / 10), np.sin(np.arange(10) * full / 10)], axis=1)
            * spikes
        ],
        'cross': [np.array(cross, float)],
        'ring': [_arc(1.0, 0, full), _arc(0.55, 0, full)],
        'heart': [heart / 17.0],
        'crescent': [crescent],
    }


_OUTLINES = _make_outlines()


# --- textures -----------------------------------------------------------------------------------


def _pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:size, :size].astype(np.float32)
    return y, x


def _noise(rng: np.random.Generator, size: int, sigma_x: float, sigma_y: float) -> np.ndarray:
    """Smooth noise of zero mean and unit deviation, (size, size)."""
    noise = rng.standard_normal((size, size), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=sigma_x, sigmaY=sigma_y)
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def _brick(rng: np.random.Generator, size: int, unit: float) -> np.ndarray:
    y, x = _pixel_grid(size)
    height, width = rng.uniform(7, 9) * unit, rng.uniform(15, 19) * unit
    y, x = y + rng.uniform(0, height), x + rng.uniform(0, width)
    row = np.floor(y / height)
    x = x + (row % 2) * width / 2
    column = np.floor(x / width)
    mortar = (y % height < 1.5 * unit) | (x % width < 1.5 * unit)
    each = rng.uniform(-0.14, 0.14, (64, 64)).astype(np.float32)
    shade = 1 + each[row.astype(int) % 64, column.astype(int) % 64]
    bricks = np.array([154, 72, 56], np.float32) * shade[..., None]
    return np.where(mortar[..., None], np.array([176, 164, 152], np.float32), bricks)


def _grass(rng: np.random.Generator, size: int, unit: float) -> np.ndarray:
    blades = _noise(rng, size, 0.6 * unit, 3.0 * unit)
    patches = _noise(rng, size, 8 * unit, 8 * unit)
    shade = 1 + 0.20 * blades + 0.08 * patches
    return np.array([72, 104, 46], np.float32) * shade[..., None]


def _sand(rng: np.random.Generator, size: int, unit: float) -> np.ndarray:
    grains = rng.standard_normal((size, size), dtype=np.float32)
    shade = 1 + 0.06 * grains + 0.05 * _noise(rng, size, 10 * unit, 5 * unit)
    return np.array([198, 174, 126], np.float32) * shade[..., None]


def _water(rng: np.random.Generator, size: int, unit: float) -> np.ndarray:
    y, _ = _pixel_grid(size)
    phase = 1.2 * _noise(rng, size, 9 * unit, 4 * unit)
    waves = np.sin(2 * np.pi * y / (rng.uniform(7, 10) * unit) + phase + rng.uniform(0, 6.3))
    return np.array([36, 90, 128], np.float32) * (1 + 0.22 * waves)[..., None]


def _wood(rng: np.random.Generator, size: int, unit: float) -> np.ndarray:
    y, _ = _pixel_grid(size)
    height = rng.uniform(18, 24) * unit
    y = y + rng.uniform(0, height)
    plank = np.floor(y / height).astype(int)
    grain = _noise(rng, size, 14 * unit, 0.8 * unit)
    shade = 1 + 0.12 * grain + rng.uniform(-0.12, 0.12, 64).astype(np.float32)[plank % 64]
    shade = np.where(y % height < 1.2 * unit, 0.5, shade)
    return np.array([128, 88, 52], np.float32) * shade[..., None]


def _stone(rng: np.random.Generator, size: int, unit: float) -> np.ndarray:
    y, x = _pixel_grid(size)
    spacing = 13.0 * unit  # cobbles: cells around jittered grid points, dark where two meet
    count = int(np.ceil(size / spacing)) + 3
    jitter = rng.uniform(0.15, 0.85, (2, count, count)).astype(np.float32)
    row, column = (y / spacing).astype(int) + 1, (x / spacing).astype(int) + 1
    # The nearest point is in a pixel's own cell or one of the eight around it.
    steps = np.array(list(product((-1, 0, 1), repeat=2)))
    rows, columns = row[..., None] + steps[:, 0], column[..., None] + steps[:, 1]
    point_y = (rows - 1 + jitter[0][rows, columns]) * spacing
    point_x = (columns - 1 + jitter[1][rows, columns]) * spacing
    distance = np.hypot(y[..., None] - point_y, x[..., None] - point_x)
    nearest = np.take_along_axis(
        rows * count + columns, distance.argmin(axis=-1)[..., None], axis=-1
    )[..., 0]
    first, second = np.moveaxis(np.partition(distance, 1, axis=-1)[..., :2], -1, 0)
    shade = (1 + rng.uniform(-0.15, 0.15, count * count).astype(np.float32))[nearest]
    shade = np.where(second - first < 2.0 * unit, 0.55, shade)
    return np.array([126, 126, 130], np.float32) * shade[..., None]


_DRAW_TEXTURE: dict[str, Callable[[np.random.Generator, int, float], np.ndarray]] = {
    'brick': _brick,
    'grass': _grass,
    'sand': _sand,
    'water': _water,
    'wood': _wood,
    'stone': _stone,
}


def _draw_texture(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """A whole image of one texture, (size, size, 3), float32, RGB in 0..255."""
    texture = _DRAW_TEXTURE[name](rng, size, size / IMAGE_SIZE)
    return (texture * rng.uniform(0.85, 1.12)).astype(np.float32)
