"""The toy world: procedurally drawn coloured shapes on textured ground.

A scene is a pure function of (seed, index). Its classes are in :mod:`.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import cv2
import numpy as np

from .vocabulary import ALL_NAMES, COLORS, TEXTURES, THING_NAMES

WORLD_VERSION = 2  # increment when any scene changes, since weights and files depend on it
IMAGE_SIZE = 96  # pixels; lengths below are for this size and scale with it

_EXAMPLES = {  # scenes that no training draws, and words for them
    1_000_000: 'yellow heart, orange ring, wood, sea | water',
    1_000_008: 'red heart, orange star, cyan star, grass | lawn, fabric',
    1_000_002: 'green triangle, yellow square, cyan heart, white heart, fabric',
    1_000_011: 'purple moon, cyan hoop, brick',
}

# --- scenes -------------------------------------------------------------------------------------


def scene(seed: int, index: int, size: int = IMAGE_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    One or two grounds and two to five shapes of varying size, rotation and brightness, which may
    partly occlude each other, with mild noise.

    Args:
        seed: Seed of the world.
        index: Number of the scene.
        size: Height and width in pixels.

    Returns:
        Image (size, size, 3), uint8, RGB; label (size, size), uint8, ids of the vocabulary 'all'.
    """
    rng = np.random.default_rng([seed, index])
    image, label = _draw_grounds(rng, size)
    owner = np.zeros((size, size), int)  # 0 is ground, k the k-th shape
    for number in range(1, rng.integers(2, 6) + 1):
        _add_shape(rng, number, rng.choice(THING_NAMES), image, label, owner)
    image += rng.uniform(1.0, 5.0) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), label


def example_scenes(enlarge: int = 5) -> list[tuple[np.ndarray, str]]:
    """Example scenes with words for them, enlarged by repeating pixels.

    Returns:
        Images (96 * enlarge, 96 * enlarge, 3), uint8, RGB, with words separated by commas.
    """
    images = [scene(0, i)[0].repeat(enlarge, axis=0).repeat(enlarge, axis=1) for i in _EXAMPLES]
    return list(zip(images, _EXAMPLES.values(), strict=True))


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
    """Draw a shape in place, hiding at most 40 % of what is visible of any other shape.

    Draws nothing if eight attempts find no such position.
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
    """Fraction of each pixel covered by a shape, (size, size), float32, in [0, 1]."""
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


def _tiles(rng: np.random.Generator, size: int, unit: float) -> np.ndarray:
    y, x = _pixel_grid(size)
    side = rng.uniform(9, 12) * unit
    y, x = y + rng.uniform(0, 2 * side), x + rng.uniform(0, 2 * side)
    light = (np.floor(y / side) + np.floor(x / side)) % 2
    shade = 0.72 + 0.36 * light + 0.03 * _noise(rng, size, 5 * unit, 5 * unit)
    return np.array([156, 172, 164], np.float32) * shade[..., None]


def _fabric(rng: np.random.Generator, size: int, unit: float) -> np.ndarray:
    y, x = _pixel_grid(size)
    period = rng.uniform(6, 8) * unit
    stripes = np.sin(2 * np.pi * (x + y) / period + rng.uniform(0, 6.3))
    weave = rng.standard_normal((size, size), dtype=np.float32)
    shade = 1 + 0.20 * np.sign(stripes) + 0.04 * weave
    return np.array([120, 78, 106], np.float32) * shade[..., None]


_DRAW_TEXTURE: dict[str, Callable[[np.random.Generator, int, float], np.ndarray]] = {
    'brick': _brick,
    'grass': _grass,
    'sand': _sand,
    'water': _water,
    'wood': _wood,
    'stone': _stone,
    'tiles': _tiles,
    'fabric': _fabric,
}


def _draw_texture(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """A whole image of one texture, (size, size, 3), float32, RGB in 0..255."""
    texture = _DRAW_TEXTURE[name](rng, size, size / IMAGE_SIZE)
    return (texture * rng.uniform(0.85, 1.12)).astype(np.float32)
