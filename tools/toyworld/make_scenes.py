"""Draw the scenes of the toy world.

Writes OUT/images/{train,val}/000000.png and OUT/annotations/{train,val}/000000.png. Training
labels hold ids of the seen names (255 where the class has no masks), validation labels ids of all
names. Existing files are kept, so a stopped run can be resumed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_escnet.cli import run_tool
from mmseg_escnet.datasets.parallel import default_workers
from mmseg_escnet.toyworld.drawing import draw_scenes
from mmseg_escnet.toyworld.scenes import IMAGE_SIZE


def main(argv: list[str] | None = None) -> None:
    """Draw the scenes that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=Path('data/toyworld_scenes'))
    parser.add_argument('--train', type=int, default=2000, help='number of training scenes')
    parser.add_argument('--val', type=int, default=200, help='number of validation scenes')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--size', type=int, default=IMAGE_SIZE, help='height and width in pixels')
    parser.add_argument('--workers', type=int, default=default_workers(), help='processes')
    args = parser.parse_args(argv)
    drawn = draw_scenes(**vars(args))
    print(f'{args.out}: {drawn} scenes drawn, {args.train + args.val - drawn} already there')


if __name__ == '__main__':
    run_tool(main, interrupted='the same command resumes where this one stopped')
