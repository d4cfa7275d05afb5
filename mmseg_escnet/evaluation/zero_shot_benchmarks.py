"""The zero-shot benchmarks, and what the papers report on them."""

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
# not one of the six: ESC-Net is trained on it, CLIP alone is not
COCO_STUFF = Benchmark('COCO-171', 'coco-stuff164k.py', 171)


class Published(NamedTuple):
    """What papers report for a model like one under test.

    Attributes:
        model: What they call it; None if they have no figures for it.
        figures: Method -> key -> mIoU in percent; a key is absent where the sources at hand have
            no figure. The model is expected to reach the first method's figures.
        source: Where the figures are from.
    """

    model: str | None
    figures: Mapping[str, Mapping[str, float]]
    source: str


def _row(figures: str) -> dict[str, float]:
    """Figures of the six in their order; '-' is what the sources at hand do not have."""
    keys = [benchmark.key for benchmark in BENCHMARKS]
    return {
        key: float(figure)
        for key, figure in zip(keys, figures.split(), strict=False)
        if figure != '-'
    }


_NETWORKS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    'ViT-L/14': {
        'ESC-Net': _row('18.1 27.0 41.8 65.6 98.3'),
        'CAT-Seg': _row('16.0 23.8 37.9 63.3 97.0 82.5'),
        'MAFT+': _row('15.1 21.6 36.1 59.4 96.5'),
        'EBSeg': _row('13.7 21.0 32.8 60.2 97.2'),
    },
    'ViT-B/16': {
        'ESC-Net': _row('- - 35.6 59.0 97.3 80.1'),
        'CAT-Seg': _row('12.0 19.0 31.8 57.5 94.6 77.3'),
    },
}
_NETWORK_SOURCE = (
    'ESC-Net: arXiv 2411.14723, CAT-Seg: arXiv 2303.11797; MAFT+ and EBSeg as far as these compare '
    'with them'
)
# CLIP ViT-B/16 of OpenAI without training, by its read-out: backbone.readout -> name, figures
_READOUTS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    'value': (
        'MaskCLIP',
        {'PAS-20': 74.9, 'PC-59': 26.4, 'A-150': 11.9, 'COCO-171': 16.7},
    ),
    'correlative': (
        'SCLIP',
        {'PAS-20': 80.4, 'PC-59': 34.2, 'A-150': 16.1, 'COCO-171': 22.4},
    ),
    'attention': ('CLIP', {'PAS-20': 49.4, 'PC-59': 11.1, 'A-150': 3.1, 'COCO-171': 5.7}),
}
_READOUT_SOURCE = 'table of SCLIP, arXiv 2312.01597'
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
        keys: Different keys, or 'all' alone for the six.

    Raises:
        ESCNetError: If a key is unknown or listed twice.
    """
    by_key = {benchmark.key: benchmark for benchmark in (*BENCHMARKS, COCO_STUFF)}
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


def published_for(model: Mapping) -> Published:
    """The papers' figures for a model like this one.

    Args:
        model: ``model`` of a config.
    """
    backbone = model['backbone']
    name = _BACKBONES.get(backbone.get('model_name'))
    if model['type'] == 'CLIPReadout':
        method, figures = _READOUTS[backbone.get('readout', 'value')]
        if name != 'ViT-B/16' or not _may_be_openai(backbone.get('pretrained')):
            return Published(None, {method: {}}, _READOUT_SOURCE)
        return Published(f'{name} of OpenAI', {method: figures}, _READOUT_SOURCE)
    figures = _NETWORKS.get(name) or {method: {} for method in ('ESC-Net', 'CAT-Seg')}
    return Published(name, figures, _NETWORK_SOURCE)


def _may_be_openai(pretrained: object) -> bool:
    # of a file, whose name says nothing, the reader of the table knows more
    return pretrained == 'openai' or (isinstance(pretrained, str) and '.' in pretrained)


class Figures(NamedTuple):
    """What was measured on a benchmark.

    Attributes:
        metrics: Of ``OpenVocabIoUMetric``, in percent.
        images: Number of images.
        published_images: Number of images that the benchmark has.
    """

    metrics: Mapping[str, float | None]
    images: int
    published_images: int

    @property
    def are_complete(self) -> bool:
        """Whether they can be compared with those of a paper."""
        return self.images == self.published_images

    @property
    def count(self) -> str:
        """Number of images in words."""
        return (
            f'{self.images}' if self.are_complete else f'{self.images} of {self.published_images}'
        )


def format_table(results: Mapping[str, Figures], published: Published) -> str:
    """Figures beside those of the papers, as a Markdown table.

    Args:
        results: By the keys of benchmarks.
        published: What to compare with: :func:`published_for`.
    """
    first = next(iter(published.figures))
    header = ['benchmark', 'images', 'mIoU_gt', f'difference to {first}']
    header += [f'{method} paper' for method in published.figures]
    rows = []
    for key, of_benchmark in results.items():
        difference = _difference(key, of_benchmark, published)
        row = [key, of_benchmark.count, _number(of_benchmark.metrics.get('mIoU_gt'))]
        row.append(_number(difference, sign='+'))
        row += [
            _number(figures.get(key) if of_benchmark.are_complete else None, digits=1)
            for figures in published.figures.values()
        ]
        rows.append(row + [_number(of_benchmark.metrics.get(name)) for name in _MORE])
    if published.model is None:
        origin = 'The papers have no figures for this model.'
    else:
        origin = (
            f"Columns of a paper are that paper's own figures for {published.model}, not measured "
            f'here ({published.source}); "-" is not in our sources.'
        )
    explanation = (
        'mIoU in percent. The papers average over the classes in the ground truth, as mIoU_gt '
        'does; mIoU is the mean of MMSegmentation.'
    )
    lines = [table([*header, *_MORE], rows, markdown=True), '', origin, explanation]
    lines += [
        f'{key}: first look: {of_benchmark.count} images, not comparable with published figures'
        for key, of_benchmark in results.items()
        if not of_benchmark.are_complete
    ]
    return '\n'.join(lines)


def calibration(results: Mapping[str, Figures], published: Published) -> str:
    """Whether CLIP alone gives its published figures, in a sentence.

    Args:
        results: By the keys of benchmarks.
        published: What to compare with: :func:`published_for`.
    """
    differences = {key: _difference(key, figures, published) for key, figures in results.items()}
    differences = {key: value for key, value in differences.items() if value is not None}
    if not differences:
        return (
            'Calibration: nothing to compare, because no benchmark here is complete and has a '
            'published figure.'
        )
    off = {key: value for key, value in differences.items() if abs(value) > 1}
    if not off:
        return (
            f'Calibration: within a point of the published figures on {", ".join(differences)}, so '
            "the chain from CLIP's weights to the figure is right."
        )
    found = ', '.join(f'{key} by {value:+.1f}' for key, value in off.items())
    return (
        f'Calibration: off by more than a point on {found}. Check in this order: activation '
        '(QuickGELU for OpenAI), templates, class names and their order, label offset '
        '(reduce_zero_label), background class, resizing; docs/evaluation.md tells how.'
    )


def _difference(key: str, figures: Figures, published: Published) -> float | None:
    """Measured less published mIoU of the first method, if they can be compared."""
    ours = figures.metrics.get('mIoU_gt')
    theirs = next(iter(published.figures.values())).get(key)
    if ours is None or theirs is None or not figures.are_complete:
        return None
    return ours - theirs


def _number(value: float | None, *, digits: int = 2, sign: str = '') -> str:
    return '-' if value is None else f'{value:{sign}.{digits}f}'
