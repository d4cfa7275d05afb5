"""Draw the scenes of the toy world.

Writes OUT/images/{train,val}/000000.png and OUT/annotations/{train,val}/000000.png. Training
labels hold ids of the seen names (255 where the class has no masks), validation labels ids of all
names. Files already there are kept, so a stopped run can be gone on with.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mmseg_escnet.cli import run_tool
from mmseg_escnet.datasets.conversion import EXIT_FAILED_FILES
from mmseg_escnet.datasets.parallel import default_workers, parallel_map
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import encode_label_map, png_header, write_file
from mmseg_escnet.toyworld.scenes import IMAGE_SIZE, WORLD_VERSION, scene
from mmseg_escnet.toyworld.vocabulary import ALL_NAMES, palette_of, to_seen_ids

# Validation scenes are numbered from here on, so the two sets never share a scene.
VAL_OFFSET = 1_000_000
NUM_ON_SHEET = 10


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=Path('data/toyworld_scenes'))
    parser.add_argument('--train', type=int, default=2000, help='number of training scenes')
    parser.add_argument('--val', type=int, default=200, help='number of validation scenes')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--size', type=int, default=IMAGE_SIZE, help='height and width in pixels')
    parser.add_argument('--workers', type=int, default=default_workers(), help='processes')
    return parser.parse_args(argv)


def write_scene(item: tuple[str, int], *, out: Path, seed: int, size: int) -> bool:
    """Draw and write one scene, the label first: an image then always has one.

    Args:
        item: Split and number of the scene.
        out: Root of the data set.
        seed: Seed of the world.
        size: Height and width in pixels.

    Returns:
        Whether it was drawn; False if both files were there.
    """
    split, number = item
    image_file = out / 'images' / split / f'{number:06d}.png'
    label_file = out / 'annotations' / split / f'{number:06d}.png'
    if image_file.exists() and png_header(label_file) == (size, size, 8):
        return False
    index = number + (VAL_OFFSET if split == 'val' else 0)
    image, label = scene(seed, index, size)
    if split == 'train':
        label = to_seen_ids(label)
    write_file(label_file, encode_label_map(label))
    write_file(image_file, encode_image(image))
    return True


def encode_image(image: np.ndarray) -> bytes:
    """Encode an RGB image (height, width, 3), uint8, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    return buffer.getvalue()


def contact_sheet(seed: int, size: int) -> np.ndarray:
    """Picture of the first validation scenes: image, image under its label map, names."""
    palette = np.array(palette_of(ALL_NAMES), np.uint8)
    scale = max(1, round(192 / size))
    side, text_height = size * scale, 104
    columns = NUM_ON_SHEET // 2
    sheet = Image.new('RGB', (columns * (side + 8), 2 * (2 * side + text_height)), 'white')
    draw = ImageDraw.Draw(sheet)
    for i in range(NUM_ON_SHEET):
        image, label = scene(seed, VAL_OFFSET + i, size)
        x, y = (i % columns) * (side + 8), (i // columns) * (2 * side + text_height)
        overlay = (0.25 * image + 0.75 * palette[label]).astype(np.uint8)
        for picture, top in ((image, y), (overlay, y + side)):
            enlarged = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (x, top))
        names = [ALL_NAMES[class_id] for class_id in np.unique(label)]
        draw.text((x + 2, y + 2 * side + 1), '\n'.join(names), fill='black')
    return np.asarray(sheet)


def check_settings(out: Path, **wanted) -> None:
    """Refuse to mix scenes of two worlds in one folder, and remember this one.

    Raises:
        ESCNetError: If the folder was made with other settings.
    """
    file = out / 'world.json'
    if file.exists():
        found = json.loads(file.read_text())
        if found != wanted:
            different = ', '.join(
                key for key in wanted | found if found.get(key) != wanted.get(key)
            )
            raise ESCNetError(
                f'{out} holds scenes made with another {different}: choose another folder with '
                '--out, or delete this one.'
            )
    write_file(file, json.dumps(wanted).encode())


def main(argv: list[str] | None = None) -> int:
    """Draw the scenes that are missing.

    Returns:
        The exit status.
    """
    args = parse_args(argv)
    counts = {'train': args.train, 'val': args.val}
    if min(counts.values()) < 0 or max(counts.values()) > VAL_OFFSET or args.size < 16:
        raise ESCNetError(
            f'--train {args.train} --val {args.val} --size {args.size} is out of range: give 0 to '
            f'{VAL_OFFSET} scenes of at least 16 pixels.'
        )
    for kind in ('images', 'annotations'):
        for split in counts:
            (args.out / kind / split).mkdir(parents=True, exist_ok=True)
    check_settings(args.out, version=WORLD_VERSION, seed=args.seed, size=args.size)
    items = [(split, number) for split, count in counts.items() for number in range(count)]
    world = dict(seed=args.seed, size=args.size)
    write = partial(write_scene, out=args.out, **world)
    outcomes = list(parallel_map(write, items, workers=args.workers, description='scenes'))
    write_file(args.out / 'contact_sheet.png', encode_image(contact_sheet(**world)))
    drawn = sum(bool(outcome.result) for outcome in outcomes)
    failed = [outcome.error for outcome in outcomes if outcome.error]
    for message in failed[:10]:
        print(f'error: {message}', file=sys.stderr)
    print(f'{args.out}: {drawn} scenes drawn, {len(items) - drawn - len(failed)} already there')
    return EXIT_FAILED_FILES if failed else 0


if __name__ == '__main__':
    run_tool(main, interrupted='the same command goes on where this one stopped')
