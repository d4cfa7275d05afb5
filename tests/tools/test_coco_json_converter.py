"""COCO's JSON to label maps, against masks painted by Pillow, and what is refused."""

import json

import numpy as np
import pytest
from conftest import load_tool
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from mmseg_escnet.errors import ESCNetError

SIZE = (60, 80)
SQUARE = [10, 10, 50, 10, 50, 50, 10, 50]
CORNER = [0, 0, 30, 0, 30, 30, 0, 30]


@pytest.fixture(scope='module')
def main():
    return load_tool('tools/dataset_converters/coco_json.py').main


@pytest.fixture
def images(tmp_path):
    (tmp_path / 'raw/deep').mkdir(parents=True)
    for name in ('a.jpg', 'deep/b.jpg'):
        Image.new('RGB', SIZE[::-1]).save(tmp_path / 'raw' / name)
    return tmp_path / 'raw'


def content(**changes) -> dict:
    run_length = np.zeros(SIZE, np.uint8, order='F')
    run_length[40:, 60:] = 1
    counts = coco_mask.encode(run_length)
    counts['counts'] = counts['counts'].decode()
    sizes = dict(height=SIZE[0], width=SIZE[1])
    return (
        dict(
            images=[
                dict(id=7, file_name='a.jpg', **sizes),
                dict(id=3, file_name='deep/b.jpg', **sizes),
            ],
            # ids with holes, in another order than the names
            categories=[dict(id=90, name='cat'), dict(id=5, name='dog')],
            annotations=[
                # the smaller one is on top, wherever it stands and without an area
                dict(id=1, image_id=7, category_id=90, segmentation=[CORNER], iscrowd=0),
                dict(id=2, image_id=7, category_id=5, segmentation=[SQUARE], iscrowd=0),
                dict(id=3, image_id=7, category_id=5, segmentation=counts, iscrowd=1, area=400),
            ],
        )
        | changes
    )


def convert(main, images, out, data, *options):
    path = images.parent / 'annotations.json'
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    arguments = [str(path), '--images', str(images), '--out', str(out), '--workers', '0']
    return main([*arguments, *options])


def painted(polygon) -> np.ndarray:
    """Pillow's own filling; the outlines of the two differ by a pixel."""
    mask = Image.new('1', SIZE[::-1])
    ImageDraw.Draw(mask).polygon(polygon, fill=1)
    return np.array(mask)


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize('background', [None, 'ground'])
def test_label_maps(main, images, tmp_path, background):
    options = [] if background is None else ['--background', background]
    assert convert(main, images, tmp_path / 'out', content(), *options) == 0
    labels = read(tmp_path / 'out/labels/train/a.png')
    nothing = 255 if background is None else 2
    expected = np.full(SIZE, nothing)
    expected[painted(SQUARE)] = 0
    expected[40:, 60:] = 0
    expected[painted(CORNER)] = 1
    assert np.mean(labels == expected) > 0.96
    assert labels[20, 20] == 1, 'the larger annotation covers the smaller one'
    assert labels[45, 45] == 0
    assert labels[59, 79] == 0, 'run lengths'
    assert labels[59, 0] == nothing
    assert (read(tmp_path / 'out/labels/train/deep/b.png') == nothing).all()
    names = ['dog', 'cat', *options[1:]]
    assert (tmp_path / 'out/names.txt').read_text().splitlines() == names
    init_default_scope('mmseg')
    dataset = DATASETS.build(
        dict(
            type='FolderDataset',
            names='names.txt',
            data_root=str(tmp_path / 'out'),
            data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
            pipeline=[dict(type='LoadImage'), dict(type='LoadLabelMap')],
        )
    )
    assert dataset.metainfo['classes'] == tuple(names)
    assert sorted(np.unique(dataset[0]['gt_seg_map'])) == [0, 1, nothing]


def test_again_keeps_what_is_there(main, images, tmp_path, capsys):
    convert(main, images, tmp_path / 'out', content())
    (tmp_path / 'out/labels/train/a.png').write_bytes(b'half')
    assert convert(main, images, tmp_path / 'out', content()) == 0
    assert '0 label maps converted, 1 unchanged, 1 updated' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ('{', 'is not valid JSON'),
        ('[]', 'is not in the format'),
        (dict(categories=[]), 'is not in the format'),
        (dict(images=[dict(id=7)]), 'is not in the format'),
        (dict(images=[dict(id=7, file_name='../a.jpg')]), 'lies outside of'),
        (dict(images=[dict(id=7, file_name='/etc/a.jpg')]), 'lies outside of'),
        (dict(images=[dict(id=7, file_name='c.jpg')]), 'does not exist'),
        (dict(images=[dict(id=3, file_name='a.jpg')]), 'annotations of the image 7'),
        (dict(categories=[dict(id=5, name='dog')]), 'category 90'),
        (dict(categories=[dict(id=5, name='dog'), dict(id=90, name='Dog')]), 'twice'),
        (dict(categories=[dict(id=5), dict(id=90, name='dog')]), 'must be a string'),
    ],
)
def test_what_is_refused(main, images, tmp_path, changes, message):
    data = changes if isinstance(changes, str) else content(**changes)
    with pytest.raises(ESCNetError, match=message):
        convert(main, images, tmp_path / 'out', data)
    assert not (tmp_path / 'out').exists(), 'refused before anything is written'


def test_a_segmentation_of_another_size(main, images, tmp_path, capsys):
    data = content()
    data['annotations'][2]['segmentation']['size'] = [80, 60]
    assert convert(main, images, tmp_path / 'out', data) == 1
    assert 'cannot be drawn (it is of [60, 80] pixels)' in capsys.readouterr().err


def test_other_names(main, images, tmp_path):
    convert(main, images, tmp_path / 'out', content())
    with pytest.raises(ESCNetError, match='exists with other names'):
        convert(main, images, tmp_path / 'out', content(), '--background', 'ground')
