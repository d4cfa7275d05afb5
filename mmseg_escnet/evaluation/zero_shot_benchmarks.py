"""The six zero-shot benchmarks, and what the papers report on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import ESCNetError
from ..tables import table

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


def _row(*figures: float | None) -> dict[str, float | None]:
    return {benchmark.key: figure for benchmark, figure in zip(BENCHMARKS, figures, strict=True)}


# mIoU in percent as the papers print it; None is what the sources at hand do not have.
# ESC-Net: arXiv 2411.14723. CAT-Seg: arXiv 2303.11797.
PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float | None]]] = {
    'ViT-L/14': {
        'ESC-Net': _row(18.1, 27.0, 41.8, 65.6, 98.3, None),
        'CAT-Seg': _row(16.0, 23.8, 37.9, 63.3, 97.0, 82.5),
    },
    'ViT-B/16': {
        'ESC-Net': _row(None, None, 35.6, 59.0, 97.3, 80.1),
        'CAT-Seg': _row(12.0, 19.0, 31.8, 57.5, 94.6, 77.3),
    },
}
_BACKBONES = {  # open_clip's names
    'ViT-L-14-336': 'ViT-L/14',
    'ViT-L-14-336-quickgelu': 'ViT-L/14',
    'ViT-B-16': 'ViT-B/16',
    'ViT-B-16-quickgelu': 'ViT-B/16',
}


_MORE = ('mIoU', 'fwIoU', 'aAcc', 'mIoU_seen', 'mIoU_unseen', 'hIoU')  # beside mIoU_gt


def select_benchmarks(keys: Sequence[str]) -> tuple[Benchmark, ...]:
    """Benchmarks by their keys, in the order given.

    Args:
        keys: Different keys, or 'all' alone.

    Raises:
        ESCNetError: If a key is unknown or listed twice.
    """
    by_key = {benchmark.key: benchmark for benchmark in BENCHMARKS}
    if list(keys) == [ALL]:
        return BENCHMARKS
    for position, key in enumerate(keys):
        if key not in by_key:
            raise ESCNetError(
                f'There is no benchmark {key!r}: give {ALL} alone, or some of {", ".join(by_key)}.'
            )
        if key in keys[:position]:
            raise ESCNetError(f'Benchmark {key} is listed twice: give it once.')
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
        header += [f'{method} paper', f'difference to {method}']
    rows = []
    for key, metrics in results.items():
        ours = metrics.get('mIoU_gt')
        row = [key, _number(ours)]
        for figures in published.values():
            theirs = figures.get(key)
            difference = None if ours is None or theirs is None else ours - theirs
            row += [_number(theirs, digits=1), _number(difference, sign='+')]
        rows.append(row + [_number(metrics.get(name)) for name in _MORE])
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
    text = table([*header, *_MORE], rows, markdown=True)
    return f'{text}\n\n{origin}\n{explanation}'


def _number(value: float | None, *, digits: int = 2, sign: str = '') -> str:
    return '-' if value is None else f'{value:{sign}.{digits}f}'
