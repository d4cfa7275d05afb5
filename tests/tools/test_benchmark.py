"""tools/analysis/benchmark.py: what it measures is what it says, at toy size; nothing is timed."""

import copy
import importlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import ROOT
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode

from mmseg_escnet import ESCNetError

with pytest.MonkeyPatch.context() as _patch:
    _patch.setattr(sys, 'path', [str(ROOT / 'tools/analysis'), *sys.path])
    measure = importlib.import_module('benchmark_measure')
    cases = importlib.import_module('benchmark_cases')
    report = importlib.import_module('benchmark_report')
    benchmark = importlib.import_module('benchmark')

CPU = torch.device('cpu')
TOY = str(ROOT / 'configs/toyworld/escnet_toy.py')
PARTS = ('clip', 'text', 'ppg', 'prompts', 'sam', 'vlf', 'decoder')


# -- operations ----------------------------------------------------------------------------------


def test_flops_of_a_linear_layer():
    layer = nn.Linear(30, 50)
    assert measure.count_flops(lambda: layer(torch.zeros(7, 30))) == 2 * 7 * 30 * 50


@pytest.mark.parametrize('grad', [True, False])
def test_flops_of_an_attention_layer(grad):
    """Whichever of its ways PyTorch takes; its own counter sees nothing of two of them."""
    width, queries, keys = 64, 10, 10
    layer = nn.MultiheadAttention(width, 4, batch_first=True).eval()
    x = torch.randn(3, queries, width)
    with torch.set_grad_enabled(grad):
        found = measure.count_flops(lambda: layer(x, x, x, need_weights=False))
    projections = 3 * (2 * queries + 2 * keys) * width * width
    attention = 3 * 2 * queries * keys * width
    assert found == 2 * (projections + attention)


@pytest.mark.parametrize('backward', [False, True])
def test_flops_of_attention_are_those_of_its_products(backward):
    def tensors():
        sizes = (9, 5, 5)
        return [torch.randn(2, 4, n, 16, requires_grad=backward) for n in sizes]

    def run():
        out = F.scaled_dot_product_attention(*tensors())
        if backward:
            out.sum().backward()

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    products = counter.get_total_flops()
    scores = 2 * 2 * 4 * 9 * 5 * 16
    assert products == (6 if backward else 2) * scores
    # the backward pass computes the scores once more
    assert measure.count_flops(run) == products + (scores if backward else 0)


# -- memory --------------------------------------------------------------------------------------


def test_peak_memory_sees_an_allocation():
    # in a process of its own: of one as large as this, the system may take pages away meanwhile
    size = 300 * 2**20
    code = (
        'import torch, benchmark_measure as measure\n'
        'with measure.PeakMemory(torch.device("cpu")) as memory:\n'
        f'    torch.ones({size}, dtype=torch.uint8)\n'
        'print(memory.peak - memory.before)'
    )
    folder = Path(measure.__file__).parent
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == pytest.approx(size, rel=0.1)


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux forgets a peak')
def test_peak_memory_forgets_what_was_before():
    size = 300 * 2**20
    torch.ones(size, dtype=torch.uint8)
    with measure.PeakMemory(CPU) as memory:
        torch.ones(size // 10, dtype=torch.uint8)
    assert memory.since == 'block'
    assert memory.peak - memory.before < size / 2


def test_peak_memory_where_a_peak_cannot_be_forgotten(monkeypatch):
    def refuse(self, text):
        raise PermissionError

    monkeypatch.setattr(measure.Path, 'write_text', refuse)
    with measure.PeakMemory(CPU) as memory:
        pass
    assert memory.since == 'process'
    assert memory.peak >= memory.before > 50 * 2**20  # bytes, not kibibytes


# -- time ----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Calls take the seconds that they return."""
    monkeypatch.setattr(measure, 'seconds_of', lambda function, device: function())


def test_time_calls_compares_call_by_call(clock):
    own = iter([2.0, 8.0, 5.0])
    clip = iter([100.0] + [1.0, 50.0, 1.0] + [2.0] * 3 + [1.0] * 3)  # the first warms up
    found = measure.time_calls(
        lambda: next(own), device=CPU, repeats=3, seconds=60, yardstick=lambda: next(clip)
    )
    assert found['all_seconds'] == [2, 8, 5]
    assert found['seconds'] == 5
    assert found['clip_seconds'] == 1
    assert found['ratio'] == 4  # of 2/1, 8/2, 5/1


@pytest.mark.parametrize(
    ('each', 'calls'),
    [(0.3, 4), (2.0, 3), (40.0, 2), (90.0, 1)],
    ids=['for a second at least', 'repeats', 'until time is spent', 'once at least'],
)
def test_number_of_calls(clock, each, calls):
    found = measure.time_calls(lambda: each, device=CPU, repeats=3, seconds=60)
    assert len(found['all_seconds']) == calls
    assert 'ratio' not in found


def test_parts():
    def work():
        torch.mm(torch.ones(300, 300), torch.ones(300, 300))

    def run():
        work()
        for _ in range(3):
            with record_function('escnet/one'):
                work()
        with record_function('escnet/two'), record_function('something else'):
            work()

    parts = measure.time_parts(run, CPU)
    assert set(parts) == {'one', 'two', 'other'}
    assert all(seconds > 0 for seconds in parts.values())
    assert sum(parts.values()) < 60  # seconds, not microseconds


def test_processor_time_of_others(monkeypatch):
    seconds = iter([(10.0, 100.0, 5.0), (14.0, 107.0, 6.0)])
    monkeypatch.setattr(measure.OthersBusy, '_read', lambda self: next(seconds))
    assert measure.OthersBusy().cores_since() == (7 - 1) / 4
    monkeypatch.setattr(measure.OthersBusy, '_read', lambda self: None)
    assert measure.OthersBusy().cores_since() is None


# -- the cases -----------------------------------------------------------------------------------


def run_case(**values):
    case = cases.Case(**{'device': 'cpu', 'config': TOY, **values})
    conditions = dict(threads=torch.get_num_threads(), image_size=160, cfg_options={})
    row = cases.measure_case(case, conditions, repeats=1, seconds=0.01)
    assert row['case'] == asdict(case)
    assert row['conditions'] == conditions
    assert row['seconds'] > 0
    assert row['flops'] > 0
    json.dumps(row)
    return row


@pytest.fixture(scope='module')
def windows():
    """N -> row of one window."""
    return {n: run_case(kind='escnet', setting='exact', mode='window', classes=n) for n in (3, 6)}


@pytest.mark.parametrize('classes', [3, 6])
def test_window(windows, classes):
    row = windows[classes]
    assert row['ratio'] == pytest.approx(row['seconds'] / row['clip_seconds'])
    assert row['peak_memory'] >= row['memory_before'] > 0
    parts = row['parts']
    assert set(PARTS) <= set(parts)
    assert all(parts[part] > 0 for part in PARTS)
    assert parts['other'] < sum(parts.values()) / 2, 'most of the network is in no range'


def test_work_is_that_of_clip_and_of_each_class(windows):
    clip = run_case(kind='clip')['flops']
    nine = run_case(kind='escnet', setting='exact', mode='window', classes=9, dtype='bf16')['flops']
    three = windows[6]['flops'] - windows[3]['flops']
    assert nine - windows[6]['flops'] == three > 0
    assert clip < windows[3]['flops'] - three  # and some work for each window


def test_image(windows):
    row = run_case(kind='escnet', setting='exact', mode='image', classes=3)
    assert row['flops'] > 2 * windows[3]['flops']  # 160 x 160 pixels in place of 96 x 96


def test_squeezed_image_costs_a_window(windows, monkeypatch):
    monkeypatch.setitem(cases.SETTINGS, 'squeezed', cases.Setting(squeezed=True))
    row = run_case(kind='escnet', setting='squeezed', mode='image', classes=3)
    assert row['flops'] == windows[3]['flops']


def test_settings_change_the_config(windows, monkeypatch):
    setting = cases.Setting(options={'model.neck.num_blocks': 1})
    monkeypatch.setitem(cases.SETTINGS, 'one block', setting)
    row = run_case(kind='escnet', setting='one block', mode='window', classes=3)
    assert row['flops'] < windows[3]['flops']


def test_shortlist():
    """Of 40 words 32 are looked at."""
    exact, short = (
        run_case(kind='escnet', setting=setting, mode='window', classes=40)['flops']
        for setting in ('exact', 'shortlist')
    )
    assert 0.7 * exact < short < 0.9 * exact


def test_text():
    row = run_case(kind='text', classes=5)
    assert 'peak_memory' not in row
    # two layers of width 128 on each token, of which every text has some
    assert row['flops'] > 5 * 8 * 2 * 2 * 12 * 128**2


def test_training(windows):
    row = run_case(kind='training', mode='window', classes=5)
    assert row['flops'] > 2 * windows[6]['flops']
    assert row['parts']['clip'] > 0


def test_peer():
    """SAN has no work that depends much on the number of classes."""
    rows = [run_case(kind='san', mode='image', classes=n, config='') for n in (3, 50)]
    assert rows[0]['flops'] < rows[1]['flops'] < 1.1 * rows[0]['flops']
    assert rows[0]['peak_memory'] > 2**29


def test_class_names():
    assert len(set(cases.class_names(847))) == 847
    with pytest.raises(ESCNetError, match='848: it must be from 1 to 847'):
        cases.class_names(848)


# -- the tool ------------------------------------------------------------------------------------

SMALL = ['--quick', '--modes', 'window', '--dtypes', 'fp32', '--devices', 'cpu', '--no-san']
SMALL += [
    '--settings',
    'exact',
    '--training-classes',
    '--threads',
    '1',
    '--seconds',
    '0.01',
    '--allow-load',
]


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """Call the tool without processes and models: tool(*options) -> (status, cases run)."""
    done = []

    def measured(case, conditions, *, repeats, seconds):
        figures = {'matmul_flops_per_second': {'fp32': 1e9}} if case.kind == 'machine' else {}
        return row_of(**asdict(case), **figures) | dict(conditions=conditions)

    def run(command, **kwargs):
        task = json.loads(command[-1])
        name = cases.Case(**task['case']).name
        done.append(name)
        if name in broken:
            return SimpleNamespace(returncode=1, stderr='Traceback\nOSError: it broke\n')
        assert benchmark.main(command[2:]) == 0
        return SimpleNamespace(returncode=0)

    def call(*options):
        done.clear()
        status = benchmark.main(['--out', str(tmp_path), *SMALL, *map(str, options)])
        return status, list(done)

    broken = call.broken = []
    monkeypatch.setattr(benchmark.subprocess, 'run', run)
    monkeypatch.setattr(benchmark, 'measure_case', measured)
    return call


def test_tool_goes_on_and_measures_anew_what_changed(tool, tmp_path, capsys, monkeypatch):
    broken = 'escnet-escnet_toy-exact-window-9-fp32-cpu'
    tool.broken.append(broken)
    status, done = tool()
    assert status == 1
    assert done == [
        'machine-fp32-cpu',
        'clip-escnet_toy-fp32-cpu',
        'text-escnet_toy-3-fp32-cpu',
        'text-escnet_toy-9-fp32-cpu',
        'escnet-escnet_toy-exact-window-3-fp32-cpu',
        broken,
    ]
    assert f'failed: {broken}: OSError: it broke' in capsys.readouterr().err
    tool.broken.clear()
    assert tool() == (0, [broken])
    assert tool() == (0, [])
    shown = capsys.readouterr().out
    assert 'escnet_toy: exact, window' in shown
    assert '0.00100 TFLOP/s fp32' in shown

    saved = json.loads((tmp_path / 'benchmark.json').read_text())
    assert [cases.Case(**row['case']).name for row in saved['rows']] == done
    assert saved['command'].startswith('python tools/analysis/benchmark.py --out')
    written = (tmp_path / 'benchmark.md').read_text()
    assert tool('--markdown', '--report')[1] == []
    assert capsys.readouterr().out.strip() == written.strip()
    assert '| escnet_toy: exact, window | 9 | fp32 | cpu |' in written
    with Image.open(tmp_path / 'benchmark.png') as picture:
        assert len(picture.convert('L').getcolors()) > 2

    # other words, other conditions: what is there holds no longer
    assert tool('--classes', 3)[1] == []
    status, done = tool('--classes', 3, '--image-size', 128, '--report')
    assert (status, done) == (0, [])
    assert json.loads((tmp_path / 'benchmark.json').read_text())['rows'] == []
    status, done = tool('--classes', 3, '--cfg-options', 'model.neck.num_blocks=1')
    assert len(done) == 4
    setting = cases.Setting(options={'model.class_chunk': 2})
    monkeypatch.setitem(cases.SETTINGS, 'exact', setting)
    status, done = tool('--classes', 3, '--cfg-options', 'model.neck.num_blocks=1')
    assert done == ['escnet-escnet_toy-exact-window-3-fp32-cpu']


def test_a_process_of_its_own(tmp_path):
    args = benchmark.parse_args([*SMALL, '--out', str(tmp_path)])
    (tmp_path / 'rows').mkdir()
    case = cases.Case('clip', 'cpu', config=TOY)
    conditions = cases.conditions_of(case, common=benchmark.common_conditions(args))
    assert benchmark.measure_all(args, [(case, conditions)]) == []
    row = json.loads(benchmark.row_file(tmp_path, case).read_text())
    assert row['conditions']['threads'] == 1
    assert row['measured'].startswith('20')
    assert benchmark.is_done(tmp_path, case, conditions)
    assert not benchmark.is_done(tmp_path, case, conditions | dict(threads=2))


def test_busy_machine_is_refused(monkeypatch):
    monkeypatch.setattr(benchmark.time, 'sleep', lambda seconds: None)
    for busy, refused in ((1.3, True), (0.1, False), (None, False)):
        monkeypatch.setattr(measure.OthersBusy, 'cores_since', lambda self, busy=busy: busy)
        if refused:
            with pytest.raises(ESCNetError, match=r'use 1\.3 processor cores.*--allow-load'):
                benchmark.check_load()
        else:
            benchmark.check_load()


def test_what_is_asked_for():
    args = benchmark.parse_args(['--devices', 'cpu', 'cuda'])
    every = cases.cases_of(args)
    names = [case.name for case in every]
    assert len(set(names)) == len(names), 'two cases would share a file'
    for n in (20, 59, 150, 171, 459, 847):
        for end in (f'{n}-fp32-cpu', f'{n}-bf16-cuda'):
            assert f'escnet-escnet_vitb16_coco-stuff-exact-image-{end}' in names
            assert f'escnet-escnet_vitl14_coco-stuff-exact-window-{end}' in names
            assert f'san-image-{end}' in names
    assert 'training-escnet_vitl14_coco-stuff-window-171-bf16-cpu' in names
    assert 'escnet-escnet_vitb16_coco-stuff-fast-image-150-fp32-cpu' in names
    assert not any('-fast-window-' in name for name in names), 'that is a shortlist in a window'
    assert all(case.weight > 0 for case in every)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--configs', 'nowhere.py'], r'nowhere\.py does not exist'),
        (['--classes', '0'], 'must be from 1 to 847'),
        (['--repeats', '0'], 'must be at least 1'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ESCNetError, match=message):
        benchmark.parse_args(options)


# -- the report ----------------------------------------------------------------------------------


def row_of(kind='escnet', **values):
    """A row as a measurement leaves it: B/16 takes 10 seconds, CLIP one."""
    defaults = dict(kind=kind, device='cpu', config='a/escnet_vitb16_coco-stuff.py', classes=150)
    defaults |= dict(setting='exact', mode='window', dtype='fp32')
    keys = list(defaults)
    case = {key: values.pop(key, defaults[key]) for key in keys}
    figures = dict(seconds=10.0, all_seconds=[9.0, 10.0, 12.0], clip_seconds=1.0, ratio=10.0)
    figures |= dict(peak_memory=2**30, flops=5 * 10**11, others_busy=0.0)
    figures['parts'] = dict(clip=1.0, vlf=5.0, other=2.0)
    return dict(case=case, **(figures | values))


def test_goals():
    rows = [
        row_of(),
        row_of(dtype='bf16', ratio=7.5),
        row_of(classes=171, ratio=14.0),
        row_of(classes=847, ratio=66.0, peak_memory=int(1.2 * 2**30)),
        row_of('san', config='', setting='', mode='image', seconds=2.0),
        row_of(setting='fast', mode='image', seconds=5.0),
        row_of(setting='fast', mode='image', seconds=4.0, dtype='bf16'),
        row_of(
            device='cuda',
            config='escnet_vitl14_coco-stuff.py',
            mode='image',
            dtype='bf16',
            seconds=0.025,
        ),
        row_of(device='cuda', ratio=99.0),
    ]
    found = {
        goal.text: (goal.limit, goal.measured, goal.reached) for goal in report.check_goals(rows)
    }
    assert found == {
        'exact fp32, 150 classes: CLIP forwards a window': (12, 10, True),
        'exact fp32, 171 classes: CLIP forwards a window': (14, 14, True),
        'exact fp32, 847 classes: CLIP forwards a window': (65, 66, False),
        'exact bf16, 150 classes: CLIP forwards a window': (7, 7.5, False),
        'peak memory (window), 847 classes over 171': (1.15, pytest.approx(1.2), False),
        'fast, 150 classes: time of an image over SAN': (pytest.approx(2.083, abs=1e-3), 2, True),
        'GPU, L/14, exact bf16, 150 classes: images a second': (30, 40, True),
    }


def test_tables(tmp_path):
    machine = row_of('machine', config='', matmul_flops_per_second=dict(fp32=1e11, bf16=2e11))
    machine['conditions'] = dict(
        processor='Abacus', threads=2, versions=dict(torch='2'), python='3.11', image_size=640
    )
    clip = row_of('clip', setting='', mode='', classes=0, seconds=0.5, parts={})
    peer = row_of('san', config='', setting='', mode='image', seconds=2.0)
    for row in (clip, peer):
        del row['ratio'], row['parts']
    rows = [machine, row_of(), clip, peer]
    text = report.write_report(tmp_path, copy.deepcopy(rows), command='the command', markdown=True)
    assert 'Abacus, 2 threads: matrix products at best 0.100 TFLOP/s fp32, 0.200 TFLOP/s' in text
    lines = text.splitlines()
    name = 'escnet_vitb16_coco-stuff'
    # 5e11 operations in 10 s are half of the machine's 1e11 a second
    cells = '150 | fp32 | cpu | 10.0 | 9.00-12.0 | 10.0 | 1.00 | 500 | 50.0 | 0.0 |'
    assert f'| {name}: exact, window | {cells}' in lines
    peer_cells = '150 | fp32 | cpu | 2.00 | 9.00-12.0 | 4.00 | 1.00 | 500 | 250 | 0.0 |'
    assert f'| SAN ViT-B/16, image | {peer_cells}' in lines
    assert f'| {name}: exact, window | 150 | fp32 | cpu | 12 | 62 | 25 |' in lines
    assert '```bash\nthe command\n```' in text


def test_figure():
    rows = [row_of(classes=n, mode=mode) for n in (20, 150) for mode in ('window', 'image')]
    rows += [row_of('san', config='', setting='', mode='image', classes=n) for n in (20, 150)]
    figure = report.cost_figure(rows)
    assert len(figure.axes) == 4
    drawn = [{line.get_label(): line for line in axes.get_lines()} for axes in figure.axes]
    assert 'SAN, fp32' not in drawn[0]
    assert list(drawn[2]['SAN, fp32'].get_xdata()) == [20, 150]
    assert list(drawn[1]['exact, fp32'].get_ydata()) == [1, 1]  # GiB
    goals = drawn[0]['goal, exact, fp32']
    assert dict(zip(goals.get_xdata(), goals.get_ydata(), strict=True))[150] == 12
    assert report.cost_figure([]) is None


# -- on a GPU ------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
def test_on_a_gpu(dtype):
    with measure.PeakMemory(torch.device('cuda')) as memory:
        torch.ones(2**28, dtype=torch.uint8, device='cuda')
    assert memory.peak - memory.before == 2**28
    values = dict(kind='escnet', setting='exact', mode='window', classes=3, dtype=dtype)
    row = run_case(**values, device='cuda')
    assert all(row['parts'][part] > 0 for part in ('clip', 'ppg', 'sam', 'vlf', 'decoder'))
    assert row['flops'] == run_case(**values)['flops']
    assert run_case(kind='training', mode='window', classes=3, dtype=dtype, device='cuda')
    assert run_case(kind='san', mode='image', classes=3, dtype=dtype, device='cuda', config='')
