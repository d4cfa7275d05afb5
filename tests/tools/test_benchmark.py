"""tools/analysis/benchmark.py: what it measures is what it says, at toy size; nothing is timed."""

import importlib
import json
import mmap
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tool_processes
import torch
from conftest import ROOT
from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_escnet.cli import run_tool

with pytest.MonkeyPatch.context() as _patch:
    _patch.setattr(sys, 'path', [str(ROOT / 'tools/analysis'), *sys.path])
    macs = importlib.import_module('count_macs')
    benchmark = importlib.import_module('benchmark')

TOY = str(ROOT / 'configs/toyworld/escnet_toy.py')
SMALL = ['--quick', '--classes', '3', '--modes', 'window', '--settings', 'exact', '--allow-load']
SMALL += ['--dtypes', 'fp32', '--devices', 'cpu', '--seconds', '0.01']
SMALL += ['--threads', str(torch.get_num_threads()), '--no-readout']


def measure(kind, *options):
    """The figures of the case of this kind that the command line asks for."""
    cases = benchmark.cases_of(benchmark.parse_args([*SMALL, *options]))
    (case,) = (case for case in cases if case['kind'] == kind)
    return benchmark.measure(Namespace(**case))


def macs_of(kind, *options):
    """Its multiply-adds, by part; the model runs once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ('peak_memory', 'time_calls', 'time_parts', 'matrix_peak'):
            patch.setattr(benchmark, name, lambda *_, **__: {})
        return measure(kind, *options)['macs']


@pytest.mark.parametrize('grad', [True, False])
def test_macs_of_a_layer(grad):
    """Whichever of its ways attention takes; PyTorch's own counter sees nothing of two of them."""
    layer, x = torch.nn.Linear(30, 50), torch.zeros(7, 30)
    assert macs.count_macs(lambda: layer(x))['whole'] == 7 * 30 * 50
    layer, x = torch.nn.MultiheadAttention(64, 4, batch_first=True).eval(), torch.randn(3, 10, 64)
    with torch.set_grad_enabled(grad):
        found = macs.count_macs(lambda: layer(x, x, x, need_weights=False))
    assert found['whole'] == 3 * (4 * 10 * 64 * 64 + 2 * 10 * 10 * 64)


def test_macs_of_the_backward_pass_of_attention():
    def run():
        x = [torch.randn(2, 4, n, 16, requires_grad=True) for n in (9, 5, 5)]
        torch.nn.functional.scaled_dot_product_attention(*x).sum().backward()

    # a product each for scores and values, two each for their gradients, and the scores once more
    assert macs.count_macs(run)['whole'] == 7 * (2 * 4 * 9 * 5 * 16)


def test_parts_add_up_and_grow_with_the_classes():
    three, six, nine = (macs_of('escnet', '--classes', n) for n in '369')
    assert three['whole'] == sum(three[part] for part in (*macs.PARTS, 'rest'))
    assert 0 <= three['rest'] < three['whole'] / 100
    assert three['clip'] == nine['clip'] > 0
    for part in ('sam', 'vlf', 'decoder'):
        assert nine[part] - six[part] == six[part] - three[part] > three[part] / 2


def test_extrapolation_is_direct_counting():
    """Of 7 classes, 3 at a time; choosing how many at a time takes one multiplication."""
    cfg = Config.fromfile(TOY)
    cfg.model.backbone.pretrained = cfg.model.neck.sam_pretrained = None
    model = MODELS.build(cfg.model | dict(class_chunk=3)).eval()
    model.set_vocabulary(list(benchmark.NAMES[:7]))
    crop = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        model.text_features()
        direct = macs.count_macs(lambda: model.decode_head(model.extract_feat(crop)))
    assert macs.count_view(cfg, 7) == pytest.approx(direct, abs=1, rel=0)


def test_five_views_beside_the_paper(monkeypatch):
    monkeypatch.setattr(benchmark, 'count_view', lambda cfg, classes: dict(whole=classes * 10**9))
    cases = benchmark.cases_of(benchmark.parse_args(['--published']))
    rows = [dict(case=case, **benchmark.measure(Namespace(**case))) for case in cases]
    assert [row['paper'] is None for row in rows] == [True, False]
    b16, l14 = benchmark.report(rows, markdown=True).replace(' ', '').splitlines()[-2:]
    assert b16 == '|five-views|escnet_vitb16_coco-stuff|171|fp32|cpu|855.0|||'
    assert l14 == '|five-views|escnet_vitl14_coco-stuff|171|fp32|cpu|855.0|2203.5|2121.1|'


def test_peak_memory():
    def touch(mebibytes):
        # pages of its own: an allocator may have room that counts already
        with mmap.mmap(-1, max(mebibytes, 1) * 2**20) as pages:
            for start in range(0, mebibytes * 2**20, mmap.PAGESIZE):
                pages[start] = 1

    def peak(mebibytes):
        return benchmark.peak_memory(lambda: touch(mebibytes), 'cpu')

    large, none = peak(400), peak(0)
    if none is None:
        pytest.skip('this kernel does not forget the highest memory so far')
    assert (large - none) / 2**20 == pytest.approx(
        400, rel=0.2
    )  # the second call forgets the first


@pytest.mark.parametrize(('repeats', 'seconds', 'calls'), [(3, 60, 3), (3, 7, 2)])
def test_ratio_is_that_of_each_call(monkeypatch, repeats, seconds, calls):
    clock = [0.0]
    own = iter([2.0, 8.0, 5.0])
    clip = iter([100.0, 1, 50, 1, 2, 2, 2, 1, 1, 1])  # one to warm up, then three beside each

    def advance(times):
        clock[0] += next(times)

    monkeypatch.setattr(benchmark, 'timer', lambda: clock[0])
    limits = dict(repeats=repeats, seconds=seconds)
    found = benchmark.time_calls(lambda: advance(own), lambda: advance(clip), **limits)
    assert found['all_seconds'] == [2, 8, 5][:calls]
    assert found['seconds'] == 5
    assert found['ratio'] == (4 if calls == 3 else 3)  # of 2 / 1, 8 / 2 and 5 / 1


def test_settings():
    """32 of 40 classes; 96 x 96 pixels in place of 160 x 160."""
    options = ('--modes', 'image', '--classes', '40', '--settings')
    exact, short, fast = (macs_of('escnet', *options, name) for name in benchmark.SETTINGS)
    assert 0.7 * exact['whole'] < short['whole'] < 0.95 * exact['whole']
    assert fast == macs_of('escnet', '--classes', '40', '--settings', 'shortlist')


def test_training_step_and_san():
    step = macs_of('training', '--training-classes', '3')['whole']
    assert step > 2 * macs_of('escnet')['whole']
    few, many = (macs_of('san', '--classes', n)['whole'] for n in ('3', '50'))
    assert few < many < 1.1 * few


def test_multiply_adds_of_clip_alone():
    """Those of four windows of ViT-B/16: 17.5 GMAC each by open_clip's own table."""
    cases = benchmark.cases_of(benchmark.parse_args(SMALL[:-1]))
    (case,) = (case for case in cases if case['kind'] == 'readout')
    with pytest.MonkeyPatch.context() as patch:
        for name in ('peak_memory', 'time_calls', 'time_parts', 'matrix_peak'):
            patch.setattr(benchmark, name, lambda *_, **__: {})
        found = benchmark.measure(Namespace(**case))['macs']['whole']
    assert found == pytest.approx(4 * 17.5e9, rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('kind', ['escnet', 'training', 'san'])
def test_gpu(kind):
    found = measure(kind, '--modes', 'image', '--devices', 'cuda', '--dtypes', 'bf16')
    assert found['peak_memory'] > 2**20
    assert kind == 'san' or all(found['parts'][part] > 0 for part in ('clip', 'sam', 'vlf'))


def test_resumes_and_measures_anew_what_changed(monkeypatch, tmp_path, capsys):
    config, out, done, broken = tmp_path / 'own.py', tmp_path / 'out', [], ['escnet']
    config.write_text(f"_base_ = '{TOY}'")
    figures = dict(seconds=8.0, ratio=5.0, peak_memory=2**30, parts=dict(clip=1.0, other=3.0))
    figures.update(matrix_peak=1e9)

    def run(command, **kwargs):
        (case,) = json.loads(command[-1])
        done.append(case['kind'])
        if done[-1] in broken:
            return SimpleNamespace(returncode=1, stderr='Traceback\nOSError: it broke\n')
        return SimpleNamespace(returncode=benchmark.main(command[2:]))

    def tool(*options):
        done.clear()
        options = ['--configs', config, '--no-san', '--training-classes', '--out', out, *options]
        return benchmark.main([*SMALL, *map(str, options)]), list(done)

    monkeypatch.setattr(benchmark.subprocess, 'run', run)
    monkeypatch.setattr(benchmark, 'measure', lambda case: figures | dict(macs=dict(whole=10**9)))
    assert tool() == (1, ['escnet', 'five-views'])
    assert 'failed: escnet-own-exact-window-3-fp32-cpu: Traceback' in capsys.readouterr().err
    broken.clear()
    assert tool() == (0, ['escnet'])
    assert tool('--markdown') == (0, [])
    for text in (capsys.readouterr().out, (out / 'benchmark.md').read_text()):
        assert '|escnet|own|exact|window|3|fp32|cpu|8.0|0.125|5.0|25.0|1.0|' in text.replace(
            ' ', ''
        )
    for options in (['--threads', 7], ['--image-size', 9], ['--cfg-options', 'model.x=1'], []):
        assert len(tool(*options)[1]) == 2
    config.write_text(f"_base_ = '{TOY}'\nmodel = dict(class_chunk=2)")
    assert len(tool()[1]) == 2
    monkeypatch.setattr(torch, '__version__', '1.0')
    assert len(tool()[1]) == 2
    monkeypatch.setattr(benchmark.Path, 'glob', lambda self, pattern: [config])  # other source
    assert len(tool()[1]) == 2


def test_one_process_for_a_config_on_a_gpu(monkeypatch, tmp_path, capsys):
    """It ends with its first failure; the next one measures what it has left."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a GPU')
    processes = []

    def measure(case):
        processes[-1].append((Path(case.config).stem, case.classes))
        if case.classes == 4:
            raise MemoryError
        return dict(macs=dict(whole=1))

    def run(command, **kwargs):
        processes.append([])
        try:
            return SimpleNamespace(returncode=benchmark.main(command[2:]))
        except MemoryError:
            return SimpleNamespace(returncode=1, stderr='out of memory')

    monkeypatch.setattr(benchmark, 'measure', measure)
    monkeypatch.setattr(benchmark.subprocess, 'run', run)
    other = tmp_path / 'other.py'
    other.write_text(f"_base_ = '{TOY}'")
    options = [
        '--no-san',
        '--training-classes',
        '--configs',
        TOY,
        str(other),
        '--out',
        str(tmp_path),
    ]
    options += ['--devices', 'cuda', '--classes', '3', '4', '5']
    assert benchmark.main([*SMALL, *options]) == 1
    toy, own = 'escnet_toy', 'other'
    assert processes == [[(toy, 3), (toy, 4)], [(toy, 5)], [(own, 3), (own, 4)], [(own, 5)]]
    said = capsys.readouterr().err
    assert said.count('out of memory') == 2
    assert 'failed: escnet-escnet_toy-exact-window-4-fp32-cuda: out of memory' in said


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--configs', 'nowhere.py'], 'error: The config nowhere.py does not exist: give a path.'),
        (['--classes', '848'], 'must be from 1 to 847.'),
        (['--repeats', '0'], 'must be at least 1.'),
        ([], 'error: Other processes use 1.5 processor cores: wait, or pass --allow-load.'),
    ],
)
def test_what_is_refused(monkeypatch, tmp_path, capsys, options, message):
    ticks = iter([0, 1.5 * benchmark.os.sysconf('SC_CLK_TCK')])
    monkeypatch.setattr(benchmark, 'busy_ticks', lambda: next(ticks))
    nothing_timed = ['--quick', '--no-san', '--modes', '--training-classes', '--out', str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        run_tool(lambda: benchmark.main([*nothing_timed, *options]))
    assert end.value.code == 2
    assert capsys.readouterr().err.strip().endswith(message)


def test_the_whole_tool(tmp_path):
    options = [*SMALL, '--no-san', '--training-classes', '--out', tmp_path]
    done = tool_processes.run_tool(benchmark.__file__, *options)
    assert done.returncode == 0, done.stderr
    window, views = json.loads((tmp_path / 'benchmark.json').read_text())['rows']
    assert window['seconds'] > 0 < window['ratio']
    assert window['peak_memory'] > 2**28
    assert 0.01 < benchmark.share_of_peak(window) < 1.2
    parts = window['parts']
    assert parts.keys() > {'clip', 'text', 'ppg', 'prompts', 'sam', 'vlf', 'decoder'}
    assert parts['other'] < sum(parts.values()) / 2, 'most of the network is in no range'
    assert views['macs']['clip'] == 5 * window['macs']['clip']
