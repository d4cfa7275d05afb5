"""Writing the toy world."""

import hashlib

import numpy as np
import pytest
from conftest import load_tool
from mmengine.registry import init_default_scope

from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.toyworld.dataset import ToyWorldDataset
from mmseg_escnet.toyworld.drawing import VAL_OFFSET
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import (
    ALL_NAMES,
    SEEN_NAMES,
    UNSEEN_ATTRIBUTE_NAMES,
    UNSEEN_NAMES,
    vocabulary_of,
)


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/toyworld/make_scenes.py')


def make(tool, out, *options):
    sizes = ['--train', '24', '--val', '6', '--size', '48']
    return tool.main(['--out', str(out), *sizes, *(options or ('--workers', '1'))])


def digests(out):
    return {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(out.rglob('*.png'))
    }


def test_same_bytes_whatever_the_number_of_processes(tool, tmp_path):
    make(tool, tmp_path / 'one')
    make(tool, tmp_path / 'two', '--workers', '2')
    assert len(digests(tmp_path / 'one')) == 2 * 30
    assert digests(tmp_path / 'one') == digests(tmp_path / 'two')


def test_another_seed_draws_another_world(tool, tmp_path):
    make(tool, tmp_path / 'zero')
    make(tool, tmp_path / 'one', '--workers', '1', '--seed', '1')
    assert not {*digests(tmp_path / 'zero').values()} & {*digests(tmp_path / 'one').values()}


def test_resumes(tool, tmp_path, capsys):
    make(tool, tmp_path)
    before = digests(tmp_path)
    (tmp_path / 'images' / 'train' / '000003.png').unlink()
    half = tmp_path / 'annotations' / 'val' / '000001.png'
    half.write_bytes(b'')
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


def load(split, vocabulary, root):
    init_default_scope('mmseg')
    return ToyWorldDataset(
        vocabulary=vocabulary,
        data_root=str(root),
        data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
        pipeline=[dict(type='LoadImage'), dict(type='LoadLabelMap')],
        test_mode=split == 'val',
    )


def classes_drawn_and_written(dataset, offset):
    """(name in the scene, id in the file) of all pixels; checks the images on the way."""
    pairs = set()
    for number, data in enumerate(dataset):
        image, truth = scene(0, number + offset, 48)
        np.testing.assert_array_equal(data['img'], image[..., ::-1])
        ids = np.stack([truth.ravel(), data['gt_seg_map'].ravel()])
        pairs |= {(ALL_NAMES[true_id], int(file_id)) for true_id, file_id in ids.T}
    return pairs


def test_training_labels_hide_every_class_without_masks(tool, tmp_path):
    make(tool, tmp_path)
    dataset = load('train', 'seen', tmp_path)
    assert len(dataset) == 24
    pairs = classes_drawn_and_written(dataset, 0)
    hidden = {name for name, file_id in pairs if file_id == 255}
    assert hidden == {name for name, _ in pairs} & {*UNSEEN_NAMES, *UNSEEN_ATTRIBUTE_NAMES}
    assert len(hidden & set(UNSEEN_NAMES)) > 3
    assert len(hidden & set(UNSEEN_ATTRIBUTE_NAMES)) > 3
    assert {'wood', 'tiles'} <= hidden
    assert all(SEEN_NAMES[file_id] == name for name, file_id in pairs if file_id != 255)


@pytest.mark.parametrize('vocabulary', ['all', 'large'])
def test_validation_labels_hold_every_class(tool, tmp_path, vocabulary):
    make(tool, tmp_path)
    dataset = load('val', vocabulary, tmp_path)
    assert len(dataset) == 6
    names = [name.split(' | ')[0] for name in vocabulary_of(vocabulary)]
    pairs = classes_drawn_and_written(dataset, VAL_OFFSET)
    assert all(names[file_id] == name for name, file_id in pairs)
    drawn = {name for name, _ in pairs}
    assert drawn & set(SEEN_NAMES)
    assert drawn & set(UNSEEN_NAMES)
    assert drawn & set(UNSEEN_ATTRIBUTE_NAMES)
