"""tools/test.py and tools/analysis/evaluate_predictions.py as a user calls them, at toy size."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from conftest import ROOT, load_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image
from tool_processes import environment, run_tool

from mmseg_escnet import ESCNetError
from mmseg_escnet.evaluation.zero_shot_benchmarks import BENCHMARKS
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import ALL_NAMES

CONFIG = str(ROOT / 'configs/toyworld/escnet_toy.py')
CLIP_CONFIG = str(ROOT / 'configs/clip/clip_vitb16_readout.py')
SMALL = [
    'model.neck.num_blocks=1',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
]
TIMEOUT_SECONDS = 600


def run(folder: Path, *arguments, processes: int = 1) -> str:
    """Run a tool in a folder.

    Returns:
        What it printed.
    """
    command = [ROOT / arguments[0], *arguments[1:]]
    if processes == 1:
        done = run_tool(*command, cwd=folder)
    else:
        launch = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
        done = subprocess.run(
            [sys.executable, *launch, *map(str, command)],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def figures_of(work_dir: Path) -> dict[str, float]:
    """The figures that MMEngine wrote to a work dir at the end of a test."""
    (path,) = work_dir.glob('2*/2*.json')
    return {k: v for k, v in json.loads(path.read_text()).items() if 'time' not in k}


def predictions_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*.*')}


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """A folder with a checkpoint, three scenes, and PASCAL VOC with three pictures."""
    place = tmp_path_factory.mktemp('place')
    init_default_scope('mmseg')
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({'model.neck.num_blocks': 1})
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), place / 'iter_8.pth')

    scenes = place / 'data/toyworld_scenes'
    for kind in ('images', 'annotations'):
        (scenes / kind / 'val').mkdir(parents=True)
    voc = place / 'data/VOCdevkit/VOC2012'
    folders = ('JPEGImages', 'SegmentationClass20', 'SegmentationClass20b')
    for folder in (*folders, 'ImageSets/Segmentation20'):
        (voc / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        image, label = scene(1, number)
        Image.fromarray(image).save(scenes / f'images/val/{number}.png')
        Image.fromarray(label).save(scenes / f'annotations/val/{number}.png')
        Image.fromarray(image[: 60 + number]).save(voc / f'JPEGImages/{number}.jpg')
        ids = rng.integers(0, 21, (60 + number, 96), np.uint8)
        ids[:4] = 255
        Image.fromarray(ids).save(voc / f'SegmentationClass20b/{number}.png')
        ids[ids == 20] = 255
        Image.fromarray(ids).save(voc / f'SegmentationClass20/{number}.png')
    (voc / 'ImageSets/Segmentation20/val.txt').write_text('0\n1\n2\n')
    return place


@pytest.fixture(scope='module')
def alone(place) -> Path:
    """Work dir of a test in one process."""
    options = ['--work-dir', 'alone', '--out', 'alone/out', '--cfg-options', *SMALL]
    run(place, 'tools/test.py', CONFIG, 'iter_8.pth', *options)
    return place / 'alone'


def test_the_report_of_the_classes(alone):
    """Beside the log, with the figures of the log."""
    (path,) = alone.glob('2*/classes.json')
    assert path.with_name('confusion.png').is_file()
    report = json.loads(path.read_text())
    figures = {k: None if np.isnan(v) else v for k, v in figures_of(alone).items()}
    assert report['metrics'] == figures
    iou = [one['iou'] for one in report['classes'] if one['labelled']]
    assert len(iou) < len(report['classes']) == len(ALL_NAMES)
    assert np.mean(iou) == pytest.approx(figures['mIoU_gt'], abs=0.01)
    seen = [one['iou'] for one in report['classes'] if one['labelled'] and one['seen']]
    assert np.mean(seen) == pytest.approx(figures['mIoU_seen'], abs=0.01)


def test_predictions_without_the_model(place, alone):
    tool = 'tools/analysis/evaluate_predictions.py'
    report = ['--report', 'alone/report']
    output = run(place, tool, 'alone/out', CONFIG, *report, '--cfg-options', *SMALL)
    (path,) = alone.glob('2*/classes.json')
    assert (alone / 'report/classes.json').read_text() == path.read_text()
    lines = [line.split() for line in output.splitlines()]
    found = {line[0]: float(line[1]) for line in lines if len(line) == 2 and '.' in line[1]}
    expected = figures_of(alone)
    assert {'aAcc', 'mIoU', 'mIoU_gt', 'fwIoU', 'hIoU'} <= set(expected)
    assert {key: found[key] for key in expected} == expected


def test_segmented_images_are_predictions(place, alone):
    """Label maps of tools/infer.py are evaluated like those of tools/test.py."""
    (place / 'words.txt').write_text('\n'.join(ALL_NAMES))
    options = ['--config', CONFIG, '--checkpoint', 'iter_8.pth', '--classes-file', 'words.txt']
    options += ['--device', 'cpu', '--no-overlay', '--cfg-options', SMALL[0]]
    images = 'data/toyworld_scenes/images/val'
    run(place, 'tools/infer.py', images, '--out-dir', 'inferred', *options)
    tool = 'tools/analysis/evaluate_predictions.py'
    output = run(place, tool, 'inferred', CONFIG, '--cfg-options', *SMALL)
    found = dict(line.split() for line in output.splitlines() if len(line.split()) == 2)
    for name, value in figures_of(alone).items():
        assert float(found[name]) == pytest.approx(value, abs=0.05, nan_ok=True), name


def test_two_processes_and_three_images(place, alone):
    """One of them is dealt out twice, and counted once."""
    options = ['--work-dir', 'together', '--out', 'together/out', '--launcher', 'pytorch']
    options += ['--cfg-options', *SMALL]
    run(place, 'tools/test.py', CONFIG, 'iter_8.pth', *options, processes=2)
    assert figures_of(place / 'together') == figures_of(alone)
    assert predictions_of(place / 'together/out') == predictions_of(alone / 'out')


def test_augmented_and_painted(place, alone):
    """On a machine without the training data, which painting would have looked for."""
    assert not (place / 'data/toyworld_scenes/images/train').exists()
    options = ['--work-dir', 'tta', '--tta', '--show-dir', 'tta/painted', '--cfg-options', *SMALL]
    run(place, 'tools/test.py', CONFIG, 'iter_8.pth', *options)
    assert len(list((place / 'tta/painted').rglob('*.png'))) == 3
    assert figures_of(place / 'tta').keys() == figures_of(alone).keys()
    assert figures_of(place / 'tta') != figures_of(alone)


def test_benchmarks(place):
    """The real configs: those of PASCAL VOC run, the others are skipped; nothing is done twice.

    Once in two processes, of which one prints, and again in one.
    """
    small = [*SMALL, 'test_dataloader.dataset.pipeline.1.scale=(96,96)']
    options = ['--benchmarks', 'all', '--work-dir', 'b', '--out', 'b/out', '--cfg-options', *small]
    command = ['tools/test.py', CONFIG, 'iter_8.pth', '--launcher', 'pytorch', *options]
    output = run(place, *command, processes=2)
    lines = output.splitlines()
    for key in ('A-847', 'PC-459', 'A-150', 'PC-59'):
        assert any(line.startswith(f'{key}: skipped. The image directory') for line in lines), key
    kept = json.loads((place / 'b/benchmarks_iter_8.json').read_text())
    assert set(kept['benchmarks']) == {'PAS-20', 'PAS-20b'}
    names = {
        key: json.loads((place / f'b/out/{key}/names.json').read_text())
        for key in ('PAS-20', 'PAS-20b')
    }
    assert [len(n['names']) for n in names.values()] == [20, 59]
    assert [n['background_from'] for n in names.values()] == [None, 20]
    table = [line for line in lines if line.startswith('|') and 'PAS' in line]
    assert [[cell.strip() for cell in line.split('|')[1:4]] for line in table] == [
        [key, '3 of 1449', f'{kept["benchmarks"][key]["metrics"]["mIoU_gt"]:.2f}'] for key in names
    ]

    again = run(place, 'tools/test.py', CONFIG, 'iter_8.pth', *options)
    assert [line for line in again.splitlines() if 'finished before' in line] == [
        f'{key}: finished before, see b/benchmarks_iter_8.json' for key in names
    ]
    assert set(table) <= set(again.splitlines())

    tool = 'tools/analysis/evaluate_predictions.py'
    options = ['--benchmark', 'PAS-20b', '--cfg-options', *small]
    output = run(place, tool, 'b/out/PAS-20b', CONFIG, *options)
    found = dict(line.split() for line in output.splitlines() if len(line.split()) == 2)
    for name, value in kept['benchmarks']['PAS-20b']['metrics'].items():
        assert float(found[name]) == pytest.approx(value, nan_ok=True) or value is None, name


@pytest.fixture(scope='module')
def module():
    """tools/test.py in this process."""
    return load_tool('tools/test.py')


@pytest.fixture
def tool(module, monkeypatch):
    """Its main function with arguments."""

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['test.py', *map(str, arguments)])
        module.main()

    return call


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--benchmarks', 'A-847', 'B-1'], "no benchmark 'B-1'"),
        (['--benchmarks', 'PAS-20', 'PAS-20'], 'PAS-20 is listed twice'),
        (['--benchmarks', 'A-847'], '^A-847: The image directory .* convert ade20k_847'),
        (['--show', '--show-dir', 'painted'], 'exclude each other'),
        (['--out', 'iter_8.pth'], r'--out iter_8\.pth is a file'),
        (['--cfg-options', 'test_dataloader=None'], 'has no test_dataloader'),
        (['--launcher', 'pytorch'], 'for processes that torchrun starts'),
    ],
)
def test_bad_input(place, tool, monkeypatch, options, message):
    monkeypatch.chdir(place)
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(ESCNetError, match=message):
        tool(CONFIG, 'iter_8.pth', *options)


def test_all_that_is_missing_for_benchmarks(place, tool, monkeypatch):
    """The data of each, with its command, and the weights, in one answer."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(open_clip, 'download_pretrained', None)
    monkeypatch.setattr('mmseg_escnet.models.clip_weights._find_in_cache', lambda tag: None)
    cases = [
        ([CONFIG, 'none.pth'], 'none.pth does not exist'),
        ([CLIP_CONFIG], '`mmseg-escnet download clip --model ViT-B-16 --tag openai`'),
    ]
    for arguments, missing in cases:
        with pytest.raises(ESCNetError) as caught:
            tool(*arguments, '--benchmarks', 'A-847', 'A-150', '--work-dir', 'w')
        first, *lines = str(caught.value).splitlines()
        assert first == '3 problems:'
        expected = ('A-847: The image directory', 'A-150: The image directory', missing)
        for line, words in zip(lines, expected, strict=True):
            assert words in line
        assert 'mmseg-escnet convert ade20k_847' in lines[0]


def test_options_reach_the_runner(place, tool, monkeypatch):
    """All that MMSegmentation's tools/test.py has."""
    from mmengine.runner import Runner

    configs = []

    class Fake:
        def test(self):
            return {}

    monkeypatch.chdir(place)
    monkeypatch.setattr(Runner, 'from_cfg', lambda cfg: configs.append(cfg) or Fake())
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    options = ['--show', '--wait-time', '0.5', '--work-dir', 'w', '--local-rank', '0', '--tta']
    tool(
        CONFIG,
        'iter_8.pth',
        *options,
        '--launcher',
        'pytorch',
        '--cfg-options',
        'visualizer.alpha=0.25',
    )
    (cfg,) = configs
    hook = cfg.default_hooks.visualization
    assert (hook.show, hook.draw, hook.interval, hook.wait_time) == (True, True, 1, 0.5)
    assert (cfg.work_dir, cfg.launcher, cfg.load_from) == ('w', 'pytorch', 'iter_8.pth')
    assert cfg.visualizer.alpha == 0.25
    assert 'train_dataloader' not in cfg, 'painting would look for the data'
    assert cfg.model.type == 'OpenVocabTTAModel'
    assert os.environ.pop('LOCAL_RANK') == '0'


def test_draw_results(module):
    def config() -> Config:
        hooks = dict(visualization=dict(type='SegVisualizationHook'))
        return Config(dict(default_hooks=hooks, visualizer=dict(type='SegLocalVisualizer')))

    cfg = config()
    module.draw_results(cfg, show=True, wait_time=3)
    assert cfg.default_hooks.visualization == dict(
        type='SegVisualizationHook', draw=True, interval=1, show=True, wait_time=3
    )
    cfg = config()
    module.draw_results(cfg, show_dir='painted')
    assert 'show' not in cfg.default_hooks.visualization
    assert cfg.visualizer.save_dir == 'painted'
    with pytest.raises(ESCNetError, match='exclude each other'):
        module.draw_results(config(), show=True, show_dir='painted')
    for missing in ('default_hooks', 'visualizer'):
        cfg = config()
        cfg.pop(missing)
        with pytest.raises(ESCNetError, match=r'need default_hooks\.visualization and visualizer'):
            module.draw_results(cfg, show_dir='painted')


def test_the_page_on_evaluation_names_what_there_is():
    """Options of both tools, keys, configs, figures, and the files it points to."""
    page = (ROOT / 'docs/evaluation.md').read_text()
    tools = [ROOT / 'tools' / name for name in ('train.py', 'test.py')]
    tools.append(ROOT / 'tools/analysis/evaluate_predictions.py')
    sources = ''.join(path.read_text() for path in [*tools, ROOT / 'mmseg_escnet/cli.py'])
    options = set(re.findall(r'(--[a-z][a-z-]+)', page)) - {'--nproc'}
    assert {'--benchmarks', '--benchmark', '--out', '--tta', '--show-dir'} <= options
    for option in options:
        assert f"'{option}'" in sources, option
    for benchmark in BENCHMARKS:
        (row,) = (line for line in page.splitlines() if line.startswith(f'| {benchmark.key} |'))
        assert f'| {benchmark.num_words} | `{benchmark.config}` |' in row
    for target in re.findall(r'\]\((?!https)([^)#]+)\)', page):
        assert (ROOT / 'docs' / target).exists(), target
    for target in re.findall(r'`((?:mmseg_escnet|tools|configs)/[^` ]+)`', page):
        assert (ROOT / target).exists(), target
