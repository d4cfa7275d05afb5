"""tools/train.py and tools/test.py as a user calls them, at toy size."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from PIL import Image
from tool_processes import run_tool

from mmseg_escnet.config import clip_alone
from mmseg_escnet.toyworld.experiment import measure
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import to_seen_ids

# few classes and one block: what is tested is the way, not the model
SMALL = [
    'train_dataloader.num_workers=0',
    'val_dataloader.num_workers=0',
    'test_dataloader.num_workers=0',
    'train_dataloader.batch_size=2',
    'model.neck.num_blocks=1',
    'test_dataloader.dataset.indices=2',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.checkpoint.max_keep_ckpts=3',
    'train_cfg.max_iters=4',
]
CONFIG = 'configs/toyworld/escnet_toy.py'


@pytest.fixture(scope='module')
def options(tmp_path_factory) -> list[str]:
    """A data set of six scenes, and the options that point the toy config at it."""
    root = tmp_path_factory.mktemp('scenes')
    for split in ('train', 'val'):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for number in range(6):
            image, label = scene(1, number)
            label = to_seen_ids(label) if split == 'train' else label
            Image.fromarray(image).save(root / 'images' / split / f'{number}.png')
            Image.fromarray(label).save(root / 'annotations' / split / f'{number}.png')
    roots = [f'{phase}_dataloader.dataset.data_root={root}/' for phase in ('train', 'val', 'test')]
    return ['--cfg-options', *roots, *SMALL]


@pytest.fixture(scope='module')
def trained(options, tmp_path_factory) -> Path:
    """Work dir of an uninterrupted run."""
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    done = run_tool('tools/train.py', CONFIG, '--work-dir', work_dir, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    (work_dir / 'terminal').write_text(done.stdout + done.stderr)
    return work_dir


def read_image(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def read(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=True)


def test_the_terminal_is_brief_and_the_log_is_long(trained):
    """What a user needs to know, no more; every line of it and all of MMEngine's in the file."""
    lines = (trained / 'terminal').read_text().splitlines()
    (log,) = trained.glob('*/*.log')
    long = log.read_text()
    assert len(lines) <= 15, lines
    assert long.count('\n') > 400
    text = '\n'.join(lines)
    assert 'arning' not in text
    assert '\x1b' not in text, 'there is no terminal'
    for path in (log, next(trained.glob('*/vis_data/scalars.json')), trained / 'iter_4.pth'):
        assert str(path) in text
    assert re.search(r'^training: 4 steps of 2 images, [\d.]+ million parameters', text, re.M)
    assert re.search(r'^first step: [\d.]+ s', text, re.M)
    assert re.search(r'^training: 4 of 4, .* loss=[\d.]+$', text, re.M)
    assert re.search(r'^trained in [\d.]+ minutes; last checkpoint: ', text, re.M)
    assert 'Iter(train)' not in text
    assert long.count('Iter(train)') == 4
    for part in (
        'System environment',
        'Hooks will be executed',
        'requires_grad=False',
        'first step:',
    ):
        assert part in long
        assert part in text or part != 'first step:'


def test_validations_and_resuming_on_the_terminal(options, tmp_path):
    command = ['tools/train.py', CONFIG, '--work-dir', tmp_path]
    last = ['val_dataloader.dataset.indices=2', 'train_cfg.val_interval=2', 'randomness.seed=1']
    first = run_tool(*command, *options, *last, 'train_cfg.max_iters=2')
    again = run_tool(*command, '--resume', *options, *last)
    for done, steps in ((first, [2]), (again, [4])):
        assert done.returncode == 0, done.stderr[-2000:]
        said = re.findall(r'^step (\d+): (.*) \(validated in \d+ s\)$', done.stdout, re.M)
        assert [int(step) for step, _ in said] == steps
        (log,) = [log for log in tmp_path.glob('*/*.log') if str(log) in done.stdout]
        (logged,) = re.findall(r'Iter\(val\) \[2/2\].* mIoU_gt: ([\d.]+)', log.read_text())
        (shown,) = re.findall(r'mIoU_gt ([\d.]+)', said[0][1])
        assert float(shown) == pytest.approx(float(logged), abs=0.01)
    assert 'resumed after step 2' in again.stdout
    assert 'resumed' not in first.stdout
    assert len([*tmp_path.glob('*/classes.json')]) == 2


@pytest.mark.skipif(torch.__version__ < (2, 6), reason='PyTorch < 2.6 trusts every file')
def test_training_writes_checkpoints_that_load_without_unpickling_code(trained):
    checkpoint = read(trained / 'iter_4.pth')
    assert checkpoint['meta']['iter'] == 4
    assert checkpoint['meta']['dataset_meta']['classes'][0] == 'red circle'
    assert (trained / 'iter_2.pth').exists()


def test_a_test_is_brief_and_its_log_has_the_table_in_the_words_of_the_data_set(
    trained, options, tmp_path
):
    done = run_tool(
        'tools/test.py',
        CONFIG,
        trained / 'iter_4.pth',
        '--work-dir',
        tmp_path,
        '--out',
        tmp_path / 'predictions',
        '--show-dir',
        tmp_path / 'shown',
        *options,
        'visualizer.alpha=1.0',
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-2000:]
    lines = output.splitlines()
    assert len(lines) <= 8, lines
    assert 'arning' not in output
    (log,) = tmp_path.glob('*/*.log')
    assert f'figures of all classes: {log}' in lines[0]
    (figures,) = re.findall(r'^(.*) \(tested in \d+ s\)$', output, re.M)
    long = log.read_text()
    (logged,) = re.findall(r'Iter\(test\) \[2/2\].* mIoU_unseen: ([\d.]+)', long)
    (said,) = re.findall(r'mIoU_unseen ([\d.]+)', figures)
    assert float(said) == pytest.approx(float(logged), abs=0.01)
    assert figures in long
    for part in (
        'System environment',
        'Hooks will be executed',
        'Load checkpoint from',
        'yellow triangle',  # a word that training did not have
    ):
        assert part in long
        assert part not in output
    assert len(list((tmp_path / 'predictions').glob('*.png'))) == 2
    painted = sorted((tmp_path / 'shown').rglob('*.png'))
    assert len(painted) == 2, painted
    for number, picture in enumerate(painted):
        labels = read_image(tmp_path / f'predictions/{number}.png').astype(int)
        drawn = read_image(picture)
        panel, legend = drawn[28:412, 2 * 391 :], drawn[412:]
        for class_id in np.flatnonzero(np.bincount(labels.ravel()) > 500):
            where = np.kron(labels == class_id, np.ones((4, 4), bool))
            colors, counts = np.unique(panel[where], axis=0, return_counts=True)
            color = colors[counts.argmax()]
            assert counts.max() > 0.8 * where.sum(), 'apart from its name'
            boxes = (legend == color).all(axis=-1).sum()
            assert boxes > 100, 'the colour of the prediction is not in the legend'


def test_fine_tuning_resumes_where_it_stopped(options, tmp_path):
    """With load_from, whose training is over; begun with --resume, as a job on a cluster is."""
    start = ['model.neck.num_blocks=2', f'load_from={ROOT / "data/toyworld/escnet.pth"}']
    for folder, lengths in (('whole', [4]), ('parts', [2, 4])):
        for length in lengths:
            work_dir = ['--work-dir', tmp_path / folder, '--resume']
            more = [f'train_cfg.max_iters={length}', 'val_dataloader.dataset.indices=1']
            done = run_tool('tools/train.py', CONFIG, *work_dir, *options, *start, *more)
            assert done.returncode == 0, done.stderr[-2000:]
    whole, parts = (read(tmp_path / folder / 'iter_4.pth') for folder in ('whole', 'parts'))
    first = read(tmp_path / 'parts/iter_2.pth')['state_dict']
    if not hasattr(InfiniteSampler, 'skip'):  # of onedl-mmengine: see docs/faq.md
        torch.testing.assert_close(parts['state_dict'], whole['state_dict'], rtol=0, atol=0)
    assert parts['meta']['iter'] == 4
    assert len(parts['message_hub']['log_scalars']['train/loss'].data[0]) == 4
    assert any((first[name] != value).any() for name, value in parts['state_dict'].items())


def test_bad_input_is_one_sentence(trained, options, tmp_path):
    """Each within seconds, with status 2 and without a traceback."""
    truncated = tmp_path / 'truncated.pth'
    truncated.write_bytes((trained / 'iter_4.pth').read_bytes()[:100_000])
    other = ['model.neck.num_blocks=2']
    cases = [
        (['tools/train.py', 'no_such.py'], 'no_such.py does not exist'),
        (['tools/train.py', CONFIG, '--cfg-options', 'max_iters'], "'max_iters' is not key=value"),
        (['tools/train.py', CONFIG, *options, 'model.neck.num_block=3'], 'did you mean num_blocks'),
        (
            ['tools/test.py', CONFIG, truncated, *options, 'data_root=/nonexistent'],
            'override test_dataloader.dataset.data_root',
        ),
        (
            ['tools/train.py', CONFIG, *options, 'train_dataloader.dataset.ignore_index=254'],
            'set model.data_preprocessor.seg_pad_val=254 model.decode_head.ignore_index=254',
        ),
        (
            ['tools/train.py', 'configs/escnet/escnet_vitl14_coco-stuff.py']
            + ['--cfg-options', f'train_dataloader.dataset.data_root={tmp_path}/'],
            'mmseg-escnet convert coco_stuff164k',
        ),
        (
            ['tools/train.py', CONFIG, '--work-dir', tmp_path / 'w', *options]
            + ['model.neck.sam_pretrained=no_such.pth'],
            'The SAM checkpoint no_such.pth does not exist',
        ),
        (['tools/test.py', CONFIG, 'no_such.pth', *options], 'no_such.pth does not exist'),
        (['tools/test.py', CONFIG, truncated, *options], 'cannot be read'),
        (
            ['tools/test.py', CONFIG, trained / 'iter_4.pth', '--work-dir', tmp_path]
            + options
            + other,
            'does not fit ESCNet',
        ),
    ]
    for arguments, sentence in cases:
        done = run_tool(*arguments)
        assert done.returncode == 2, (arguments, done.stderr[-2000:])
        assert 'Traceback' not in done.stderr, done.stderr[-2000:]
        last = done.stderr[done.stderr.rindex('error: ') :]
        is_list = last.startswith('error: 4 problems:')  # of the real config, without any input
        assert len(last.splitlines()) == (5 if is_list else 1), last
        assert sentence in last, last


@pytest.mark.skipif(torch.cuda.is_available(), reason='trains on the GPU')
def test_mixed_precision_on_a_cpu(trained, options, tmp_path):
    """The losses are near those of float32, from the same weights; the weights stay float32."""
    command = ['tools/train.py', CONFIG, '--amp', '--work-dir', tmp_path, *options]
    done = run_tool(*command, 'train_cfg.max_iters=2')
    assert done.returncode == 0, done.stderr[-2000:]
    full, low = (
        [json.loads(line)['loss'] for line in file.read_text().splitlines()[:2]]
        for folder in (trained, tmp_path)
        for file in folder.glob('*/vis_data/scalars.json')
    )
    assert low[0] != full[0]
    assert low == pytest.approx(full, rel=0.01)
    weights = read(tmp_path / 'iter_2.pth')['state_dict']
    assert all(w.dtype == torch.float32 for w in weights.values() if w.is_floating_point())
    done = run_tool(*command, '--amp-dtype', 'float16')
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        'error: --amp-dtype float16 needs a GPU, and PyTorch sees none: use bfloat16.'
    )


def test_calibration_before_the_first_step(options, tmp_path):
    """The figure of CLIP alone, and the training afterwards is the one without it."""
    command = ['tools/train.py', CONFIG, '--work-dir', tmp_path]
    last = ['train_cfg.max_iters=1', 'val_dataloader.dataset.indices=3']
    done = run_tool(*command, '--calibrate', *options, *last)
    assert done.returncode == 0, done.stderr[-2000:]
    log = done.stdout + done.stderr
    assert len(log.splitlines()) <= 16, log
    assert len(list(tmp_path.glob('calibration/*/*.log'))) == 1
    (figure,) = re.findall(r'CLIP alone reaches mIoU_gt ([\d.]+) on the validation data', log)
    cfg = Config.fromfile(ROOT / CONFIG)
    cfg.merge_from_dict({'val_dataloader.dataset.data_root': f'{options[2].split("=")[1]}'})
    init_default_scope('mmseg')
    model = MODELS.build(clip_alone(cfg.model))
    model.init_weights()
    dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, indices=3))
    expected = measure(model, dataset, cfg.val_evaluator).metrics['mIoU_gt']
    assert float(figure) == pytest.approx(expected, abs=0.006)
    assert (tmp_path / 'iter_1.pth').exists()
    for more, message in (
        (['--resume'], 'leave it out with'),
        (['--random-weights'], 'leave it out with'),
    ):
        done = run_tool(*command, '--calibrate', *more, *options)
        assert done.returncode == 2
        assert message in done.stderr
