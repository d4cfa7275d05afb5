"""docs/reproduce.md, followed on the toy world: its commands, with fewer steps and images."""

import json
import re
import shlex

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from PIL import Image
from tool_processes import run_tool, tool_of

from mmseg_escnet.config import clip_alone
from mmseg_escnet.toyworld.drawing import draw_scenes

PAGE = (ROOT / 'docs/reproduce.md').read_text()
CONFIG = 'configs/escnet/escnet_vitl14_coco-stuff.py'
CHECKPOINTS = 'work_dirs/escnet_vitl14_coco-stuff'
# under the names of the real configs: one block, which learns in four steps of one image
SMALL = """_base_ = {base!r}
model = dict(neck=dict(num_blocks=1))
train_dataloader = dict(batch_size=1, num_workers=0)
val_dataloader = dict(num_workers=0)
pipeline = [
    dict(type='LoadImage'),
    dict(type='Resize', scale=(96, 96), keep_ratio=False),  # also of the benchmarks
    dict(type='LoadLabelMap'),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(num_workers=0, dataset=dict(pipeline=pipeline))
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=-1))
"""
ACCUMULATING = (
    "_base_ = './escnet_vitl14_coco-stuff.py'\noptim_wrapper = dict(accumulative_counts=2)\n"
)


def commands() -> list[list[str]]:
    """All of the page that train, test, check data and draw; fewer steps and images."""
    blocks = re.findall(r'^```bash\n(.*?)^```', PAGE, re.DOTALL | re.MULTILINE)
    lines = ''.join(blocks).replace('\\\n', '')
    # tests/distributed runs tools/dist_train.sh; the toy world needs no rehearsal
    called = r'^(?:mmseg-escnet (?:train|test|check dataset)|python tools/analysis/\S+) .*'
    found = [line for line in re.findall(called, lines, re.M) if 'configs/toyworld' not in line]
    less = (
        ('80000', '4'),
        ('1000', '2'),
        ('--subset 50', '--subset 2'),
        ('indices=50', 'indices=2'),
    )
    for old, new in less:
        found = [line.replace(old, new) for line in found]
    alone = ['--cfg-options', 'test_dataloader.num_workers=0']  # of whose end PyTorch waits
    return [tool_of(line) + (alone if '--benchmarks' in line else []) for line in found]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with toy configs under the names of the page, and data where these look for it."""
    place = tmp_path_factory.mktemp('machine')
    toy = str(ROOT / 'configs/toyworld/escnet_toy.py')
    for folder in ('configs/escnet', 'configs/clip', 'data/coco_stuff164k/images/val2017'):
        (place / folder).mkdir(parents=True)
    (place / CONFIG).write_text(SMALL.format(base=toy))
    (place / CONFIG.replace('vitl14', 'vitl14_1gpu')).write_text(ACCUMULATING)
    clip = Config.fromfile(place / CONFIG)
    clip.model = clip_alone(clip.model)
    clip.dump(place / 'configs/clip/clip_vitb16_readout.py')
    draw_scenes(place / 'data/toyworld_scenes', train=4, val=4, workers=1)
    scene = Image.open(place / 'data/toyworld_scenes/images/val/000000.png')
    scene.save(place / 'data/coco_stuff164k/images/val2017/000000000139.jpg')
    voc = place / 'data/VOCdevkit/VOC2012'
    for number in range(3):
        for kind, suffix, content in (
            ('JPEGImages', 'jpg', scene),
            ('SegmentationClass20', 'png', Image.new('L', scene.size, number)),
            ('SegmentationClass20b', 'png', Image.new('L', scene.size, number)),
        ):
            (voc / kind).mkdir(parents=True, exist_ok=True)
            content.save(voc / kind / f'{number}.{suffix}')
    (voc / 'ImageSets/Segmentation20').mkdir(parents=True)
    (voc / 'ImageSets/Segmentation20/val.txt').write_text('0\n1\n2\n')
    return place


def run(place, *words) -> str:
    done = run_tool(ROOT / words[0], *words[1:], cwd=place)
    assert done.returncode == 0, (shlex.join(map(str, words)), done.stdout, done.stderr[-3000:])
    return done.stdout


def figures(place, name) -> dict:
    (path,) = place.glob(f'work_dirs/*/benchmarks_{name}.json')
    return json.loads(path.read_text())['benchmarks']


def test_the_page(place):
    said = {' '.join(words): run(place, *words) for words in commands()}
    assert len(said) == len(commands()) == 11
    by_tool = lambda name: [text for command, text in said.items() if name in command]  # noqa: E731
    trainings = by_tool('train.py')
    assert all('CLIP alone reaches mIoU_gt' in text for text in trainings[:3])
    assert 'an update after every 2 steps' in trainings[1]
    assert 'validation: every 2 steps, 2 images' in trainings[2]
    for name in ('iter_2.pth', 'iter_4.pth'):
        assert (place / CHECKPOINTS / name).is_file()
    assert (place / 'blocks.png').is_file()
    # a first look and the whole, neither in place of the other
    for name, keys in (('clip_value', {'PAS-20'}), ('iter_4', {'PAS-20', 'PAS-20b'})):
        first, whole = figures(place, f'{name}_subset2'), figures(place, name)
        assert set(first) == set(whole) == keys
        assert [entry['images'] for entry in (first['PAS-20'], whole['PAS-20'])] == [2, 3]
        assert first['PAS-20']['note'].startswith('first look: 2 of 3 images, not comparable with')
        assert whole['PAS-20']['note'] is None
        assert 'mIoU_gt' in first['PAS-20']['metrics']
    for text in by_tool('--subset 2'):
        assert 'PAS-20: first look: 2 of 1449 images, not comparable' in text
        (row,) = (line for line in text.splitlines() if re.match(r'\| *PAS-20 ', line))
        cells = [cell.strip() for cell in row.split('|')[2:8]]
        assert cells[0] == '2 of 1449'
        assert cells[2] == cells[3] == '-', 'nothing published beside it'
    assert not any('finished before' in text for text in said.values())


def test_a_first_look_at_the_data_set_of_the_config(place):
    """The figures of the images that are said, under a name that says so."""
    command = ['tools/test.py', CONFIG, ROOT / 'data/toyworld/escnet.pth']
    options = ['--cfg-options', 'model.neck.num_blocks=2']
    said = run(place, *command, '--work-dir', 'first', '--subset', 2, *options)
    run(place, *command, '--work-dir', 'same', *options, 'test_dataloader.dataset.indices=0,2')
    first, same = (
        json.loads(next((place / name).glob('*/2*.json')).read_text()) for name in ('first', 'same')
    )
    same = {f'first_look_2_of_4/{k}': v for k, v in same.items() if 'time' not in k}
    assert {k: v for k, v in first.items() if 'time' not in k} == pytest.approx(same, nan_ok=True)
    kept = json.loads((place / 'first/test_escnet_subset2.json').read_text())['benchmarks']
    entry = kept['ToyWorldDataset']
    assert entry['note'] == 'first look: 2 of 4 images, not comparable with published figures'
    assert (entry['images'], entry['published_images']) == (2, 4)
    assert entry['note'] in said
    for wrong in (['--subset', 0], ['--subset', 1, *options, 'test_dataloader.dataset.indices=2']):
        done = run_tool(ROOT / command[0], *command[1:], *wrong, cwd=place)
        assert done.returncode == 2
        assert 'is not possible: give a positive number' in done.stderr


def test_averaged_weights(place):
    """Of all updates, also after a resumption; the test takes them, without the hook."""
    ema = ['default_hooks.ema.type=EMAHook', 'default_hooks.ema.momentum=0.5']
    every = [*ema, 'default_hooks.checkpoint.interval=1', 'val_dataloader.dataset.indices=2']
    every += ['train_cfg.val_interval=2']
    command = ['tools/train.py', CONFIG, '--work-dir', 'ema']
    for steps, how in ((2, []), (4, ['--resume'])):
        options = ['--cfg-options', *every, f'train_cfg.max_iters={steps}']
        said = run(place, *command, *how, *options)
    saved = [torch.load(place / f'ema/iter_{i}.pth', weights_only=True) for i in (1, 2, 3, 4)]
    mean = None
    for content in saved:
        raw = {
            key.removeprefix('module.'): value
            for key, value in content['ema_state_dict'].items()
            if key.startswith('module.') and value.is_floating_point()
        }
        mean = {k: v if mean is None else (mean[k] + v) / 2 for k, v in raw.items()}
        for key, value in mean.items():
            torch.testing.assert_close(content['state_dict'][key], value, rtol=1e-5, atol=1e-7)
    trained = [key for key in mean if (mean[key] != raw[key]).any()]
    assert 50 < len(trained) < len(mean), 'some are frozen'
    (validated,) = re.findall(r'step 4: .*mIoU_gt ([\d.]+)', said)
    run(
        place,
        'tools/test.py',
        CONFIG,
        'ema/iter_4.pth',
        '--work-dir',
        'tested',
        '--cfg-options',
        'test_dataloader.dataset.indices=2',
    )
    (tested,) = (place / 'tested').glob('*/2*.json')
    assert json.loads(tested.read_text())['mIoU_gt'] == pytest.approx(float(validated), abs=0.01)


@pytest.mark.parametrize('model', ['vitb16', 'vitl14'])
def test_accumulation_is_the_recipe(model):
    """Four times the counts, a fourth of the images."""
    plain = Config.fromfile(ROOT / f'configs/escnet/escnet_{model}_coco-stuff.py')
    ours = Config.fromfile(ROOT / f'configs/escnet/escnet_{model}_1gpu_coco-stuff.py')
    assert ours.optim_wrapper.pop('accumulative_counts') == plain.train_dataloader.batch_size == 4
    ours.train_dataloader.batch_size *= 4
    for part, names in (
        (ours.train_cfg, ('max_iters', 'val_interval')),
        (ours.param_scheduler[0], ('end', 'T_max')),
        (ours.default_hooks.logger, ('interval',)),
        (ours.default_hooks.checkpoint, ('interval',)),
    ):
        for name in names:
            part[name] /= 4
    assert ours.to_dict() == plain.to_dict()
