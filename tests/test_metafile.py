"""The metafile: complete, true to the configs, and found by MMEngine in an installed wheel."""

import subprocess
import sys

import pytest
import yaml
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

(METAFILE,) = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
CONTENT = yaml.safe_load((ROOT / METAFILE).read_text())
ENTRIES = {entry['Name']: entry for entry in CONTENT['Models']}
# the paper's table, as far as its numbers are known
PAPER = {
    'escnet_vitl14_coco-stuff': [18.1, 27.0, 41.8, 65.6, 98.3, None],
    'escnet_vitb16_coco-stuff': [None, None, 35.6, 59.0, 97.3, 80.1],
}


def test_collection():
    (collection,) = CONTENT['Collections']
    assert collection['License'] == 'Apache-2.0'
    assert (ROOT / collection['README']).is_file()
    assert collection['Paper']['URL'] == 'https://arxiv.org/abs/2411.14723'
    assert {entry['In Collection'] for entry in ENTRIES.values()} == {collection['Name']}


@pytest.mark.parametrize('name', PAPER)
def test_results(name):
    """What the paper reports is marked as such, and nothing else claims to be measured."""
    metrics = [result['Metrics'] for result in ENTRIES[name]['Results']]
    assert [each['mIoU (paper)'] for each in metrics] == PAPER[name]
    assert [each['mIoU'] for each in metrics] == [None] * 6
    assert len({result['Dataset'] for result in ENTRIES[name]['Results']}) == 6


@pytest.mark.parametrize('name', PAPER)
def test_true_to_the_config(name):
    metadata = ENTRIES[name]['Metadata']
    cfg = Config.fromfile(ROOT / ENTRIES[name]['Config'])
    assert name in ENTRIES[name]['Config']
    assert metadata['Batch Size'] == cfg.train_dataloader.batch_size
    assert metadata['Iterations'] == cfg.train_cfg.max_iters
    assert metadata['FLOPs'] > 5e11
    if 'vitb16' in name:  # the larger one takes a while
        init_default_scope('mmseg')
        cfg.model.backbone.pretrained = cfg.model.neck.sam_pretrained = None
        parameters = MODELS.build(cfg.model).parameters()
        assert metadata['Parameters'] == sum(parameter.numel() for parameter in parameters)


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


def python(installed, cwd, code: str) -> list[str]:
    """Last words of a fresh interpreter that has the installed package, away from the work tree."""
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=cwd,
        env={'PYTHONPATH': str(installed), 'PATH': ''},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


@pytest.mark.parametrize('name', PAPER)
def test_get_config_of_the_installed_package(installed, tmp_path, name):
    code = f"""
import mmengine.hub, mmseg_escnet
cfg = mmengine.hub.get_config('mmseg_escnet::escnet/{name}.py')
print(mmseg_escnet.__file__, cfg.filename, cfg.model.type)
"""
    package, config, model = python(installed, tmp_path, code)[-3:]
    assert package.startswith(str(installed))
    assert config.startswith(f'{installed}/mmseg_escnet/.mim/configs/')
    assert model == 'ESCNet'


@pytest.mark.parametrize('first', ['mmseg_escnet', 'mmengine.hub'])
def test_get_model_of_the_installed_package(installed, tmp_path, first):
    """Whichever is imported first. Without ``pretrained`` there is nothing to download."""
    code = f"""
import {first}, mmseg_escnet, mmengine.hub
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
import mmseg_escnet
from mmengine.config import Config
cfg = Config.fromfile('mine.py')
print(cfg.model.type, cfg.train_cfg.max_iters)
"""
    assert python(installed, tmp_path, code)[-2:] == ['ESCNet', '7']
