"""tools/analysis/compare_runs.py on logs in the layout of MMEngine's and classes.json."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import load_tool
from PIL import Image

from mmseg_escnet import ESCNetError

tool = load_tool('tools/analysis/compare_runs.py')


def write_log(run: Path, time: str, entries: list[dict], tail: str = '') -> None:
    path = run / time / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(json.dumps, entries)) + '\n' + tail)


def write_classes(run: Path, iou: dict[str, float | None], labelled: int = 7, **metrics) -> None:
    classes = [
        dict(name=name, seen=not name.startswith('new'), iou=value, labelled=labelled)
        for name, value in iou.items()
    ]
    path = run / '20300101_000000/classes.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(metrics=metrics, classes=classes)))


def step(number: int, loss: float) -> dict:
    return dict(lr=0.1, loss=loss, time=1.0, iter=number, memory=5, step=number)


@pytest.fixture
def resumed(tmp_path) -> Path:
    """Killed in step 400, after a checkpoint of step 250; resumed; a test afterwards."""
    run = tmp_path / 'resumed'
    first = [step(n, n) for n in (100, 200, 300)]
    first.insert(2, dict(mIoU_gt=10.0, time=3.0, step=200))
    first += [dict(mIoU_gt=99.0, step=350)]
    write_log(run, '20290101_000000', first, tail='{"lr": 0.1, "loss": 4')
    second = [step(n, n + 0.5) for n in (280, 380)]
    write_log(run, '20290102_000000', [*second, dict(mIoU_gt=12.0, time=2.0, step=380)])
    write_log(run / 'calibration', '20290101_000000', [dict(mIoU_gt=1.0, step=0)])
    return run


def test_a_resumed_training_is_one_curve(resumed):
    (run,) = tool.read_runs([str(resumed)])
    assert run.curves['loss'] == {100: 100, 200: 200, 280: 280.5, 380: 380.5}
    assert run.curves['mIoU_gt'] == {200: 10.0, 380: 12.0}
    assert run.figures == dict(mIoU_gt=12.0)
    (one,) = tool.read_runs([str(resumed / '20290101_000000')])
    assert sorted(one.curves['loss']) == [100, 200, 300]
    write_log(resumed, '20290103_000000', [dict(mIoU_gt=13.0, step=0)])  # a validation alone
    (run,) = tool.read_runs([str(resumed)])
    assert len(run.curves['loss']) == 4
    assert run.figures == dict(mIoU_gt=13.0)


@pytest.fixture
def pair(resumed) -> list[str]:
    """Classes 0 to 29, of which class i won i - 10 points; and others that only one has."""
    other = resumed.with_name('other')
    before = {f'c{i}': 50.0 for i in range(29)} | {'new one': 50.0, 'absent': None, 'mine': 1.0}
    after = {f'c{i}': 40.0 + i for i in range(29)} | {'new one': 69.0, 'absent': 3.0, 'yours': 2.0}
    write_classes(resumed, before, mIoU=44.5, hIoU=None)
    write_classes(other, after, mIoU=55.5, hIoU=3.0)
    return [str(resumed), str(other)]


def row(text: str, name: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f'| {name} '))
    return [cell.strip() for cell in line.split('|')[2:-1]]


def test_the_page_of_two_runs(pair, tmp_path, capsys):
    tool.main([*pair, '--out', str(tmp_path / 'out'), '--classes', '4'])
    said = capsys.readouterr().out
    page = (tmp_path / 'out/comparison.md').read_text()
    assert page.split('\n\n', 1)[1].split('\n\n![')[0] in said
    assert row(page, 'mIoU') == ['44.5', '55.5', '+11']
    assert row(page, 'hIoU') == ['-', '3', '-']
    assert row(page, 'steps trained') == ['380', '-', '-']
    means = [50, np.mean([*(40 + i for i in range(29)), 69])]
    expected = [f'{means[0]:.4g}', f'{means[1]:.4g}', f'{means[1] - means[0]:+.4g}']
    assert row(page, 'mean IoU of 30 common classes') == expected
    assert (
        '30 classes have the same name in all runs and are labelled (32 of resumed, 32 of' in page
    )
    table = page.split('| IoU (%)')[1].splitlines()[2:]
    shown = [line.split('|')[1].strip() for line in table if line.startswith('|')]
    assert shown == ['new one *', 'c28', 'c27', 'c26', 'c3', 'c2', 'c1', 'c0']
    assert row(page, 'c2') == ['50', '42', '-8']
    assert 'different images' not in page
    with Image.open(tmp_path / 'out/comparison.png') as picture:
        assert min(picture.size) > 500


def test_the_picture_shows_what_the_logs_say(pair):
    runs = tool.read_runs(pair)
    figure = tool.draw(runs, tool.choose_curves(runs, None), 3)
    panels = {axes.get_title(loc='left'): axes for axes in figure.axes}
    assert list(panels)[:3] == ['loss', 'lr', 'mIoU_gt']
    (line,) = (line for line in panels['mIoU_gt'].lines)
    np.testing.assert_array_equal(line.get_xydata(), [[200, 10], [380, 12]])
    bars = figure.axes[-1]
    assert [bar.get_width() for bar in bars.patches] == [19, 18, 17, -8, -9, -10]
    assert [label.get_text() for label in bars.get_yticklabels()][:2] == ['new one *', 'c28']
    assert 'without masks' in bars.get_title(loc='left')


def test_a_long_loss_is_averaged(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.random(400)
    write_log(tmp_path / 'long', '1', [step(n, v) for n, v in enumerate(values.tolist(), 1)])
    figure = tool.draw(tool.read_runs([str(tmp_path / 'long')]), ['loss'], 3)
    faint, line = figure.axes[0].lines
    np.testing.assert_array_equal(faint.get_ydata(), values)
    assert line.get_xdata()[[0, -1]].tolist() == [20, 400]
    np.testing.assert_allclose(line.get_ydata()[[0, 7]], [values[:20].mean(), values[7:27].mean()])


def test_three_runs_and_notes(pair, tmp_path, capsys):
    third = tmp_path / 'third/other'
    write_classes(third, {'c0': 90.0, 'c1': 1.0}, labelled=8)
    runs = [*pair, str(third)]
    tool.main([*runs, '--out', str(tmp_path / 'out')])
    page = (tmp_path / 'out/comparison.md').read_text()
    assert row(page, 'c0') == ['50', '40', '90', '+40']
    assert pair[1] in page, 'two folders of one name'
    assert '2 classes have the same name' in page
    assert 'different images' in page
    write_log(tmp_path / 'bare', '1', [step(1, 2.0)])
    tool.main([str(tmp_path / 'bare'), pair[1], '--out', str(tmp_path / 'out2')])
    assert 'bare has no classes.json' in capsys.readouterr().out


def test_bad_input_is_one_sentence(pair, tmp_path):
    (tmp_path / 'empty').mkdir()
    write_log(tmp_path / 'broken', '1', [step(1, 2.0)], tail='{"loss"\n{"loss": 1, "step": 2}\n')
    odd = tmp_path / 'odd/1/classes.json'
    odd.parent.mkdir(parents=True)
    odd.write_text('{"classes": 3}')
    cases = {
        'nowhere': 'nowhere is not a folder: give the work dir',
        'empty': 'empty has no log of a run',
        'broken': 'Line 2 of .*broken/1/vis_data/scalars.json is not a JSON object',
        'odd': 'odd/1/classes.json is not a report of mmseg-escnet test',
    }
    for name, message in cases.items():
        with pytest.raises(ESCNetError, match=message):
            tool.read_runs([str(tmp_path / name)])
    with pytest.raises(ESCNetError, match='4 problems'):
        tool.read_runs([str(tmp_path / name) for name in cases])
    with pytest.raises(ESCNetError, match='other is given twice'):
        tool.read_runs([pair[1], pair[1]])
    with pytest.raises(ESCNetError, match="No run logged 'los': did you mean loss"):
        tool.main([*pair, '--curves', 'los', '--out', str(tmp_path / 'out')])
