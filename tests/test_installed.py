"""The package as pip installs it, away from the work tree: OpenMMLab's own ways of using it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mmseg
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

MMSEG_TOOLS = Path(mmseg.__file__).parent / '.mim/tools'  # those that its wheel installs


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """The package away from the work tree, as pip installs it."""
    target = tmp_path_factory.mktemp('installed')
    source = tmp_path_factory.mktemp('source') / 'copy'
    command = ['git', 'ls-files', '-co', '--exclude-standard']
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    listed = done.stdout.split()
    for name in listed:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-build-isolation']
    command += ['--no-index', '--quiet', '--target', str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def run(installed, cwd, *arguments) -> str:
    """What a fresh interpreter prints that has the installed package, away from the work tree."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={'PYTHONPATH': str(installed), 'PATH': os.defpath, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def python(installed, cwd, code: str) -> list[str]:
    """The words that some code prints."""
    return run(installed, cwd, '-c', code).split()


@pytest.mark.parametrize('name', ['escnet_vitb16_coco-stuff', 'escnet_vitl14_coco-stuff'])
def test_get_config_of_the_installed_package(installed, tmp_path, name):
    code = f"""
import mmengine.hub, mmseg_escnet.components
cfg = mmengine.hub.get_config('mmseg_escnet::escnet/{name}.py')
print(mmseg_escnet.__file__, cfg.filename, cfg.model.type)
"""
    package, config, model = python(installed, tmp_path, code)[-3:]
    assert package.startswith(str(installed))
    assert config.startswith(f'{installed}/mmseg_escnet/.mim/configs/')
    assert model == 'ESCNet'


@pytest.mark.parametrize('first', ['mmseg_escnet.components', 'mmengine.hub'])
def test_get_model_of_the_installed_package(installed, tmp_path, first):
    """Whichever is imported first. Without ``pretrained`` there is nothing to download."""
    code = f"""
import {first}, mmseg_escnet.components, mmengine.hub
model = mmengine.hub.get_model('mmseg_escnet::toyworld/escnet_toy.py')
print(type(model), sum(parameter.numel() for parameter in model.parameters()))
"""
    words = python(installed, tmp_path, code)
    assert 'mmseg_escnet.models.segmentors.escnet.ESCNet' in words[-2]
    assert int(words[-1]) > 1e5


def test_a_config_may_inherit_from_the_installed_package(installed, tmp_path):
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'mmseg_escnet::escnet/escnet_vitb16_coco-stuff.py'\ntrain_cfg = dict(max_iters=7)"
    )
    code = """
import mmseg_escnet.components
from mmengine.config import Config
cfg = Config.fromfile('mine.py')
print(cfg.model.type, cfg.train_cfg.max_iters)
"""
    assert python(installed, tmp_path, code)[-2:] == ['ESCNet', '7']


@pytest.fixture(scope='module')
def scenes(installed, tmp_path_factory):
    """Where the toy config looks for its data, drawn by the installed tool."""
    folder = tmp_path_factory.mktemp('elsewhere')
    tool = installed / 'mmseg_escnet/.mim/tools/toyworld/make_scenes.py'
    out = folder / 'data/toyworld_scenes'
    run(installed, folder, tool, '--out', out, '--train', 4, '--val', 3, '--workers', 1)
    return folder


def test_the_command(installed, scenes):
    """With the tools, the config and the weights of the wheel."""
    command = installed / 'bin/mmseg-escnet'
    assert ' convert NAME ' in run(installed, scenes, command, '--help')
    images = scenes / 'data/toyworld_scenes/images/val'
    printed = run(installed, scenes, command, 'infer', images, '--out-dir', 'results')
    assert printed.startswith('images found: 3')
    labels = sorted(path.name for path in (scenes / 'results/labels').iterdir())
    assert labels == [f'{path.name}.png' for path in sorted(images.iterdir())]


SMALL = [
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=2',
    *(f'{phase}_dataloader.num_workers=0' for phase in ('train', 'val', 'test')),
    *(f'{phase}_dataloader.persistent_workers=False' for phase in ('train', 'val', 'test')),
]


def test_tools_of_mmsegmentation_train_and_test(installed, scenes):
    config = installed / 'mmseg_escnet/.mim/configs/toyworld/escnet_toy.py'
    options = ['--work-dir', 'work', '--cfg-options', *SMALL]
    run(installed, scenes, MMSEG_TOOLS / 'train.py', config, *options)
    log = next(scenes.glob('work/*/*.log')).read_text()
    assert re.search(r'Iter\(train\) \[2/2\].* loss: \d', log)
    assert re.search(r'Iter\(val\) \[3/3\].* mIoU: \d', log)
    printed = run(installed, scenes, MMSEG_TOOLS / 'test.py', config, 'work/iter_2.pth', *options)
    assert re.search(r'Iter\(test\) \[3/3\].* mIoU: \d', printed)


def test_tools_of_mmsegmentation_test_the_trained_model(installed, scenes):
    """The accuracy that they print is that of the label maps that they write."""
    files = installed / 'mmseg_escnet/.mim'
    arguments = [files / 'configs/toyworld/escnet_toy.py', files / 'data/toyworld/escnet.pth']
    arguments += ['--out', 'predictions', '--work-dir', 'tested', '--cfg-options', *SMALL]
    printed = run(installed, scenes, MMSEG_TOOLS / 'test.py', *arguments)
    labels = sorted((scenes / 'data/toyworld_scenes/annotations/val').glob('*.png'))
    assert len(labels) == 3
    right = total = 0
    for path in labels:
        label = np.asarray(Image.open(path))
        predicted = np.asarray(Image.open(scenes / 'predictions' / path.name))
        right += ((predicted == label) & (label != 255)).sum()
        total += (label != 255).sum()
    accuracy = float(re.search(r'Iter\(test\) \[3/3\].* aAcc: ([\d.]+)', printed)[1])
    assert accuracy == pytest.approx(100 * right / total, abs=0.01)
    assert accuracy > 60


def test_inferencer_of_mmsegmentation(installed, scenes):
    """Our config by its name in the hub, our weights, words of one's own."""
    code = f"""
import mmseg_escnet.components
from mmengine.hub import get_config
from mmseg.apis import MMSegInferencer
from mmseg_escnet.apis import OpenVocabInferencer
folder = {str(installed / 'mmseg_escnet/.mim')!r}
files = folder + '/configs/toyworld/escnet_toy.py', folder + '/data/toyworld/escnet.pth'
image = 'data/toyworld_scenes/images/val/000000.png'
words = ['yellow heart', 'wood', 'sand', 'grass']
theirs = MMSegInferencer(*files, device='cpu')
theirs.model.set_vocabulary(words)
found = theirs(image)['predictions']
ours = OpenVocabInferencer(*files, device='cpu')(image, words, synonyms='first').labels
print(found.shape == ours.shape, (found == ours).all(), len(set(ours.flat)) > 1)
"""
    assert python(installed, scenes, code)[-3:] == ['True'] * 3
