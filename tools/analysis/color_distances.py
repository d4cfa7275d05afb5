"""Measure how distinguishable the colours of random lists of class names are in an overlay.

    python tools/analysis/color_distances.py --opacity 0.65 --lists 1000

The least distance between two colours of a list, in CIELAB (CIE 1976), where about 2 is just
noticeable: blended over black, grey and white, also with the grey of a background, as seen with
normal vision and with red-green colour blindness (Machado et al. 2009, full protanopia and
deuteranopia). Names are those of a benchmark's vocabulary.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.colors import BACKGROUND, OPACITY
from mmseg_escnet.tables import table

ENOUGH = 20.0
COUNTS = 3, 5, 10, 20
GROUNDS = 0.0, 0.5, 1.0
RED_GREEN_BLIND = (  # linear RGB -> linear RGB
    (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.052),
    ),
    (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.01182, 0.04294, 0.968881),
    ),
)
XYZ_OF_RGB = np.array(
    ((0.412456, 0.357576, 0.180438), (0.212673, 0.715152, 0.072175), (0.019334, 0.119192, 0.950304))
)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('--vocabulary', default='ade150', help='benchmark vocabulary (default: %(default)s)')
    add('--lists', type=int, default=1000, help='random lists (default: %(default)s)')
    add('--opacity', type=float, default=OPACITY, help='of the overlay (default: %(default)s)')
    return parser.parse_args(argv)


def least_distances(palette: Sequence[Sequence[int]], opacity: float) -> tuple[float, float]:
    """Least distance of N colours in an overlay: in normal vision, and to the red-green blind."""
    colors = np.array(palette)[:, None] / 255  # (N, 1, 3); a second axis for the grounds
    seen = opacity * colors + (1 - opacity) * np.array(GROUNDS)[:, None]
    linear = np.where(seen <= 0.04045, seen / 12.92, ((seen + 0.055) / 1.055) ** 2.4)
    kinds = [_least(_lab(linear @ np.transpose(kind))) for kind in (np.eye(3), *RED_GREEN_BLIND)]
    return kinds[0], min(kinds[1:])


def _lab(linear: np.ndarray) -> np.ndarray:
    xyz = np.clip(linear, 0, 1) @ XYZ_OF_RGB.T / XYZ_OF_RGB.sum(axis=1)
    x, y, z = np.moveaxis(
        np.where(xyz > 216 / 24389, np.cbrt(xyz), 841 / 108 * xyz + 4 / 29), -1, 0
    )
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _least(lab: np.ndarray) -> float:
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1).min(axis=-1)
    return float(distances[np.triu_indices(len(lab), 1)].min())


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    args = parse_args(argv)

    from mmseg_escnet.datasets.benchmark_vocabularies import load_benchmark
    from mmseg_escnet.vocabulary import palette_of

    names = [known.name for known in load_benchmark(args.vocabulary)]
    random = np.random.default_rng(0)
    rows = []
    for count in COUNTS:
        lists = (random.choice(len(names), count, replace=False) for _ in range(args.lists))
        palettes = ([*palette_of([names[i] for i in ids]), BACKGROUND] for ids in lists)
        found = np.array([least_distances(palette, args.opacity) for palette in palettes])
        for vision, values in zip(('normal', 'red-green blind'), found.T, strict=True):
            below = f'{np.mean(values < ENOUGH):.0%}'
            rows.append([count, vision, f'{values.min():.1f}', f'{np.median(values):.1f}', below])
    heads = ['words', 'vision', 'least distance', 'median', f'below {ENOUGH:g}']
    print(table(heads, rows, markdown=True, align='rlrrr'))


if __name__ == '__main__':
    run_tool(main)
