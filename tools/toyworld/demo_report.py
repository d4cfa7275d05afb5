"""What the demo shows of its measurements: a table, pictures, and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from measure import GROUPS, Measurement
from mmengine.dataset import pseudo_collate

from mmseg_escnet.apis.inside import look_inside, whole_view
from mmseg_escnet.files import write_file
from mmseg_escnet.toyworld.vocabulary import THING_NAMES, vocabulary_of
from mmseg_escnet.visualization import (
    Section,
    Table,
    class_bars_figure,
    curve_figure,
    save_figure,
    scenes_figure,
    write_report,
)

_EASIER = (
    'Scenes are clean drawings of few things on one or two grounds, all at a similar scale.',
    'Captions of the miniature CLIP name every thing that can be seen, one at a time, without '
    'noise, and its dense read-out was part of its pretraining; the real CLIP had neither.',
    'CLIP has seen all 72 concepts in pictures with captions. Unseen means: without a mask.',
    'Things without masks are in the training pictures, as pixels that are ignored.',
    'The words are made of two parts that occur in many combinations.',
)


def result_rows(
    found: Mapping[str, Measurement], chance: np.ndarray, names: Sequence[str]
) -> list[list[str | float]]:
    """A row a group of names: title, then the mIoU (%) of each method and of chance."""
    rows = []
    for group, title in GROUPS.items():
        members = vocabulary_of(group)
        guessed = np.nanmean([chance[names.index(name)] for name in members])
        values = [found[method].metrics[f'mIoU_{group}'] for method in found]
        rows.append([f'{len(members)} names: {title}', *values, guessed])
    values = [found[method].metrics['mIoU_gt'] for method in found]
    rows.append([f'all {len(names)} names', *values, np.nanmean(chance)])
    return rows


def text_table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Rows as text."""
    from prettytable import PrettyTable

    table = PrettyTable(list(columns))
    table.align = 'r'
    table.align[columns[0]] = 'l'
    table.add_rows([[_shown(cell) for cell in row] for row in rows])
    return str(table)


def _shown(cell: str | float | None) -> str:
    if cell is None:
        return '-'
    return cell if isinstance(cell, str) else f'{cell:.1f}'


def smooth(values: Sequence[float], width: int = 10) -> list[tuple[float, float]]:
    """(step, mean of the last values), one in ten."""
    return [
        (end, float(np.mean(values[max(0, end - width) : end])))
        for end in range(width, len(values) + 1, width)
    ]


def draw_inside(model, dataset, number: int) -> Figure:
    """What the blocks do for the thing of an image that has the most pixels."""
    model.eval()
    model.set_vocabulary(dataset.metainfo['classes'], dataset.metainfo['palette'])
    batch = pseudo_collate([dataset[number]])
    data = model.data_preprocessor(batch, False)
    sample = data['data_samples'][0]
    truth = sample.gt_sem_seg.data[0].cpu().numpy()
    counts = np.bincount(truth[truth < model.num_classes], minlength=model.num_classes)
    counts = counts * [name in THING_NAMES for name in model.vocabulary.names]
    view = whole_view(model, data['inputs'], sample.metainfo)
    number = int(counts.argmax())
    names = {model.vocabulary.names[number]: number}
    (inside,) = look_inside(model, view, image_of(batch), model.text_features(), names)
    return inside.figure()


def image_of(batch: dict) -> np.ndarray:
    """(H, W, 3) uint8, RGB, of a batch of one image as it was loaded."""
    return np.ascontiguousarray(batch['inputs'][0].permute(1, 2, 0).numpy()[..., ::-1])


def write_demo_report(
    out: Path,
    *,
    model,
    dataset,
    found: Mapping[str, Measurement],
    chance: np.ndarray,
    large: Mapping[str, Measurement],
    logged: Mapping[str, Sequence[float]],
    seconds: float,
) -> None:
    """Print the table; write it, the figures as JSON, the pictures, and the page.

    Args:
        out: Folder.
        model: The trained ESC-Net.
        dataset: What it was measured on.
        found: Measurements by method.
        chance: IoU of guessing (N,).
        large: Measurements with the large vocabulary, by method.
        logged: Values of training by what they are, one a step.
        seconds: Time of it all.
    """
    names = list(dataset.metainfo['classes'])
    columns = ('mIoU (%) over', *found, 'chance')
    rows = result_rows(found, chance, names)
    if large:
        values = [large[method].metrics['mIoU_gt'] if method in large else None for method in found]
        words = len(vocabulary_of('large'))
        rows.append([f'the same {len(names)} among {words} words', *values, None])
    text = text_table(columns, rows)
    write_file(out / 'table.txt', f'{text}\n'.encode())
    record = dict(
        metrics={method: measurement.metrics for method, measurement in found.items()},
        large={method: measurement.metrics for method, measurement in large.items()},
        chance={row[0]: row[-1] for row in rows},
        seconds=round(seconds),
    )
    write_file(out / 'result.json', json.dumps(record, indent=1).encode())

    kept = [method for method in found if found[method].predictions]
    count = len(found[kept[0]].predictions)
    model.set_vocabulary(names, dataset.metainfo['palette'])
    samples = [pseudo_collate([dataset[number]]) for number in range(count)]
    scenes = scenes_figure(
        images=[image_of(batch) for batch in samples],
        truths=[batch['data_samples'][0].gt_sem_seg.data[0].numpy() for batch in samples],
        predictions={method: found[method].predictions for method in reversed(kept)},
        vocabulary=model.vocabulary,
    )
    bars = class_bars_figure(
        names=names,
        groups={title: vocabulary_of(group) for group, title in GROUPS.items()},
        scores={method: found[method].class_iou for method in kept},
    )
    figures = dict(panels=scenes, classes=bars)
    if logged:
        figures['curves'] = curve_figure({key: smooth(values) for key, values in logged.items()})
    inside = {f'blocks_{number}': draw_inside(model, dataset, number) for number in range(count)}
    for name, figure in (figures | inside).items():
        save_figure(figure, out / f'{name}.png')

    sections = [
        Section(
            title='What was reached',
            paragraphs=(
                'ESC-Net was trained on masks of 42 names and is asked for all of them by their '
                'words. "Raw CLIP" is the class of the highest cosine at every patch, without '
                'ESC-Net. With the "words exchanged", each name without masks got the text of '
                'another one: who finds a class by its word must lose it. Chance is guessing '
                'every pixel.',
                f'{len(dataset)} scenes, {seconds:.0f} s in all.',
            ),
            tables=(Table(columns, [[_shown(c) for c in row] for row in rows], ''),),
        ),
        Section(title='Scenes', figures=[('Images, ground truth and predictions', scenes)]),
        Section(title='Class by class', figures=[('IoU of every class', bars)]),
        Section(
            title='Block by block',
            paragraphs=(
                'For one thing of each scene: the correlation that each block reads, the pseudo '
                'prompts made of it, and what the SAM block does to the features.',
            ),
            figures=[
                (f'Correlation, prompts and features, scene {i}', f)
                for i, f in enumerate(inside.values())
            ],
        ),
    ]
    if logged:
        sections.append(Section(title='Training', figures=[('Training curves', figures['curves'])]))
    sections.append(Section(title='What makes this easier than the real thing', paragraphs=_EASIER))
    write_report(out / 'report.html', title='ESC-Net in the toy world', sections=sections)
    print(f'\n{text}\npage: {out / "report.html"}')
