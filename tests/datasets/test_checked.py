"""A missing or incomplete data set is an error at start-up."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset, COCOStuffDataset
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_escnet.datasets import CheckedDatasetMixin, COCOStuff171Dataset, checked
from mmseg_escnet.errors import ESCNetError

PREFIX = dict(img_path='images', seg_map_path='labels')
PIPELINE = [dict(type='LoadImage'), dict(type='LoadLabelMap'), dict(type='PackSegInputs')]


class FourDataset(CheckedDatasetMixin, BaseSegDataset):
    METAINFO = dict(classes=('a', 'b', 'c', 'd'), palette=[[i, i, i] for i in range(4)])
    prepare_hint = 'run `make four`'


@pytest.fixture(autouse=True)
def _mmseg_scope():
    init_default_scope('mmseg')


@pytest.fixture
def root(tmp_path):
    for i in range(5):
        for folder in ('images', 'labels'):
            (tmp_path / folder / 'sub').mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (4, 3)).save(tmp_path / 'images' / 'sub' / f'{i}.jpg')
        Image.fromarray(np.full((3, 4), i % 4, np.uint8)).save(
            tmp_path / 'labels' / 'sub' / f'{i}.png'
        )
    return tmp_path


def build(root, **kwargs):
    return FourDataset(**dict(dict(data_root=str(root), data_prefix=PREFIX), **kwargs))


@pytest.mark.parametrize('serialize_data', [True, False])
@pytest.mark.parametrize('test_mode', [True, False])
def test_complete_data_set(root, serialize_data, test_mode):
    dataset = build(root, serialize_data=serialize_data, test_mode=test_mode, pipeline=PIPELINE)
    assert len(dataset) == 5
    assert dataset.get_data_info(2)['num_classes'] == 4
    assert dataset.get_data_info(2)['ignore_index'] == 255
    assert (dataset[2]['data_samples'].gt_sem_seg.data == 2).all()


def test_indices_and_lazy_init(root):
    assert len(build(root, indices=2)) == 2
    assert len(build(root, indices=[4, 0])) == 2
    dataset = build(root / 'nowhere', lazy_init=True)  # no file is touched
    assert dataset.metainfo['classes'] == FourDataset.METAINFO['classes']
    with pytest.raises(ESCNetError, match='does not exist'):
        dataset.full_init()


def test_ann_file(root):
    (root / 'val.txt').write_text('sub/1\nsub/3\n')
    dataset = build(root, ann_file='val.txt')
    assert [info['img_path'][-5:] for info in dataset] == ['1.jpg', '3.jpg']
    with pytest.raises(ESCNetError, match=r'none\.txt \(ann_file\) does not exist: run `make'):
        build(root, ann_file='none.txt')
    (root / 'val.txt').write_text('')
    with pytest.raises(ESCNetError, match='is empty: run `make four`'):
        build(root, ann_file='val.txt')
    (root / 'val.txt').write_text('sub/1\nsub/8\nsub/9\n')
    with pytest.raises(ESCNetError, match=r'2 of 3 images listed .*sub/8\.jpg, sub/9\.jpg'):
        build(root, ann_file='val.txt')


@pytest.mark.parametrize(('folder', 'kind'), [('images', 'image'), ('labels', 'label')])
def test_missing_and_empty_folders(root, folder, kind):
    (root / folder).rename(root / 'elsewhere')
    with pytest.raises(ESCNetError, match=rf'{kind} directory .*/{folder} does not .* `make four`'):
        build(root)
    (root / folder).mkdir()
    with pytest.raises(ESCNetError, match=rf'/{folder} contains no file \*\.\w+: run `make four`'):
        build(root)


def test_images_without_label_are_an_error(root):
    (root / 'labels' / 'sub' / '1.png').unlink()
    (root / 'labels' / 'sub' / '3.png').unlink()
    with pytest.raises(ESCNetError, match=r'2 of 5 images .*sub/1\.png, sub/3\.png\): run'):
        build(root)
    assert len(build(root, data_prefix=dict(img_path='images'), test_mode=True)) == 5


def test_labels_without_image_are_a_warning(root, monkeypatch):
    logged = []
    monkeypatch.setattr(checked, 'print_log', lambda text, **_: logged.append(text))
    (root / 'images' / 'sub' / '0.jpg').unlink()
    assert len(build(root)) == 4
    assert '1 of 5 label maps' in logged[0]
    assert '(sub/0.png)' in logged[0]


def test_selected_classes_keep_their_colours(root):
    dataset = build(root, metainfo=dict(classes=('d', 'a')), pipeline=PIPELINE)
    assert dataset.metainfo['palette'] == [[3, 3, 3], [0, 0, 0]]
    assert dataset.label_map == {0: 1, 1: 255, 2: 255, 3: 0}
    assert dataset.get_data_info(0)['num_classes'] == 2
    labels = [int(dataset[i]['data_samples'].gt_sem_seg.data[0, 0, 0]) for i in range(5)]
    assert labels == [1, 255, 255, 0, 1]
    reordered = build(root, metainfo=dict(classes=('d', 'c', 'b', 'a')))
    assert reordered.metainfo['palette'][0] == [3, 3, 3]
    with pytest.raises(ESCNetError, match="no labels for 'taxi'"):
        build(root, metainfo=dict(classes=('a', 'taxi')))


def test_classes_left_out_of_a_wide_set_get_its_own_ignore_index(root):
    dataset = build(root, metainfo=dict(classes=('a', 'c')), ignore_index=65535, pipeline=PIPELINE)
    assert dataset.label_map == {0: 0, 1: 65535, 2: 1, 3: 65535}
    assert dataset.metainfo['palette'] == [[0, 0, 0], [2, 2, 2]]
    assert (dataset[1]['data_samples'].gt_sem_seg.data == 65535).all()


def test_ignore_index_that_is_a_class(root):
    with pytest.raises(ESCNetError, match="ignore_index=2, which is the id of its class 'c'"):
        build(root, ignore_index=2)
    with pytest.raises(ESCNetError, match="id of its class 'd'"):
        build(root, ignore_index=4, reduce_zero_label=True)


def test_coco_stuff_has_mmsegs_names_and_colours(tmp_path):
    assert DATASETS.get('COCOStuff171Dataset') is COCOStuff171Dataset
    assert COCOStuff171Dataset.METAINFO['classes'] == COCOStuffDataset.METAINFO['classes']
    assert COCOStuff171Dataset.METAINFO['palette'] == COCOStuffDataset.METAINFO['palette']
    with pytest.raises(ESCNetError, match=r'does not exist: run `mmseg-escnet convert coco_stuff'):
        COCOStuff171Dataset(data_root=str(tmp_path), data_prefix=PREFIX)


def test_a_file_removed_during_training_is_an_error(root):
    dataset = build(root, pipeline=PIPELINE)
    assert all(dataset[i] for i in range(5))
    (root / 'images/sub/3.jpg').unlink()
    with pytest.raises(ESCNetError, match=r'sub/3\.jpg cannot be read'):
        dataset[3]
