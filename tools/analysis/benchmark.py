"""Measure the cost of ESC-Net: time, memory and multiply-adds by number of classes.

    python tools/analysis/benchmark.py                # ViT-B/16 and ViT-L/14
    python tools/analysis/benchmark.py --published    # only multiply-adds, beside the paper's
    python tools/analysis/benchmark.py --quick        # the miniature model

Each case runs in its own process, on a GPU all those of a config in one, and writes its results
(seconds, bytes, multiply-adds) to OUT/rows. The same command resumes an interrupted run; cases
measured under other conditions run again. Weights and images are random, which does not change the
cost.
"""

from __future__ import annotations

import mmseg_escnet.threads  # before torch

# isort: split

import functools
import gc
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from argparse import SUPPRESS, Namespace
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product
from operator import itemgetter
from pathlib import Path
from statistics import median

import torch
from count_macs import count_macs, count_view
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch.autograd import DeviceType
from torch.profiler import profile
from torch.utils.benchmark import timer  # waits for a GPU
from tqdm import tqdm

from mmseg_escnet.cli import add_cfg_options, make_parser, run_tool
from mmseg_escnet.config import config_folder, forget_pretrained
from mmseg_escnet.datasets.benchmark_vocabularies import vocabulary_names
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import write_file
from mmseg_escnet.tables import table

NAMES = vocabulary_names('ade847')
_SHORTLIST = {'model.test_cfg.shortlist': {'top_k': 32}}
# name -> settings that change; 'fast' also resizes an image to one window
SETTINGS = dict(exact={}, shortlist=_SHORTLIST, fast=_SHORTLIST | {'model.test_cfg.mode': 'whole'})
# table 4 of the paper, in GMAC: 171 words, 2 x 2 windows and a global view
WORDS, VIEWS = 171, 5
_SHORTER_SIDE = (336, 336)  # to which CLIP alone resizes an image: four windows of 224
PAPER = {'escnet_vitl14_coco-stuff': {'ESC-Net (paper)': 2203.5, 'CAT-Seg (paper)': 2121.1}}
SHOWN = ('kind', 'config', 'setting', 'mode', 'classes', 'dtype', 'device')


def cases_of(args: Namespace) -> list[dict]:
    """The cases of the command line, each with everything its results depend on.

    Kinds: 'escnet' (labels of an image), 'san' (its peer's), 'readout' (those of CLIP alone),
    'training' (a step), 'five-views'.
    """
    files, cases = sorted(Path(mmseg_escnet.__file__).parent.glob('models/**/*.py')), []
    code = ''.join(file.read_text() for file in files)
    readout = str(config_folder() / 'clip/clip_vitb16_readout.py')
    configs = {config: Config.fromfile(config).text for config in (*args.configs, readout)}
    common = {key: vars(args)[key] for key in ('threads', 'image_size', 'repeats', 'seconds')}

    def add(*shown: str | int) -> None:
        case = dict(zip(SHOWN, shown, strict=True), torch=torch.__version__, **common)
        case['source'] = hashlib.sha256((configs[case['config']] + code).encode()).hexdigest()
        case['options'] = args.cfg_options | SETTINGS.get(case['setting'], {})
        if case['device'] == 'cuda':
            case['gpu'] = torch.cuda.get_device_name()
        case['name'] = '-'.join(Path(str(part)).stem for part in shown if part)
        cases.append(json.loads(json.dumps(case)))

    for end in () if args.published else product(args.dtypes, args.devices):
        for config in args.configs:
            for mode, setting, n in product(args.modes, args.settings, args.classes):
                if (mode, setting) != ('window', 'fast'):  # that is a shortlist
                    add('escnet', config, setting, mode, n, *end)
            for n in args.training_classes:
                add('training', config, '', 'window', n, *end)
        for n in args.classes * args.san:
            add('san', args.configs[0], '', 'image', n, *end)
        for n in args.classes * args.readout:
            add('readout', readout, '', 'image', n, *end)
    for config in args.configs * (args.published or 'cpu' in args.devices):
        add('five-views', config, '', '', WORDS, 'fp32', 'cpu')
    return cases


def build_model(case: Namespace, cfg: Config):
    """ESC-Net or SAN with its words; ESC-Net's text embeddings are cached, SAN's random."""
    names = list(NAMES[: case.classes])
    if case.kind != 'san':
        with torch.device(case.device):  # a GPU draws random weights in no time
            model = MODELS.build(cfg.model).eval().to(case.device)
        model.set_vocabulary(names)
        torch.no_grad()(model.text_features)()
        return model
    cfg = get_config('mmseg::san/san-vit-b16_coco-stuff164k-640x640.py').model
    cfg.pretrained = None
    cfg.text_encoder.update(dataset_name=None, vocabulary=names)
    cfg.decode_head.num_classes = len(names)
    cfg.decode_head.loss_decode[0].class_weight = [1.0] * len(names) + [0.1]
    model = MODELS.build(cfg).eval().to(case.device)
    model.text_encoder.cache.update((n, torch.randn(512, device=case.device)) for n in names)
    return model


def make_run(model, cfg: Config, case: Namespace) -> Callable[[], None]:
    """The call to measure."""
    crop = tuple(cfg.model.data_preprocessor.get('size', _SHORTER_SIDE))
    size = (case.image_size, case.image_size) if case.mode == 'image' else crop
    seen = crop if case.setting == 'fast' or case.kind == 'readout' else size
    images = torch.randn(1, 3, *seen, device=case.device)
    meta = dict(ori_shape=size, img_shape=seen, pad_shape=seen, padding_size=[0] * 4)
    sample = SegDataSample(metainfo=meta)
    if training := case.kind == 'training':
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
        labels = torch.randint(case.classes, (1, *size), device=case.device)
        sample.gt_sem_seg = PixelData(data=labels)

    def run() -> None:
        model.train(training)
        autocast = torch.autocast(case.device, torch.bfloat16, case.dtype == 'bf16')
        with autocast, torch.set_grad_enabled(training):
            found = (model.loss if training else model.predict)(images, [sample])
        if training:
            optimizer.update_params(model.parse_losses(found)[0])

    return run


def peak_memory(run: Callable[[], object], device: str) -> int | None:
    """Peak memory of a call in bytes: PyTorch's allocations on a GPU, else the process's memory.

    None if the kernel cannot reset the peak, as in some sandboxes.
    """
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated()
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    forgets = process_memory('VmHWM') - process_memory('VmRSS') < 2**24
    run()
    return process_memory('VmHWM') if forgets else None


def process_memory(field: str) -> int:
    """Resident memory of this process in bytes: now (VmRSS) or its peak (VmHWM)."""
    return 1024 * int(re.search(rf'{field}:\s*(\d+)', Path('/proc/self/status').read_text())[1])


def seconds_of(run: Callable[[], object]) -> float:
    """Wall time of a call, including its work on a GPU."""
    start = timer()
    run()
    return timer() - start


@functools.cache
def matrix_peak(device: str, dtype: str) -> float:
    """FLOP/s of a large matrix product, the most that the device was seen to do."""
    size = 8192 if device == 'cuda' else 1024
    dtypes = dict(fp32=torch.float32, bf16=torch.bfloat16)
    matrix = torch.randn(size, size, device=device, dtype=dtypes[dtype])
    return 2 * size**3 / min(seconds_of(lambda: matrix @ matrix) for _ in range(10))


def time_calls(run: Callable, clip: Callable, *, repeats: int, seconds: float) -> dict:
    """Seconds of a call after warm-up, and their ratio to a forward pass of CLIP.

    Both slow down with the machine, so the ratio is the median over single calls.
    """
    clip()
    times, clips = [], []
    while not times or (sum(times) < seconds and (len(times) < repeats or sum(times) < 1)):
        times.append(seconds_of(run))
        clips.append(median(seconds_of(clip) for _ in range(3)))
    ratio = median(own / one for own, one in zip(times, clips, strict=True))
    return dict(seconds=median(times), clip_seconds=median(clips), ratio=ratio, all_seconds=times)


def time_parts(run: Callable[[], None], device: str) -> dict[str, float]:
    """Seconds in each profiler range 'escnet/...' of the model, on a GPU those of its kernels."""
    with profile() as profiler:
        elapsed = seconds_of(run)
    parts: Counter[str] = Counter()
    for event in profiler.events():  # where a GPU has each range a second time
        if event.name.startswith('escnet/') and event.device_type == DeviceType.CPU:
            total = event.cpu_time_total if device == 'cpu' else event.device_time_total
            parts[event.name.removeprefix('escnet/')] += total / 1e6
    return dict(parts, other=max(elapsed - parts.total(), 0.0))


def read_case(case: Namespace) -> Config:
    """The config of a case, after which its model can be built."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    init_default_scope('mmseg')
    cfg = Config.fromfile(case.config)
    cfg.merge_from_dict(case.options)
    forget_pretrained(cfg.model)
    # embeddings of 80 templates take minutes; and a class is one word
    cfg.model.text_encoder.update(templates='scene', synonyms='first')
    if case.mode == 'window':
        cfg.model.test_cfg.mode = 'whole'
    return cfg


def measure(case: Namespace) -> dict:
    """Measure a case in this process: seconds, bytes and multiply-adds."""
    cfg = read_case(case)
    if case.kind == 'five-views':
        macs = {part: VIEWS * count for part, count in count_view(cfg, case.classes).items()}
        return dict(macs=macs, paper=PAPER.get(Path(case.config).stem))
    model = build_model(case, cfg)
    run = make_run(model, cfg, case)
    calls = 1 + (case.kind == 'training')  # the optimizer has its moments after a step
    peak = peak_memory(lambda: [run() for _ in range(calls)], case.device)
    if case.kind == 'san':
        model.backbone = MODELS.build(cfg.model.backbone).to(case.device)
    if case.kind == 'readout':  # CLIP itself on the views of the image
        views = torch.randn(4, 3, 224, 224, device=case.device)
        clip = torch.no_grad()(lambda: model.backbone.clip.encode_image(views))
    else:
        crop = torch.randn(1, 3, *cfg.model.data_preprocessor.size, device=case.device)
        clip = torch.no_grad()(lambda: model.backbone.eval()(crop))
    found = time_calls(run, clip, repeats=case.repeats, seconds=case.seconds)
    parts = time_parts(run, case.device)
    macs = count_macs(run) if case.kind == 'escnet' else {'whole': count_macs(run)['whole']}
    matrix = matrix_peak(case.device, case.dtype)
    return dict(found, peak_memory=peak, matrix_peak=matrix, parts=parts, macs=macs)


def share_of_peak(row: dict) -> float | None:
    """FLOPs of a call by those of matrix products in the same time; None in a row of before."""
    peak = row.get('matrix_peak')
    return peak and 2 * row['macs']['whole'] / row['seconds'] / peak


def report(rows: Iterable[dict], *, markdown: bool) -> str:
    """Tables of time and memory, of each part's share of the time, and of multiply-adds."""
    costs, shares, macs, texts = [], [], [], []
    for row in rows:
        case = {key: Path(str(row['case'][key])).stem for key in SHOWN}
        gmac = {f'{part} (GMAC)': round(count / 1e9, 2) for part, count in row['macs'].items()}
        macs.append(case | gmac | (row.get('paper') or {}))
        if parts := row.get('parts'):
            found = {'time (s)': float(f'{row["seconds"]:.3g}')}
            found['per second'] = float(f'{1 / row["seconds"]:.3g}')
            found['x CLIP'] = round(row['ratio'], 2)
            share = share_of_peak(row)
            found['of matrix peak (%)'] = share and round(100 * share, 1)
            peak = row['peak_memory'] and round(row['peak_memory'] / 2**30, 2)
            costs.append(case | found | {'peak (GiB)': peak})
            whole = sum(parts.values()) / 100
            shares.append(case | {f'{part} (%)': round(t / whole) for part, t in parts.items()})
    for lines in filter(None, (costs, shares, macs)):
        columns = list(dict.fromkeys(key for line in lines for key in line if line[key] != ''))
        cells = [[line.get(column, '') for column in columns] for line in lines]
        texts.append(table(columns, cells, markdown=markdown))
    return '\n\n'.join(texts)


def parse_args(argv: list[str]) -> Namespace:
    """Read the command line; raises ESCNetError for values out of range."""
    parser = make_parser(__doc__)
    add, quick, folder = parser.add_argument, '--quick' in argv, config_folder()
    full = [f'{folder}/escnet/escnet_vit{size}_coco-stuff.py' for size in ('b16', 'l14')]
    add('--configs', nargs='+', default=[f'{folder}/toyworld/escnet_toy.py'] if quick else full)
    add('--classes', type=int, nargs='+', default=[3, 9] if quick else [20, 59, 150, 171, 459, 847])
    add('--training-classes', type=int, nargs='*', default=[5] if quick else [WORDS])
    choices = dict(modes=['window', 'image'], settings=list(SETTINGS), dtypes=['fp32', 'bf16'])
    choices['devices'] = ['cpu', 'cuda'][: 1 + torch.cuda.is_available()]
    for name, values in choices.items():
        add(f'--{name}', nargs='*', choices=values, default=values)
    add('--image-size', type=int, default=160 if quick else 640, help='of --modes image, in pixels')
    add('--threads', type=int, default=torch.get_num_threads(), help='of the processor')
    add('--repeats', type=int, default=1 if quick else 3, help='timed calls')
    add('--seconds', type=float, default=1 if quick else 60, help='time limit of the timed calls')
    add('--no-san', dest='san', action='store_false', help="without MMSegmentation's SAN")
    add('--no-readout', dest='readout', action='store_false', help='without CLIP alone')
    add('--published', action='store_true', help='only count multiply-adds, as the paper does')
    add('--quick', action='store_true', help='the miniature model')
    add_cfg_options(parser)
    parser.set_defaults(cfg_options={})
    add('--out', type=Path, default=Path('work_dirs/benchmark'))
    add('--allow-load', action='store_true', help='measure even if the machine is busy')
    add('--markdown', action='store_true', help='print Markdown')
    add('--one-process', type=json.loads, help=SUPPRESS)
    args = parser.parse_args(argv)
    if missing := [config for config in args.configs if not Path(config).is_file()]:
        raise ESCNetError(f'The config {missing[0]} does not exist: give a path.')
    if not all(1 <= n <= len(NAMES) for n in (*args.classes, *args.training_classes)):
        raise ESCNetError(f'--classes and --training-classes must be from 1 to {len(NAMES)}.')
    if min(args.threads, args.repeats, args.image_size) < 1:
        raise ESCNetError('--threads, --repeats and --image-size must be at least 1.')
    return args


def busy_ticks() -> int:
    """Processor time of all processes so far: user, nice, system."""
    return sum(int(word) for word in Path('/proc/stat').read_text().split()[1:4])


def rows_of(out: Path, cases: list[dict]) -> dict[str, dict]:
    """The rows of cases by name, as far as they were measured under the same conditions."""
    rows = {}
    for case in cases:
        file = out / f'rows/{case["name"]}.json'
        row = json.loads(file.read_text()) if file.is_file() else {}
        if row.get('case') == case:
            rows[case['name']] = row
    return rows


def one_process(missing: list[dict]) -> list[dict]:
    """The cases of the next process.

    On a CPU one, as memory that others have used counts; on a GPU those of a config, as loading
    libraries and kernels takes longer than measuring.
    """
    place = itemgetter('device', 'config')
    if missing[0]['device'] == 'cpu':
        return missing[:1]
    return [case for case in missing if place(case) == place(missing[0])]


def main(argv: list[str] | None = None) -> int:
    """Measure what is missing and summarise; returns 1 if a case failed."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    for case in args.one_process or ():
        row = dict(case=case, **measure(Namespace(**case)))
        write_file(args.out / f'rows/{case["name"]}.json', json.dumps(row, indent=1).encode())
        gc.collect()  # the memory of a GPU
    if args.one_process:
        return 0
    cases = cases_of(args)
    rows = rows_of(args.out, cases)
    missing = [case for case in cases if case['name'] not in rows]
    if missing and not (args.published or args.allow_load):
        before = busy_ticks()
        time.sleep(1)
        if (busy := (busy_ticks() - before) / os.sysconf('SC_CLK_TCK')) > 0.25:
            raise ESCNetError(
                f'Other processes use {busy:.1f} processor cores: wait, or pass --allow-load.'
            )
    bar = tqdm(total=len(missing), disable=None)
    while missing:
        group = one_process(missing)
        bar.set_postfix_str(group[0]['name'])
        own = dict(OMP_NUM_THREADS=str(args.threads))
        if group[0]['kind'] == 'training':  # torn, glibc's heap takes twice what a step needs
            own['MALLOC_MMAP_THRESHOLD_'] = '1000000'
        command = [sys.executable, __file__, '--out', str(args.out)]
        command += ['--one-process', json.dumps(group)]
        done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
        rows = rows_of(args.out, cases)
        left = [case for case in group if case['name'] not in rows]
        if left:  # a process ends with its first failure
            failed = left.pop(0)['name']
            tqdm.write(f'failed: {failed}: {done.stderr.strip()[-500:]}', sys.stderr)
        bar.update(len(group) - len(left))
        missing = [case for case in missing if case not in group or case in left]
    bar.close()
    command = shlex.join(['python', 'tools/analysis/benchmark.py', *argv])
    content = json.dumps(dict(command=command, rows=[*rows.values()]), indent=1)
    write_file(args.out / 'benchmark.json', content.encode())
    document = f'```bash\n{command}\n```\n\n{report(rows.values(), markdown=True)}\n'
    write_file(args.out / 'benchmark.md', document.encode())
    print(report(rows.values(), markdown=args.markdown))
    return int(len(rows) < len(cases))


if __name__ == '__main__':
    run_tool(main, interrupted='the same command resumes.')
