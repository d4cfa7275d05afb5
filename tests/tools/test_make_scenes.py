"""Writing the toy world."""

import hashlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image

from mmseg_escnet.datasets import ToyWorldDataset
from mmseg_escnet.datasets.toyworld_scenes import (
    ALL_NAMES,
    SEEN_NAMES,
    TEXTURES,
    UNSEEN_NAMES,
    scene,
)
from mmseg_escnet.errors import ESCNetError

SCRIPT = Path(__file__).resolve().parents[2] / 'tools' / 'toyworld' / 'make_scenes.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('make_scenes_tool', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def make(tool, out, *options):
    sizes = ['--train', '24', '--val', '6', '--size', '48']
    return tool.main(['--out', str(out), *sizes, *(options or ('--workers', '1'))])


def digests(out):
    return {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(out.rglob('*.png'))
    }


def test_same_bytes_whatever_the_number_of_processes(tool, tmp_path):
    assert make(tool, tmp_path / 'one') == 0
    assert make(tool, tmp_path / 'two', '--workers', '2') == 0
    assert len(digests(tmp_path / 'one')) == 2 * 30 + 1
    assert digests(tmp_path / 'one') == digests(tmp_path / 'two')


def test_resumes(tool, tmp_path, capsys):
    make(tool, tmp_path)
    before = digests(tmp_path)
    (tmp_path / 'images' / 'train' / '000003.png').unlink()
    half = tmp_path / 'annotations' / 'val' / '000001.png'
    half.write_bytes(half.read_bytes()[:-4])
    capsys.readouterr()
    make(tool, tmp_path)
    assert '2 scenes drawn, 28 already there' in capsys.readouterr().out
    assert digests(tmp_path) == before


def test_worlds_are_not_mixed(tool, tmp_path):
    make(tool, tmp_path)
    with pytest.raises(ESCNetError, match='made with another seed'):
        make(tool, tmp_path, '--seed', '1')
    with pytest.raises(ESCNetError, match='out of range'):
        tool.main(['--out', str(tmp_path), '--train', '-1'])


def test_labels_of_both_splits(tool, tmp_path):
    make(tool, tmp_path)
    init_default_scope('mmseg')
    pipeline = [dict(type='LoadImage'), dict(type='LoadLabelMap')]
    hidden = 0
    for split, names, offset in (('train', SEEN_NAMES, 0), ('val', ALL_NAMES, tool.VAL_OFFSET)):
        dataset = ToyWorldDataset(
            vocabulary='seen' if split == 'train' else 'all',
            data_root=str(tmp_path),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
            pipeline=pipeline,
            test_mode=split == 'val',
        )
        assert len(dataset) == (24 if split == 'train' else 6)
        for number, data in enumerate(dataset):
            image, truth = scene(0, number + offset, 48)
            np.testing.assert_array_equal(data['img'], image[..., ::-1])
            for file_id, true_id in np.unique(
                np.stack([data['gt_seg_map'].ravel(), truth.ravel()]), axis=1
            ).T:
                name = ALL_NAMES[true_id]
                if split == 'train' and name in UNSEEN_NAMES:
                    assert file_id == 255
                    hidden += 1
                else:
                    assert names[file_id] == name
    assert hidden > 3


def test_contact_sheet(tool, tmp_path):
    make(tool, tmp_path)
    sheet = np.array(Image.open(tmp_path / 'contact_sheet.png'))
    assert sheet.ndim == 3
    assert sheet.std() > 30


def test_only_the_things_asked_for_occur(tool, tmp_path):
    things = ['red circle', 'blue star']
    tool.main(['--out', str(tmp_path), '--train', '0', '--val', '8', '--things', *things])
    ids = set()
    for file in (tmp_path / 'annotations' / 'val').glob('*.png'):
        ids |= set(np.unique(np.asarray(Image.open(file))).tolist())
    names = {ALL_NAMES[i] for i in ids}
    assert names - set(TEXTURES) == set(things)
    with pytest.raises(ESCNetError, match="no shape 'red dragon'"):
        tool.main(['--out', str(tmp_path / 'other'), '--things', 'red dragon'])
