"""Classes of the published data sets, their ids in the raw files, and numbers of images."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..errors import ESCNetError

_FOLDER = Path(__file__).resolve().parent / 'vocabularies'

# Images per split, by the name of its list of images or else of its image folder.
PUBLISHED_IMAGES = {
    'ade20k': {'training': 20_210, 'validation': 2_000},
    'ade20k_full': {'training': 25_574, 'validation': 2_000},
    'coco_stuff': {'train2017': 118_287, 'val2017': 5_000},
    'pascal_context': {'train': 4_998, 'val': 5_105},
    'pascal_voc': {'train': 1_464, 'val': 1_449, 'trainval': 2_913},
}


class BenchmarkClass(NamedTuple):
    """One class of a benchmark.

    Attributes:
        name: Name for the text encoder; synonyms are separated by ``', '``.
        raw_id: Id in the published annotation files; None for PC-59 and PAS-20b, which are derived
            from other files. ADE20K-847: index into the full ADE20K list; ADE20K-150,
            PASCAL-Context-459: 1-based label; COCO-Stuff: pixel value of ``stuffthingmaps``;
            VOC: palette index.
    """

    name: str
    raw_id: int | None


@cache
def load_benchmark(name: str) -> tuple[BenchmarkClass, ...]:
    """Classes of a benchmark, in benchmark order.

    Args:
        name: ``'ade150'``, ``'ade847'``, ``'coco_stuff171'``, ``'pc59'``, ``'pc459'``,
            ``'voc20'`` or ``'voc20b'`` (20 objects, then the 39 PC-59 classes outside VOC); or
            ``'toyworld_'`` and a vocabulary of the toy world, such as ``'toyworld_seen'``.

    Raises:
        ESCNetError: If there is no such vocabulary.
    """
    known = sorted(path.stem for path in _FOLDER.glob('*.json'))
    if name not in known:
        raise ESCNetError(f'There is no vocabulary {name!r}: choose one of {", ".join(known)}.')
    entries = json.loads((_FOLDER / f'{name}.json').read_text(encoding='utf-8'))
    return tuple(BenchmarkClass(entry['name'], entry.get('raw_id')) for entry in entries)


def vocabulary_names(name: str) -> tuple[str, ...]:
    """Class names of :func:`load_benchmark`."""
    return tuple(entry.name for entry in load_benchmark(name))
