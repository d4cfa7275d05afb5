"""Tables, goals and the figure of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark_measure import OTHER

PARTS = ('clip', 'text', 'ppg', 'prompts', 'sam', 'vlf', 'decoder', 'scores', OTHER)
GIB = 2**30
_B16, _L14 = 'escnet_vitb16_coco-stuff', 'escnet_vitl14_coco-stuff'
# (setting, dtype) -> N -> time of one window over that of one dense CLIP forward in fp32, B/16 on
# a CPU
RATIO_GOALS = {
    ('exact', 'fp32'): {20: 3, 59: 6, 150: 12, 171: 14, 847: 65},
    ('exact', 'bf16'): {20: 2, 59: 3.5, 150: 7, 171: 8, 847: 35},
    ('shortlist', 'fp32'): {20: 2, 59: 3, 150: 4, 171: 4, 847: 6},
}
_MEMORY_GOAL = 1.15  # peak at 847 classes over that at 171
_FAST_GOAL = 2.5 / 1.2  # time of the fast setting over SAN's
_GPU_GOAL = 30  # images a second
_COLORS = {'exact': '#0072b2', 'shortlist': '#e69f00', 'fast': '#009e73', 'SAN': '#6b7078'}
_QUIET = '#6b7078'


@dataclass(frozen=True)
class Goal:
    """A goal and what was measured.

    Attributes:
        text: What it is about.
        limit: What was aimed at.
        measured: What came out.
        at_least: Whether more is better.
    """

    text: str
    limit: float
    measured: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return (self.measured >= self.limit) if self.at_least else (self.measured <= self.limit)


def find(rows: Sequence[dict], **wanted) -> dict | None:
    """The row whose case has these values; ``model`` is the stem of its config."""
    for row in rows:
        case = row['case'] | dict(model=Path(row['case']['config']).stem)
        if all(case[key] == value for key, value in wanted.items()):
            return row
    return None


def check_goals(rows: Sequence[dict]) -> list[Goal]:
    """The goals of DESIGN's section on cost for which there are figures."""
    goals = []
    window = dict(kind='escnet', model=_B16, device='cpu', mode='window')
    for (setting, dtype), limits in RATIO_GOALS.items():
        for classes, limit in limits.items():
            row = find(rows, **window, setting=setting, dtype=dtype, classes=classes)
            if row is not None:
                text = f'{setting} {dtype}, {classes} classes: CLIP forwards a window'
                goals.append(Goal(text, limit, row['ratio']))
    for mode in ('window', 'image'):
        wanted = window | dict(mode=mode, setting='exact', dtype='fp32')
        small, large = (find(rows, **wanted, classes=n) for n in (171, 847))
        if small is not None and large is not None:
            value = large['peak_memory'] / small['peak_memory']
            goals.append(Goal(f'peak memory ({mode}), 847 classes over 171', _MEMORY_GOAL, value))
    peer = find(rows, kind='san', device='cpu', dtype='fp32', classes=150)
    fast = [
        row
        for dtype in ('fp32', 'bf16')
        if (
            row := find(
                rows, **window | dict(mode='image', setting='fast', dtype=dtype, classes=150)
            )
        )
    ]
    if peer is not None and fast:
        value = min(row['seconds'] for row in fast) / peer['seconds']
        goals.append(Goal('fast, 150 classes: time of an image over SAN', _FAST_GOAL, value))
    gpu = dict(kind='escnet', model=_L14, device='cuda', mode='image', setting='exact')
    row = find(rows, **gpu, dtype='bf16', classes=150)
    if row is not None:
        text = 'GPU, L/14, exact bf16, 150 classes: images a second'
        goals.append(Goal(text, _GPU_GOAL, 1 / row['seconds'], at_least=True))
    return goals


# -- tables --------------------------------------------------------------------------------------


def main_table(rows: Sequence[dict]):
    """A line for each measurement."""
    table = _table(
        ['what', 'classes', 'type', 'device', 'time (s)', 'min-max', 'x CLIP', 'peak (GiB)']
        + ['GFLOP', 'share of peak (%)', 'others (cores)']
    )
    for row in rows:
        case = row['case']
        if case['kind'] == 'machine':
            continue
        times = row['all_seconds']
        peak = row.get('peak_memory')
        busy = row['others_busy']
        table.add_row(
            [
                label_of(case),
                case['classes'] or '',
                case['dtype'],
                case['device'],
                _number(row['seconds']),
                f'{_number(min(times))}-{_number(max(times))}' if len(times) > 1 else '',
                _number(_ratio(row, rows)),
                _number(peak and peak / GIB),
                _number(row['flops'] / 1e9),
                _number(_share_of_peak(row, rows)),
                '' if busy is None else f'{busy:.1f}',
            ]
        )
    return table


def parts_table(rows: Sequence[dict]):
    """The share of each part of the network."""
    rows = [row for row in rows if 'parts' in row]
    shown = [part for part in PARTS if any(part in row['parts'] for row in rows)]
    table = _table(['share of the time (%)', 'classes', 'type', 'device', *shown])
    for row in rows:
        case, parts = row['case'], row['parts']
        whole = sum(parts.values())
        shares = [f'{100 * parts[part] / whole:.0f}' if part in parts else '' for part in shown]
        table.add_row([label_of(case), case['classes'], case['dtype'], case['device'], *shares])
    return table


def goal_table(goals: Sequence[Goal]):
    """A line for each goal."""
    table = _table(['goal', 'limit', 'measured', ''])
    for goal in goals:
        sign = '>=' if goal.at_least else '<='
        table.add_row(
            [
                goal.text,
                f'{sign} {_number(goal.limit)}',
                _number(goal.measured),
                'reached' if goal.reached else 'missed',
            ]
        )
    return table


def label_of(case: dict) -> str:
    """What a row is about, in words."""
    model = Path(case['config']).stem
    if case['kind'] == 'clip':
        return f'{model}: dense CLIP forward'
    if case['kind'] == 'text':
        return f'{model}: encoding the words'
    if case['kind'] == 'training':
        return f'{model}: training step'
    if case['kind'] == 'san':
        return 'SAN ViT-B/16, image'
    return f'{model}: {case["setting"]}, {case["mode"]}'


def _ratio(row: dict, rows: Sequence[dict]) -> float | None:
    if 'ratio' in row:
        return row['ratio']
    wanted = dict(kind='clip', dtype='fp32', device=row['case']['device'])
    model = Path(row['case']['config']).stem or _B16
    clip = find(rows, **wanted, model=model)
    return None if clip is None else row['seconds'] / clip['seconds']


def _share_of_peak(row: dict, rows: Sequence[dict]) -> float | None:
    machine = find(rows, kind='machine', device=row['case']['device'])
    if machine is None:
        return None
    peak = machine['matmul_flops_per_second'][row['case']['dtype']]
    return 100 * row['flops'] / row['seconds'] / peak


def _number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ''
    return f'{value:.0f}' if abs(value) >= 100 else f'{value:#.3g}'.rstrip('.')


def _table(names: list[str]):
    from prettytable import PrettyTable

    table = PrettyTable(names)
    table.align = 'r'
    table.align[names[0]] = 'l'
    return table


def _text(table, markdown: bool) -> str:
    if not markdown:
        return table.get_string()
    names = table.field_names
    rules = [':--' if table.align[name] == 'l' else '--:' for name in names]
    lines = [names, rules, *([str(cell) for cell in row] for row in table.rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def describe(rows: Sequence[dict]) -> str:
    """The machine and the versions, in a line for each device."""
    lines = []
    for row in rows:
        if row['case']['kind'] != 'machine':
            continue
        found = row['conditions']
        peaks = ', '.join(
            f'{_number(value / 1e12)} TFLOP/s {dtype}'
            for dtype, value in row['matmul_flops_per_second'].items()
        )
        where = found.get('gpu') or f'{found["processor"]}, {found["threads"]} threads'
        versions = ', '.join(f'{name} {version}' for name, version in found['versions'].items())
        lines.append(
            f'{where}: matrix products at best {peaks}. Python {found["python"]}, {versions}; '
            f'images of {found["image_size"]} x {found["image_size"]} pixels.'
        )
    return '\n\n'.join(lines)


# -- figure --------------------------------------------------------------------------------------


def cost_figure(rows: Sequence[dict]):
    """Time and memory against the number of classes, a line of panels for each model and mode.

    Hollow marks are goals.

    Returns:
        The figure; None without a measurement of ESC-Net.
    """
    from matplotlib.figure import Figure

    groups: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows:
        case = row['case']
        if case['kind'] == 'escnet':
            key = (Path(case['config']).stem, case['device'], case['mode'])
            groups.setdefault(key, []).append(row)
    if not groups:
        return None
    figure = Figure(figsize=(8.2, 2.7 * len(groups) + 0.8), layout='constrained')
    grid = figure.subplots(len(groups), 2, squeeze=False)
    for panels, ((model, device, mode), own) in zip(grid, groups.items(), strict=True):
        peer = [
            row
            for row in rows
            if (row['case']['kind'], row['case']['device'], row['case']['mode'])
            == ('san', device, mode)
        ]
        counts = sorted({row['case']['classes'] for row in own})
        labels = [str(count) for count in counts]
        for axes, key, unit in zip(panels, ('seconds', 'peak_memory'), (1, GIB), strict=True):
            _draw_lines(axes, [*own, *peer], key, unit)
            axes.set_xscale('log')
            axes.set_xticks(counts, labels, rotation=90 if len(counts) > 4 else 0)
            axes.set_xticks([], minor=True)
            axes.set_xlabel('classes', fontsize=8.5)
            axes.set_title(f'{model}, {mode}, {device}', fontsize=9, loc='left')
            axes.spines[['top', 'right']].set_visible(False)
            axes.tick_params(labelsize=7.5)
            axes.grid(axis='y', color='#e6e7ea', linewidth=0.7)
        time_axes, memory_axes = panels
        clip = min(row['clip_seconds'] for row in own)
        style = dict(color=_QUIET, linewidth=1, linestyle=(0, (1, 2)))
        time_axes.axhline(clip, label='one dense CLIP forward, fp32', **style)
        if (model, device, mode) == (_B16, 'cpu', 'window'):
            _draw_goals(time_axes, clip)
        time_axes.set_yscale('log', subs=(2, 5))
        for axis in (time_axes.yaxis.set_major_formatter, time_axes.yaxis.set_minor_formatter):
            axis('{x:g}')
        time_axes.tick_params(which='minor', labelsize=7.5)
        time_axes.set_ylabel('time (s)', fontsize=8.5)
        memory_axes.set_ylabel('peak memory (GiB)', fontsize=8.5)
        memory_axes.set_ylim(0, 1.1 * memory_axes.get_ylim()[1])
    entries = {}
    for axes in grid.flat:
        handles, labels = axes.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    figure.legend(
        entries.values(), entries, loc='outside lower center', ncols=4, fontsize=7.5, frameon=False
    )
    return figure


def _draw_lines(axes, rows: Sequence[dict], key: str, unit: float) -> None:
    lines: dict[tuple[str, str], list] = {}
    for row in rows:
        case = row['case']
        line = lines.setdefault((case['setting'] or 'SAN', case['dtype']), [])
        line.append((case['classes'], row[key] / unit))
    for (setting, dtype), points in lines.items():
        axes.plot(
            *zip(*sorted(points), strict=True),
            color=_COLORS.get(setting, '#cc79a7'),
            linestyle='-' if dtype == 'fp32' else '--',
            marker='.',
            label=f'{setting}, {dtype}',
        )


def _draw_goals(axes, clip: float) -> None:
    for (setting, dtype), limits in RATIO_GOALS.items():
        axes.plot(
            list(limits),
            [limit * clip for limit in limits.values()],
            linestyle='none',
            marker='D' if dtype == 'fp32' else 's',
            markersize=4.5,
            markerfacecolor='none',
            color=_COLORS[setting],
            label=f'goal, {setting}, {dtype}',
        )


def write_report(out: Path, rows: Sequence[dict], *, command: str, markdown: bool = False) -> str:
    """Write OUT/benchmark.json, .md and .png.

    Args:
        out: The folder.
        rows: Of ``benchmark_cases.measure_case``.
        command: What made them.
        markdown: Whether the text returned is Markdown, as in the file.

    Returns:
        Machine, goals and tables as text.
    """
    from mmseg_escnet.datasets.conversion import write_atomically
    from mmseg_escnet.visualization import save_figure

    goals = check_goals(rows)
    tables = [main_table(rows), parts_table(rows)]
    if goals:
        tables.insert(0, goal_table(goals))
    tables = [table for table in tables if table.rows]
    as_markdown, as_text = (
        '\n\n'.join([describe(rows), *(_text(table, style) for table in tables)]) + '\n'
        for style in (True, False)
    )
    document = f'```bash\n{command}\n```\n\n{as_markdown}'
    write_atomically(out / 'benchmark.md', document.encode())
    content = json.dumps(dict(command=command, rows=list(rows)), indent=1)
    write_atomically(out / 'benchmark.json', content.encode())
    figure = cost_figure(rows)
    if figure is not None:
        save_figure(figure, out / 'benchmark.png')
    return document if markdown else as_text
