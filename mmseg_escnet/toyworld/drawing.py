"""Write the scenes of the toy world as a data set."""

import json
from functools import partial
from pathlib import Path

from PIL import Image

from ..datasets.parallel import parallel_map
from ..errors import ESCNetError
from ..files import encode_label_map, encode_png, png_header, write_file
from .scenes import IMAGE_SIZE, WORLD_VERSION, scene
from .vocabulary import to_seen_ids

# Validation scenes are numbered from here on, so the two sets never share a scene.
VAL_OFFSET = 1_000_000


def draw_scenes(
    out: Path,
    *,
    train: int = 0,
    val: int = 0,
    seed: int = 0,
    size: int = IMAGE_SIZE,
    workers: int = 1,
) -> int:
    """Write missing scenes as ``images/{train,val}/*.png`` and ``annotations/{train,val}/*.png``.

    Training labels have the ids of the vocabulary 'seen' (255 for classes without masks),
    validation labels those of 'all'.

    Args:
        out: Output folder.
        train: Number of training scenes.
        val: Number of validation scenes.
        seed: Seed of the world.
        size: Height and width in pixels.
        workers: Number of processes.

    Returns:
        Number of scenes that were drawn.

    Raises:
        ESCNetError: If a number is out of range or the folder contains scenes of another world.
    """
    counts = dict(train=train, val=val)
    if min(counts.values()) < 0 or max(counts.values()) > VAL_OFFSET or size < 16:
        raise ESCNetError(
            f'{train} training and {val} validation scenes of {size} pixels are out of range: give '
            f'0 to {VAL_OFFSET} scenes of at least 16 pixels.'
        )
    for kind in ('images', 'annotations'):
        for split in counts:
            (out / kind / split).mkdir(parents=True, exist_ok=True)
    _check_world(out, dict(version=WORLD_VERSION, seed=seed, size=size))
    items = [(split, number) for split, count in counts.items() for number in range(count)]
    write = partial(_write_scene, out=out, seed=seed, size=size)
    drawn = 0
    for outcome in parallel_map(write, items, workers=workers, description='scenes'):
        if outcome.error:
            raise ESCNetError(outcome.error)
        drawn += outcome.result
    return drawn


def _write_scene(item: tuple[str, int], *, out: Path, seed: int, size: int) -> bool:
    """Write one scene, the label before the image. Returns False if both exist."""
    split, number = item
    image_file, label_file = (
        out / kind / split / f'{number:06d}.png' for kind in ('images', 'annotations')
    )
    if image_file.exists() and png_header(label_file) == (size, size, 8):
        return False
    image, label = scene(seed, number + (VAL_OFFSET if split == 'val' else 0), size)
    if split == 'train':
        label = to_seen_ids(label)
    write_file(label_file, encode_label_map(label))
    write_file(image_file, encode_png(Image.fromarray(image)))
    return True


def _check_world(out: Path, world: dict) -> None:
    file = out / 'world.json'
    found = json.loads(file.read_text()) if file.exists() else world
    if different := [key for key in world if world[key] != found.get(key)]:
        raise ESCNetError(
            f'{out} holds scenes made with another {", ".join(different)}: choose another folder '
            'or delete this one.'
        )
    write_file(file, json.dumps(world).encode())
