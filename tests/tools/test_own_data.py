"""docs/own_data.md from top to bottom, with fewer iterations; and two real photographs."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from PIL import Image
from tool_processes import run_tool, tool_of

# less of everything, so that it takes less time
PAGE = (ROOT / 'docs/own_data.md').read_text()
SHORT = {'--val 36': '--val 16', '(12, 36)': '(12, 16)', 'max_iters=100': 'max_iters=2'}
SHORT['iter_100'] = 'iter_2'
CONFIG = 'configs/own_data/escnet_toy_few-shot.py'
VOC = 'background aeroplane bicycle bird boat bottle bus car cat chair cow dining-table dog horse'
VOC += ' motorbike person potted-plant sheep sofa train tv-monitor'


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that has what a clone has, to write into."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    (tmp_path / 'data').mkdir()
    for name in ('tools', 'data/toyworld'):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str) -> str:
    done = run_tool(*tool_of(command), cwd=Path.cwd())
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def annotate(folder):
    """What an annotation tool exports: a square on a photograph."""
    (folder / 'photographs').mkdir()
    Image.new('RGB', (20, 10)).save(folder / 'photographs/a.png')
    square = [2, 2, 8, 2, 8, 8, 2, 8]
    content = dict(
        images=[dict(id=1, file_name='a.png', width=20, height=10)],
        categories=[dict(id=1, name='boat')],
        annotations=[dict(id=1, image_id=1, category_id=1, segmentation=[square], area=36)],
    )
    (folder / 'instances_train.json').write_text(json.dumps(content))


def paint(folder):
    """What somebody has drawn: water with a boat, in the colours of the page's list."""
    text = re.search(r'^```text\n(name,r,g,b\n.*?)^```', PAGE, re.DOTALL | re.MULTILINE)[1]
    (folder / 'class_dict.csv').write_text(text)
    (folder / 'painted').mkdir()
    for stem in 'abcdefgh':
        Image.new('RGB', (20, 10), (ord(stem), 0, 0)).save(folder / f'photographs/{stem}.png')
        painted = Image.new('RGB', (20, 10), (64, 128, 192))
        painted.paste((0, 0, 192), (2, 2, 8, 8))
        painted.paste((0, 0, 0), (0, 9, 20, 10))
        painted.save(folder / f'painted/{stem}.png')


def test_the_page_runs(clone):
    annotate(clone)
    paint(clone)
    page = PAGE
    for long, short in SHORT.items():
        assert long in page
        page = page.replace(long, short)
    for kind, content in re.findall(
        r'^```(bash|python)\n(.*?)^```', page, re.DOTALL | re.MULTILINE
    ):
        if file := re.match(r'# (\S+\.py)\n', content):
            (clone / file[1]).parent.mkdir()
            (clone / file[1]).write_text(content)
            dataset = Config.fromfile(clone / file[1]).train_dataloader.dataset
            assert (dataset.type, dataset.data_root) == ('FolderDataset', 'data/photographs/')
        elif kind == 'python':
            exec(content, {})
        else:
            for command in re.sub(r'\\\n *', '', content).splitlines():
                run(command)
                if 'coco_json' in command:
                    assert (clone / 'data/mine/labels/train/a.png').is_file()
                    assert (clone / 'data/mine/names.txt').read_text().strip() == 'boat'
                    shutil.rmtree(clone / 'data/mine')
            if 'convert colours' in content:
                names = (clone / 'data/mine/names.txt').read_text().splitlines()
                assert names == ['boat | ship', 'water']
                for split, count in (('train', 5), ('val', 3)):
                    labels = sorted((clone / 'data/mine/labels' / split).iterdir())
                    assert len(labels) == count
                    with Image.open(labels[0]) as image:
                        assert sorted(image.getcolors()) == [(20, 255), (36, 0), (144, 1)]
                shutil.rmtree(clone / 'data/mine')  # the names of the drawings follow
    assert len(list((clone / 'results/labels').iterdir())) == 4
    assert json.loads((clone / 'results/names.json').read_text())['names'][0] == 'circle'
    (card,) = clone.glob('published/*/*.md')
    assert '| FolderDataset | 4 |' in ' '.join(card.read_text().split())


def test_two_photographs(clone, real_samples):
    """Loss and mIoU on the two themselves; CLIP and SAM stay as they were."""
    source = real_samples / 'VOCdevkit/VOC2012'
    for split in ('train', 'val'):
        shutil.copytree(source / 'JPEGImages', clone / 'data/mine/images' / split)
        shutil.copytree(source / 'SegmentationClass', clone / 'data/mine/labels' / split)
    names = [name.replace('-', ' ') for name in VOC.split()]
    (clone / 'data/mine/names.txt').write_text('\n'.join(names))
    options = 'train_cfg.max_iters=12 train_cfg.val_interval=12 param_scheduler=[]'
    options += ' train_dataloader.batch_size=2 train_dataloader.num_workers=0'
    options += ' train_dataloader.persistent_workers=False default_hooks.logger.interval=1'
    options += ' default_hooks.checkpoint.interval=12 optim_wrapper.optimizer.lr=0.001'
    run(f'python tools/train.py {CONFIG} --cfg-options {options}')
    (log,) = (clone / 'work_dirs/escnet_toy_few-shot').glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [record['loss'] for record in records if 'loss' in record]
    assert len(losses) == 12
    assert losses[-1] < 0.8 * losses[0]
    before, after = (
        torch.load(path, map_location='cpu', weights_only=False)['state_dict']
        for path in ('data/toyworld/escnet.pth', 'work_dirs/escnet_toy_few-shot/iter_12.pth')
    )
    assert set(before) == set(after)
    changed = {key for key in before if not torch.equal(before[key].to_dense().float(), after[key])}
    kept = [key for key in before if key.startswith('backbone.') or '.sam_block.layers' in key]
    assert len(kept) > 50
    assert not changed & set(kept)
    assert any(key.startswith('decode_head.') for key in changed)
    assert any('.fusion.' in key for key in changed)
