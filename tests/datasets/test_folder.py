"""FolderDataset: a folder of images, a folder of label maps, a file of names."""

import numpy as np
import pytest
from conftest import toy_model_cfg
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from PIL import Image

from mmseg_escnet import ESCNetError

LOAD = [dict(type='LoadImage'), dict(type='LoadLabelMap')]
FILES = ('a.jpg', 'b.PNG', 'deep/c.webp', 'd.e.tiff')


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')


@pytest.fixture
def mine(tmp_path):
    """Four images of different kinds; every pixel of image i has the id i."""
    for folder in ('images', 'labels'):
        (tmp_path / folder / 'deep').mkdir(parents=True)
    for number, file in enumerate(FILES):
        path = tmp_path / 'images' / file
        Image.new('RGB', (12, 8), (10 * number, 0, 0)).save(
            path, path.suffix[1:].replace('jpg', 'jpeg')
        )
        labels = tmp_path / 'labels' / file
        Image.fromarray(np.full((8, 12), number, np.uint8)).save(labels.with_suffix('.png'))
    (tmp_path / 'names.txt').write_text(
        'cat | kitten\nboat: a small boat, in a harbour\nwater\nsky\n'
    )
    (tmp_path / 'images/notes.txt').write_text('no image')
    return tmp_path


def build(folder, **changes):
    prefix = dict(img_path='images', seg_map_path='labels')
    cfg = dict(
        type='FolderDataset',
        data_root=str(folder),
        data_prefix=prefix,
        names='names.txt',
        pipeline=LOAD,
    )
    return DATASETS.build(cfg | changes)


def test_images_and_their_label_maps(mine):
    dataset = build(mine)
    assert len(dataset) == len(FILES)
    for item in dataset:
        number = [str(mine / 'images' / file) for file in FILES].index(item['img_path'])
        assert np.unique(item['gt_seg_map']).tolist() == [number]
        assert abs(item['img'][..., 2].astype(int) - 10 * number).max() <= 2  # BGR


def test_images_are_in_the_order_of_their_names(mine):
    """In every process: seeds and samplers draw numbers."""
    for name in 'tfoxkqzgnuwj':
        for folder, suffix in (('images', '.jpg'), ('labels', '.png')):
            Image.new('L', (12, 8)).save(mine / folder / f'{name}{suffix}')
    paths = [info['img_path'] for info in map(build(mine).get_data_info, range(16))]
    assert paths == sorted(paths)


def test_names_with_phrases(mine):
    dataset = build(mine)
    vocabulary = dataset.vocabulary
    assert vocabulary.synonyms == (
        ('cat', 'kitten'),
        ('a small boat, in a harbour',),
        ('water',),
        ('sky',),
    )
    assert dataset.metainfo['classes'] == ('cat | kitten', 'boat', 'water', 'sky')
    assert len(dataset.metainfo['palette']) == 4


def test_the_model_gets_the_phrases(mine):
    model = MODELS.build(toy_model_cfg())
    meta = build(mine, metainfo=dict(classes=('sky', 'boat'))).metainfo
    model.dataset_meta = meta
    assert model.vocabulary.names == ('sky', 'boat')
    assert model.vocabulary.synonyms == (('sky',), ('a small boat, in a harbour',))


def test_subset_of_the_names(mine):
    dataset = build(mine, metainfo=dict(classes=('sky', 'water')))
    values = {np.unique(item['gt_seg_map']).item() for item in dataset}
    assert values == {0, 1, 255}
    last = next(item for item in dataset if item['img_path'].endswith('d.e.tiff'))
    assert np.unique(last['gt_seg_map']).tolist() == [0]


def test_a_list_of_images(mine):
    (mine / 'val.txt').write_text('deep/c\n\na\n')
    dataset = build(mine, ann_file='val.txt')
    assert [item['img_path'].rsplit('images/')[-1] for item in dataset] == ['deep/c.webp', 'a.jpg']


def test_images_without_labels(mine):
    dataset = build(mine, data_prefix=dict(img_path='images'), pipeline=LOAD[:1], test_mode=True)
    assert len(dataset) == len(FILES)
    assert 'seg_map_path' not in dataset.get_data_info(0)


def test_two_images_with_the_same_label_map(mine):
    Image.new('RGB', (12, 8)).save(mine / 'images/a.png')
    with pytest.raises(ESCNetError, match=r'a\.jpg and a\.png .* share the label map a\.png'):
        build(mine)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda mine: (mine / 'labels/a.png').unlink(), r'a\.png'),
        (lambda mine: (mine / 'names.txt').unlink(), r'names\.txt'),
        (lambda mine: (mine / 'images').rename(mine / 'others'), 'images'),
        (lambda mine: (mine / 'names.txt').write_text('cat\nboat\n'), r'\b[23]\b'),
        (lambda mine: Image.new('RGB', (12, 8)).save(mine / 'labels/a.png'), r'a\.png'),
        (lambda mine: Image.new('L', (8, 12)).save(mine / 'labels/a.png'), r'a\.png|a\.jpg'),
        (lambda mine: (mine / 'list.txt').write_text('a\nzebra\n'), 'zebra'),
    ],
    ids=['label', 'names', 'images', 'few names', 'colours', 'size', 'unknown image'],
)
def test_errors_name_the_file(mine, damage, message):
    damage(mine)
    changes = dict(ann_file='list.txt') if (mine / 'list.txt').exists() else {}
    with pytest.raises(ESCNetError, match=message):
        list(build(mine, **changes))


@pytest.mark.parametrize('suffix', ['.Jpg', '.jfif', '.GIF', '.avif', '.Jp2', '.TiFF', '.pgm'])
def test_suffixes_of_images(tmp_path, suffix):
    if Image.registered_extensions().get(suffix.lower()) not in Image.OPEN:
        pytest.skip('this Pillow lacks the format')
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    Image.new('L', (12, 8), 90).save(tmp_path / f'images/a{suffix}')
    Image.new('L', (12, 8), 1).save(tmp_path / 'labels/a.png')
    dataset = build(tmp_path, names=['cat', 'dog'])
    assert [item['img'].shape for item in dataset] == [(8, 12, 3)]
    assert abs(dataset[0]['img'].astype(int) - 90).max() <= 2
    with pytest.raises(ESCNetError, match=r'contains no file \*\.png:'):
        build(tmp_path, names=['cat', 'dog'], img_suffix='.PNG')
