"""Try ESC-Net on a GPU and measure it, in at most eight minutes.

    python tools/analysis/gpu_report.py                       # make gpu
    python tools/analysis/gpu_report.py --device cpu --toy    # a rehearsal without a GPU

The parts run one after the other: the installation, the tests that need a GPU, time and memory of
ViT-L/14, its most expensive kernels, and time and memory of ViT-B/16. Each has a time limit, and if
one fails, the others still run. OUT/gpu.md and OUT/gpu.json have the results, and the ends of the
logs of what failed. The same command resumes: what has been done with the same code, PyTorch and
device is not done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS, Namespace
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import benchmark  # before torch, as it sets how threads wait
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import profile

from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.config import config_folder
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import write_file
from mmseg_escnet.tables import table

ROOT = Path(__file__).resolve().parents[2]
TESTS = ['tests/distributed', 'tests/tools/test_benchmark.py', 'tests/test_gpu.py']
TESTS += ['tests/test_notebook.py']
# seconds of each part; without the toy model, together eight minutes at most
LIMITS = {'environment': 40, 'tests': 150, 'cost-l14': 125, 'trace': 60, 'cost-b16': 100}
LIMITS['cost-toy'] = 50
CONFIGS = {model: f'escnet/escnet_vit{model}_coco-stuff.py' for model in ('l14', 'b16')}
CONFIGS['toy'] = 'toyworld/escnet_toy.py'
WORDS = 150  # of the trace and of the goals
# exact labels of a photograph by ViT-L/14 in bf16 on an H200; the share is that of the whole call
GOALS = {'images per second': 30, 'of matrix peak (%)': 40}
_TAIL = 2000  # characters of a log that are kept


def benchmark_options(args: Namespace, model: str) -> list[str]:
    """Arguments of benchmark.py for photographs, with the whole protocol."""
    options = ['--configs', str(config_folder() / CONFIGS[model]), '--out', f'{args.out}/{model}']
    options += ['--devices', args.device, '--dtypes', 'bf16', '--modes', 'image', '--seconds', '3']
    options += ['--allow-load', '--markdown', '--no-san', '--no-readout', '--training-classes']
    if model == 'toy':
        return options + ['--quick', '--classes', '40']
    return options + ['--classes', '20', str(WORDS), '847']


def commands_of(args: Namespace) -> dict[str, list[str]]:
    """The command of each part."""
    own = [__file__, '--device', args.device, '--out', str(args.out), *['--toy'] * args.toy]
    chosen = ['-m', 'gpu'] if args.device == 'cuda' else ['-k', 'cpu']
    parts = {
        'environment': ['-m', 'mmseg_escnet.check'],
        'tests': ['-m', 'pytest', '-v', '--continue-on-collection-errors', *chosen, *TESTS],
        'trace': [*own, '--trace'],
    }
    for model in args.models:
        parts[f'cost-{model}'] = [benchmark.__file__, *benchmark_options(args, model)]
    return {name: [sys.executable, *parts[name]] for name in LIMITS if name in parts}


def conditions_of(args: Namespace) -> dict[str, str]:
    """What all results depend on."""
    folders = [ROOT / name for name in ('mmseg_escnet', 'tools/analysis', 'tests', 'configs')]
    files = [file for folder in folders for file in sorted(folder.rglob('*.py'))]
    source = hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()
    device = torch.cuda.get_device_name() if args.device == 'cuda' else 'the CPU'
    return dict(device=device, torch=torch.__version__, source=source)


def run_part(name: str, command: list[str], limit: int, log: Path) -> dict:
    """Run a part as a process; returns its status, its seconds, and the end of its log."""
    start = time.monotonic()
    with open(log, 'wb') as file:
        output = dict(stdout=file, stderr=subprocess.STDOUT)
        output['env'] = os.environ | dict(PYTHONUNBUFFERED='1')  # what is killed has said all
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **output)
    try:
        status = 'failed' if process.wait(limit) else 'done'
    except subprocess.TimeoutExpired:
        status = 'timed out'
    finally:  # with the processes that it started, also after Ctrl-C
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    said = log.read_text(errors='replace').strip()[-_TAIL:]
    if name == 'tests' and not re.search(r'\d passed', said):  # all skipped
        status = 'failed' if status == 'done' else status
    return dict(status=status, seconds=round(time.monotonic() - start, 1), log=said)


def trace(args: Namespace) -> None:
    """Write the most expensive kernels of an exact pass, and a trace for Chrome or Perfetto."""
    options = benchmark_options(args, args.models[0])
    options += ['--classes', str(WORDS), '--settings', 'exact']
    case = Namespace(**benchmark.cases_of(benchmark.parse_args(options))[0])
    cfg = benchmark.read_case(case)
    run = benchmark.make_run(benchmark.build_model(case, cfg), cfg, case)
    run()
    with profile() as profiler:
        seconds = benchmark.seconds_of(run)
    found = dict(case=vars(case), seconds=seconds, **kernels_of(profiler.events(), args.device))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'trace.json.gz'
        profiler.export_chrome_trace(str(file))
        write_file(args.out / file.name, file.read_bytes())
    write_file(args.out / 'kernels.json', json.dumps(found, indent=1).encode())


def kernels_of(events: Iterable[FunctionEvent], device: str, most: int = 10) -> dict:
    """The most expensive kernels of a GPU, or operators of a CPU, and the seconds of all."""
    seconds, calls = Counter(), Counter()
    for event in events:
        on_cpu = event.device_type == DeviceType.CPU
        # a GPU has the model's own ranges a second time
        if on_cpu == (device == 'cpu') and not event.name.startswith('escnet/'):
            time_us = event.self_cpu_time_total if on_cpu else event.time_range.elapsed_us()
            seconds[event.name] += time_us / 1e6
            calls[event.name] += 1
    whole = seconds.total()
    kernels = [
        dict(name=name, calls=calls[name], seconds=time_s, share=time_s / whole)
        for name, time_s in seconds.most_common(most)
    ]
    return dict(kernel_seconds=whole, kernels=kernels)


def goals_of(rows: Iterable[dict]) -> dict[str, float | None]:
    """What was measured of each goal."""
    wanted = dict(setting='exact', classes=WORDS, dtype='bf16', device='cuda')
    for row in rows:
        case = row['case']
        if case['config'].endswith(CONFIGS['l14']) and wanted.items() <= case.items():
            found = [1 / row['seconds'], 100 * benchmark.share_of_peak(row)]
            return dict(zip(GOALS, found, strict=True))
    return dict.fromkeys(GOALS)


def write_report(args: Namespace, conditions: dict, parts: dict[str, dict], command: str) -> str:
    """Write OUT/gpu.json and OUT/gpu.md; returns the latter."""
    rows = []
    for model in args.models:
        options = benchmark.parse_args(benchmark_options(args, model))
        rows += benchmark.rows_of(options.out, benchmark.cases_of(options)).values()
    done = parts.get('trace', {}).get('status') == 'done'
    traced = json.loads((args.out / 'kernels.json').read_text()) if done else None
    goals = goals_of(rows)
    content = dict(command=command, conditions=conditions, parts=parts, goals=goals)
    content.update(rows=rows, trace=traced)
    write_file(args.out / 'gpu.json', json.dumps(content, indent=1).encode())

    def add(title: str, columns: str, lines: list[list], align: str) -> None:
        texts.extend([title, table(columns.split(', '), lines, markdown=True, align=align)])

    texts = [f'# ESC-Net on {conditions["device"]}', f'```bash\n{command}\n```']
    texts += [f'PyTorch {conditions["torch"]}, code {conditions["source"][:12]}.']
    lines = []
    for name in commands_of(args):
        part = parts.get(name) or dict(status='not run', seconds='', log='')
        last = part['log'].splitlines()[-1:] if name in ('environment', 'tests') else []
        says = ''.join(last).strip('= ')
        lines.append([name, part['status'], part['seconds'], args.limits[name], says])
    add('## Parts', 'part, status, seconds, limit, says', lines, 'llrrl')
    lines = []
    for name, wanted in GOALS.items():
        found = 'not measured' if goals[name] is None else round(goals[name], 1)
        lines.append([name, wanted, found])
    what = f'ViT-L/14, exact, {WORDS} words, bf16, photographs of 640 x 640'
    add(f'## Goals: {what}', 'goal, at least, measured', lines, 'lrr')
    if rows:
        texts += ['## Time and memory', benchmark.report(rows, markdown=True)]
    if traced:
        lines = [
            [f'`{kernel["name"][:90]}`'.replace('|', '/'), kernel['calls']]
            + [f'{1e3 * kernel["seconds"]:.2f}', f'{100 * kernel["share"]:.1f}']
            for kernel in traced['kernels']
        ]
        add('## Kernels', 'kernel, calls, ms, share (%)', lines, 'lrrr')
        both = (f'{1e3 * traced[key]:.1f} ms' for key in ('kernel_seconds', 'seconds'))
        texts += ['All kernels take {} of the {} of the traced pass.'.format(*both)]
    for name, part in parts.items():
        if part['status'] != 'done':
            texts += [f'## {name}: {part["status"]}', f'```text\n{part["log"]}\n```']
    document = '\n\n'.join(texts) + '\n'
    write_file(args.out / 'gpu.md', document.encode())
    return document


def parse_args(argv: list[str]) -> Namespace:
    """Read the command line; raises ESCNetError without a GPU."""
    parser = make_parser(__doc__)
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--toy', action='store_true', help='the miniature model')
    parser.add_argument('--parts', nargs='+', choices=[*LIMITS], help='default: all')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu'))
    parser.add_argument('--trace', action='store_true', help=SUPPRESS)
    args = parser.parse_args(argv)
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ESCNetError(
            f'PyTorch {torch.__version__} finds no GPU: check its driver (`nvidia-smi`) and that '
            'PyTorch is built for CUDA, or rehearse with --device cpu --toy.'
        )
    args.out = args.out.resolve()
    args.models = ['toy'] if args.toy else ['l14', 'b16']
    # a rehearsal may share the processor with other programs
    args.limits = {name: seconds * (4 if args.toy else 1) for name, seconds in LIMITS.items()}
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the parts that are not done yet, and write the report; returns 1 if one failed."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.trace:
        trace(args)
        return 0
    commands = commands_of(args)
    chosen = [name for name in commands if name in (args.parts or commands)]
    if not chosen:
        raise ESCNetError(f'--parts: choose from {", ".join(commands)}.')
    (args.out / 'parts').mkdir(parents=True, exist_ok=True)
    command = shlex.join(['python', 'tools/analysis/gpu_report.py', *argv])
    conditions, parts, report = conditions_of(args), {}, ''
    for name, arguments in commands.items():
        file = args.out / f'parts/{name}.json'
        part = json.loads(file.read_text()) if file.is_file() else {}
        if part.get('conditions') == conditions | dict(command=arguments):
            parts[name] = part
    for name in chosen:
        if parts.get(name, {}).get('status') == 'done':
            continue
        print(f'{name}: at most {args.limits[name]} s', file=sys.stderr, flush=True)
        part = run_part(name, commands[name], args.limits[name], args.out / f'parts/{name}.log')
        parts[name] = dict(conditions=conditions | dict(command=commands[name]), **part)
        write_file(args.out / f'parts/{name}.json', json.dumps(parts[name], indent=1).encode())
        report = write_report(args, conditions, parts, command)
    print(report or write_report(args, conditions, parts, command))
    return int(any(parts[name]['status'] != 'done' for name in chosen))


if __name__ == '__main__':
    run_tool(main, interrupted='the same command resumes.')
