"""Fast starts, and components registered in time all the same; in fresh processes."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image
from tool_processes import environment

from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import to_seen_ids

HEAVY = ('torch', 'mmengine', 'mmcv', 'mmseg', 'open_clip', 'timm', 'segment_anything', 'sklearn')
HEAVY += ('matplotlib', 'scipy', 'pycocotools', 'gradio', 'torchvision', 'transformers', 'pandas')
# programs around a network of their own, which begin with torch
OF_TORCH = ('benchmark', 'gpu_report', 'canary', 'pretrain_clip', 'pretrain_sam')
TOOLS = sorted(
    path
    for path in (ROOT / 'tools').rglob('*.py')
    if path.stem not in OF_TORCH and '__main__' in path.read_text()
)
SAY_MODULES = 'import json, sys; print(json.dumps(sorted({n.split(".")[0] for n in sys.modules})))'


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, '-W', 'error::UserWarning:mmseg_escnet', '-c', code],
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules(code: str) -> set[str]:
    return set(json.loads(run(f'{code}\n{SAY_MODULES}').splitlines()[-1]))


def test_importing_the_package():
    loaded = modules('import mmseg_escnet, mmseg_escnet.cli; mmseg_escnet.Vocabulary.create(["a"])')
    assert not loaded & {*HEAVY, 'numpy', 'cv2', 'PIL'}
    assert 'mmseg_escnet' in loaded


def test_there_are_tools():
    assert len(TOOLS) >= 15
    assert {'infer', 'test', 'train', 'check_dataset'} <= {path.stem for path in TOOLS}


def test_help_of_every_tool():
    """One process for all: imports accumulate."""
    paths = [str(path) for path in TOOLS]
    loaded = modules(
        'import os, runpy, sys\n'
        f'for path in {paths!r}:\n'
        '    sys.argv, before = [path, "--help"], list(sys.path)\n'
        '    sys.path.insert(0, os.path.dirname(path))\n'
        '    try:\n'
        '        runpy.run_path(path, run_name="__main__")\n'
        '    except SystemExit as end:\n'
        '        assert not end.code, path\n'
        '    else:\n'
        '        raise AssertionError(path)\n'
        '    sys.path[:] = before\n'
        f'    heavy = sorted(sys.modules.keys() & set({HEAVY!r}))\n'
        '    assert not heavy, (path, heavy)\n'
    )
    assert 'mmseg_escnet' in loaded


@pytest.mark.parametrize(
    ('arguments', 'printed'),
    [
        (['nothing.jpg'], 'Image nothing.jpg does not exist'),
        (['nothing.jpg', '--classes-file', 'x.txt'], '2. Image nothing.jpg does not exist'),
        (['docs/images', '--config', 'x.py', '--checkpoint', 'README.md'], 'config x.py does not'),
        (['docs/images', '--checkpoint', 'x.safetensors'], 'checkpoint x.safetensors does not'),
        (['docs/images', '--config', 'README.md'], '--checkpoint is missing'),
        (['docs/images', '--classes-file', 'x.txt'], 'file of classes x.txt cannot be read'),
    ],
)
def test_infer_refuses_mistyped_paths_before_it_imports_torch(arguments, printed):
    loaded = modules(
        'import contextlib, io, runpy, sys\n'
        f'sys.argv, printed = ["infer", *{arguments!r}], io.StringIO()\n'
        'try:\n'
        '    with contextlib.redirect_stderr(printed):\n'
        '        runpy.run_path("tools/infer.py", run_name="__main__")\n'
        'except SystemExit as end:\n'
        f'    assert end.code == 2 and {printed!r} in printed.getvalue(), printed.getvalue()\n'
    )
    assert 'tqdm' in loaded
    assert not loaded & set(HEAVY)


def test_the_check_without_its_probe():
    assert not modules('import mmseg_escnet.check') & set(HEAVY)


def test_converters_run_without_torch():
    code = (
        'from mmseg_escnet.datasets import load_benchmark, vocabulary_names\n'
        'from mmseg_escnet.datasets import conversion, parallel, raw_folders\n'
    )
    assert not modules(code) & set(HEAVY)


ASK = """
from mmseg.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS, VISUALIZERS
for registry, name in (
    (MODELS, 'ESCNet'), (DATASETS, 'ToyWorldDataset'), (TRANSFORMS, 'LoadLabelMap'),
    (METRICS, 'OpenVocabIoUMetric'), (HOOKS, 'VocabularyHook'),
    (VISUALIZERS, 'OpenVocabVisualizer'),
):
    found = registry.get(name)
    assert found is not None and found.__module__.startswith('mmseg_escnet.'), (name, found)
from mmseg.apis import MMSegInferencer
assert MMSegInferencer._get_transform_idx.__module__.startswith('mmseg_escnet.')
"""
WAYS = [
    'import mmseg_escnet.components',
    'from mmseg_escnet.apis import OpenVocabInferencer',
    'import mmseg_escnet; mmseg_escnet.models.ESCNet',
    # as MMEngine's hub does
    'from mmseg_escnet.utils import register_all_modules as r; r()',
    # as MMSegmentation's own tools/test.py has it: nothing else of us
    (
        'import sys\n'
        'from mmengine.config import Config\n'
        'assert "mmseg_escnet" not in sys.modules\n'
        'cfg = Config.fromfile("configs/toyworld/escnet_toy.py")\n'
        'from mmengine.registry import MODELS, init_default_scope\n'
        'init_default_scope(cfg.default_scope)\n'
        'model = MODELS.build(cfg.model)\n'
        'assert type(model).__module__ == "mmseg_escnet.models.segmentors.escnet"\n'
    ),
    # a config of version 0.1, which our tools still take
    (
        'import pathlib, tempfile\n'
        'from mmseg_escnet.cli import load_run_config, add_config_arguments\n'
        'from argparse import ArgumentParser\n'
        'add_config_arguments(parser := ArgumentParser())\n'
        'with tempfile.TemporaryDirectory() as folder:\n'
        '    path = pathlib.Path(folder, "old.py")\n'
        '    path.write_text("custom_imports = dict(imports=[\'mmseg_escnet\'])")\n'
        '    load_run_config(parser.parse_args([str(path)]))\n'
    ),
]
FIRST = [
    'apis.inferencer',
    'datasets.benchmarks',
    'datasets.folder',
    'datasets.transforms.load_image',
    'engine.hooks',
    'engine.vocabulary_hook',
    'evaluation.saved_predictions',
    'evaluation.zero_shot_runs',
    'models.segmentors.escnet',
    'preflight',
    'visualization.local_visualizer',
    'web',
]
# forks of a process that has imported what takes the time, and neither mmseg nor this package
RUN_EACH = """
import os, sys, traceback
import cv2, matplotlib.figure, mmcv.transforms, mmengine.runner, open_clip, scipy, timm, torch
assert not {{'mmseg', 'mmseg_escnet'}} & sys.modules.keys()
failed = []
for code in {codes!r}:
    if not (child := os.fork()):
        try:
            exec(code, {{}})
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(code)
assert not failed, failed
"""


def test_all_is_registered():
    run(RUN_EACH.format(codes=[f'{way}\n{ASK}' for way in WAYS]))


COMMANDS = """
import gc, os, sys
count = lambda: sum(generation['collections'] for generation in gc.get_stats())
before = count()
import mmseg_escnet.apis
assert count() - before < 50, 'of garbage, which costs a quarter of the time'
assert gc.isenabled()
late = {{'matplotlib.figure', 'shapely', 'gradio', 'onnx', 'transformers'}} & sys.modules.keys()
assert not late, late
from mmseg_escnet.__main__ import main
failed = []
for arguments in {commands!r}:
    if not (child := os.fork()):
        sys.argv = ['mmseg-escnet', *arguments]
        if arguments[0] == 'web':
            import gradio
            gradio.Blocks.block_thread = lambda page: None
        main()
    if os.waitpid(child, 0)[1]:
        failed.append(arguments)
assert not failed, failed
"""


def test_commands_do_not_pass_on_what_libraries_complain_about(tmp_path, monkeypatch):
    """In a plain shell: nothing on the error stream but progress."""
    monkeypatch.delenv('PYTHONWARNINGS', raising=False)
    for split in ('train', 'val'):
        for kind, content in zip(('images', 'annotations'), scene(1, 0), strict=True):
            folder = tmp_path / kind / split
            folder.mkdir(parents=True)
            content = content if kind == 'images' or split == 'val' else to_seen_ids(content)
            Image.fromarray(content).save(folder / '0.png')
    config, work_dir = 'configs/toyworld/escnet_toy.py', ['--work-dir', str(tmp_path)]
    options = [f'{p}_dataloader.dataset.data_root={tmp_path}/' for p in ('train', 'val', 'test')]
    options += ['train_cfg.max_iters=1', 'train_dataloader.batch_size=1']
    options += [f'{phase}_dataloader.num_workers=0' for phase in ('train', 'val', 'test')]
    options = [*work_dir, '--cfg-options', *options]
    words = ['--classes', 'red heart, wood']
    commands = [
        ['infer', str(tmp_path / 'images/val'), *words, '--out-dir', str(tmp_path / 'out')],
        ['test', config, 'data/toyworld/escnet.pth', *options],
        ['train', config, '--calibrate', *options],
        ['export', '--out', str(tmp_path / 'net.pt2'), '--words', str(tmp_path / 'w.npz'), *words],
    ]
    if importlib.util.find_spec('gradio'):
        commands.append(['web'])
    done = subprocess.run(
        [sys.executable, '-c', COMMANDS.format(commands=commands)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'arning' not in done.stdout + done.stderr
    for line in done.stderr.splitlines():
        assert re.match(r'(test|training|validation): \d of \d, ', line), done.stderr
    for said in ('1 images segmented', '(tested in', 'iter_1.pth', 'net.pt2'):
        assert said in done.stdout


def test_libraries_are_left_out_of_garbage_collections():
    run(
        'import gc; from mmseg_escnet.cli import import_components; import_components()\n'
        'assert gc.isenabled() and gc.get_freeze_count() > 100_000'
    )


def test_every_part_may_be_imported_first():
    """MMSegmentation does not import without ``compat``, where mmcv has no operators."""
    run(RUN_EACH.format(codes=[f'import mmseg_escnet.{part}, mmseg.models' for part in FIRST]))


@pytest.mark.parametrize(
    ('own', 'expected'),
    [
        ({}, 'PASSIVE'),
        (dict(OMP_WAIT_POLICY='ACTIVE'), 'ACTIVE'),
        (dict(GOMP_SPINCOUNT='100'), 'None'),
    ],
    ids=['by default', "a user's policy", "a user's spin count"],
)
def test_threads_wait_passively(own, expected, monkeypatch):
    """Spinning threads keep others, and each other, off the cores."""
    for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'):
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    say = 'lambda: print(os.environ.get("OMP_WAIT_POLICY"), "torch" in sys.modules)'
    printed = run(f'import os, sys; from mmseg_escnet.cli import run_tool; run_tool({say})')
    assert printed.split() == [expected, 'False']


@pytest.mark.parametrize('name', OF_TORCH)
def test_tools_that_begin_with_torch_set_it_before(name, monkeypatch):
    """OpenMP reads it when torch is loaded."""
    monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
    (path,) = (ROOT / 'tools').rglob(f'{name}.py')
    code = f"""
import os, runpy, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == 'torch':
            print(os.environ.get('OMP_WAIT_POLICY'))
            os._exit(0)
sys.meta_path.insert(0, Finder)
sys.path.insert(0, {str(path.parent)!r})
sys.stdout.reconfigure(line_buffering=True)
runpy.run_path({str(path)!r}, run_name='a tool')
"""
    assert run(code).split() == ['PASSIVE']
