"""tools/analysis/gpu_report.py on the CPU: the rehearsal, resuming, limits, and what it reports."""

import gzip
import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, load_tool
from tool_processes import run_tool
from torch.autograd import DeviceType

from mmseg_escnet import ESCNetError

gpu_report = load_tool('tools/analysis/gpu_report.py')
REHEARSAL = ['--device', 'cpu', '--toy']


def test_rehearsal(tmp_path):
    """The trace; the other parts are tests, and tools that have tests of their own."""
    done = run_tool(gpu_report.__file__, *REHEARSAL, '--parts', 'trace', '--out', tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    content = json.loads((tmp_path / 'gpu.json').read_text())
    assert {name: part['status'] for name, part in content['parts'].items()} == {'trace': 'done'}
    kernels = content['trace']['kernels']
    seconds = [kernel['seconds'] for kernel in kernels]
    assert seconds == sorted(seconds, reverse=True)
    assert len(kernels) == 10
    assert sum(seconds) <= content['trace']['kernel_seconds'] <= 1.1 * content['trace']['seconds']
    products = [kernel for kernel in kernels if kernel['name'] in ('aten::addmm', 'aten::bmm')]
    assert products
    assert all(kernel['calls'] > 1 for kernel in products)
    events = json.loads(gzip.decompress((tmp_path / 'trace.json.gz').read_bytes()))['traceEvents']
    assert {'escnet/vlf', 'aten::addmm'} <= {event.get('name') for event in events}
    text = (tmp_path / 'gpu.md').read_text()
    assert text == done.stdout[:-1]
    assert re.search(r'^\| `aten::\w+` +\| +\d+ \|', text, re.MULTILINE)
    assert re.search(r'images per second +\| +30 \| not measured', text)
    assert re.search(r'cost-toy +\| not run', text)


def test_interrupted_and_resumed(monkeypatch, tmp_path):
    """A part that fails, is interrupted, or takes too long does not run others again."""
    ran, survived = tmp_path / 'ran', tmp_path / 'survived'
    scripts = {
        'environment': 'print("No problems found.")',
        'tests': 'print("3 skipped"); print("all said")',
        'trace': 'import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(5); '
        f'open({str(survived)!r}, "w")',
    }

    def commands_of(args):
        noted = 'open({!r}, "a").write({!r} + " "); '
        return {
            name: [sys.executable, '-c', noted.format(str(ran), name) + script]
            for name, script in scripts.items()
        }

    def run():
        ran.write_text('')
        return gpu_report.main([*REHEARSAL, '--out', str(tmp_path)]), ran.read_text().split()

    monkeypatch.setattr(gpu_report, 'commands_of', commands_of)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not survived.exists()
    content = json.loads((tmp_path / 'gpu.json').read_text())
    found = {name: part['status'] for name, part in content['parts'].items()}
    assert found == {'environment': 'done', 'tests': 'failed'}

    scripts['trace'] = 'import time; print("waits", end=""); time.sleep(60)'
    monkeypatch.setitem(gpu_report.LIMITS, 'trace', 1)
    assert run() == (1, ['tests', 'trace'])
    text = (tmp_path / 'gpu.md').read_text()
    assert '## tests: failed\n\n```text\n3 skipped\nall said\n```' in text
    assert '## trace: timed out\n\n```text\nwaits\n```' in text

    scripts.update(tests='print("3 passed in 1 s")')
    del scripts['trace']
    assert run() == (0, ['tests'])
    assert run() == (0, [])
    monkeypatch.setattr(torch, '__version__', '1.0')
    assert run() == (0, ['environment', 'tests'])


def test_kernels_of_a_gpu():
    """Those, without what the CPU does, and without the model's ranges, which contain them."""

    def event(name, kind, microseconds):
        elapsed = SimpleNamespace(elapsed_us=lambda: microseconds)
        return SimpleNamespace(name=name, device_type=kind, time_range=elapsed)

    events = [
        event('gemm', DeviceType.CUDA, 2e6),
        event('softmax', DeviceType.CUDA, 3e6),
        event('gemm', DeviceType.CUDA, 4e6),
        event('copy', DeviceType.CUDA, 1e6),
        event('escnet/vlf', DeviceType.CUDA, 9e6),
        event('aten::addmm', DeviceType.CPU, 9e6),
    ]
    assert gpu_report.kernels_of(events, 'cuda', most=2) == dict(
        kernel_seconds=10.0,
        kernels=[
            dict(name='gemm', calls=2, seconds=6.0, share=0.6),
            dict(name='softmax', calls=1, seconds=3.0, share=0.3),
        ],
    )


@pytest.mark.parametrize(
    ('changed', 'measured'),
    [({}, [25, 50]), ({'device': 'cpu'}, [None, None]), ({'classes': 20}, [None, None])],
)
def test_goals(changed, measured):
    case = dict(setting='exact', classes=150, dtype='bf16', device='cuda')
    case['config'] = str(ROOT / 'configs/escnet/escnet_vitl14_coco-stuff.py')
    row = dict(seconds=0.04, macs=dict(whole=2 * 10**9), matrix_peak=2e11, case=case | changed)
    assert gpu_report.goals_of([row]) == dict(zip(gpu_report.GOALS, measured, strict=True))


def test_eight_minutes():
    limits = {name: limit for name, limit in gpu_report.LIMITS.items() if name != 'cost-toy'}
    assert len(limits) == 5
    assert sum(limits.values()) <= 8 * 60


def test_all_tests_that_need_a_gpu_run():
    files = sorted((ROOT / 'tests').rglob('test_*.py'))
    needing = [
        f for f in files if re.search(r'mark\.gpu|def test_\w+\(.*\bdevice\b', f.read_text())
    ]
    assert len(needing) >= 3
    for file in needing:
        name = str(file.relative_to(ROOT))
        assert name.startswith(tuple(gpu_report.TESTS)), name


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_without_a_gpu(tmp_path):
    with pytest.raises(ESCNetError, match=r'finds no GPU: .* --device cpu --toy'):
        gpu_report.main(['--out', str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()
