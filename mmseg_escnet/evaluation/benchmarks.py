"""The six zero-shot benchmarks, and what the papers report on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import ESCNetError

ALL = 'all'


class Benchmark(NamedTuple):
    """One benchmark.

    Attributes:
        key: What the papers call it.
        config: Its file in ``configs/_base_/datasets``.
        num_words: Number of words that the model looks for.
    """

    key: str
    config: str
    num_words: int


BENCHMARKS = (
    Benchmark('A-847', 'ade20k-847.py', 847),
    Benchmark('PC-459', 'pascal-context-459.py', 459),
    Benchmark('A-150', 'ade20k-150.py', 150),
    Benchmark('PC-59', 'pascal-context-59.py', 59),
    Benchmark('PAS-20', 'pascal-voc-20.py', 20),
    Benchmark('PAS-20b', 'pascal-voc-20b.py', 59),  # 21 are evaluated
)

# mIoU in percent as the papers print it; None is what the sources at hand do not have.
# ESC-Net: arXiv 2411.14723. CAT-Seg: arXiv 2303.11797.
PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float | None]]] = {
    'ViT-L/14': {
        'ESC-Net': {
            'A-847': 18.1,
            'PC-459': 27.0,
            'A-150': 41.8,
            'PC-59': 65.6,
            'PAS-20': 98.3,
            'PAS-20b': None,
        },
        'CAT-Seg': {
            'A-847': 16.0,
            'PC-459': 23.8,
            'A-150': 37.9,
            'PC-59': 63.3,
            'PAS-20': 97.0,
            'PAS-20b': 82.5,
        },
    },
    'ViT-B/16': {
        'ESC-Net': {
            'A-847': None,
            'PC-459': None,
            'A-150': 35.6,
            'PC-59': 59.0,
            'PAS-20': 97.3,
            'PAS-20b': 80.1,
        },
        'CAT-Seg': {
            'A-847': 12.0,
            'PC-459': 19.0,
            'A-150': 31.8,
            'PC-59': 57.5,
            'PAS-20': 94.6,
            'PAS-20b': 77.3,
        },
    },
}
_BACKBONES = {  # open_clip's names
    'ViT-L-14-336': 'ViT-L/14',
    'ViT-L-14-336-quickgelu': 'ViT-L/14',
    'ViT-B-16': 'ViT-B/16',
    'ViT-B-16-quickgelu': 'ViT-B/16',
}


_MORE = ('mIoU', 'fwIoU', 'aAcc', 'mIoU_seen', 'mIoU_unseen', 'hIoU')  # beside mIoU_gt


def select_benchmarks(
    keys: Sequence[str], known: Sequence[Benchmark] = BENCHMARKS
) -> tuple[Benchmark, ...]:
    """Benchmarks by their keys, in the order asked for.

    Args:
        keys: Different keys, or 'all' alone.
        known: What there is to choose from.

    Raises:
        ESCNetError: If a key is unknown or stands there twice.
    """
    by_key = {benchmark.key: benchmark for benchmark in known}
    if len(by_key) != len(known):
        raise ESCNetError(
            f'Two benchmarks have the same key among {[b.key for b in known]}: give each its own.'
        )
    if list(keys) == [ALL]:
        return tuple(known)
    for position, key in enumerate(keys):
        if key not in by_key:
            raise ESCNetError(
                f'There is no benchmark {key!r}: give {ALL} alone, or some of {", ".join(by_key)}.'
            )
        if key in keys[:position]:
            raise ESCNetError(f'Benchmark {key} is asked for twice: give it once.')
    return tuple(by_key[key] for key in keys)


def published_row(model_name: str | None) -> tuple[str | None, Mapping[str, Mapping]]:
    """The papers' figures for a CLIP model.

    Args:
        model_name: open_clip's name, as in ``model.backbone.model_name``.

    Returns:
        What the papers call the model, None if they have no figures for it; method -> key -> mIoU
        in percent, None where the sources at hand have none.
    """
    backbone = _BACKBONES.get(model_name)
    return backbone, PUBLISHED.get(backbone, {method: {} for method in PUBLISHED['ViT-L/14']})


def format_table(results: Mapping[str, Mapping], model_name: str | None) -> str:
    """Figures beside those of the papers, as a Markdown table.

    Args:
        results: Key -> figures of ``OpenVocabIoUMetric`` in percent.
        model_name: As in :func:`published_row`.
    """
    backbone, published = published_row(model_name)
    header = ['benchmark', 'mIoU_gt']
    for method in published:
        header += [f'{method} paper', 'difference']
    rows = [header + list(_MORE)]
    for key, metrics in results.items():
        ours = metrics.get('mIoU_gt')
        row = [key, _number(ours)]
        for figures in published.values():
            theirs = figures.get(key)
            difference = None if ours is None or theirs is None else ours - theirs
            row += [_number(theirs, digits=1), _number(difference, sign='+')]
        rows.append(row + [_number(metrics.get(name)) for name in _MORE])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '| ' + ' | '.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + ' |'
        for row in rows
    ]
    lines.insert(1, '|' + '|'.join('-' * (width + 1) + ':' for width in widths) + '|')
    if backbone is None:
        origin = f'The papers have no figures for this model (CLIP: {model_name}).'
    else:
        origin = (
            f"Columns of a paper are that paper's own figures for {backbone}, not measured here; "
            '"-" is not in our sources.'
        )
    explanation = (
        'mIoU in percent. The papers average over the classes in the ground truth, as mIoU_gt '
        'does; mIoU is the mean of MMSegmentation.'
    )
    return '\n'.join([*lines, '', origin, explanation])


def _number(value: float | None, *, digits: int = 2, sign: str = '') -> str:
    return '-' if value is None else f'{value:{sign}.{digits}f}'
