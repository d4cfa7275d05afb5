"""Inspection of data sets: counts and problems."""

import os
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image
from small_datasets import CLASSES, dataset_cfg, write_pair

from mmseg_escnet.colors import BACKGROUND
from mmseg_escnet.datasets import CheckedDatasetMixin, LoadLabelMap, PascalVOC20Dataset
from mmseg_escnet.datasets.inspection import (
    IGNORED,
    OUTSIDE,
    LabelIds,
    build_dataset,
    inspect_dataset,
)
from mmseg_escnet.datasets.inspection_problems import find_problems
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.vocabulary import palette_of

WIDE = tuple(f'thing {i}' for i in range(300))


@pytest.fixture(autouse=True)
def _mmseg_scope():
    init_default_scope('mmseg')


def inspect(cfg, **kwargs):
    return inspect_dataset(build_dataset(cfg), cfg['pipeline'], **kwargs)


def problems_of(cfg, **kwargs):
    return find_problems(inspect(cfg), **kwargs)


def only(problems, certain=True):
    """The only problem, with its files without folders."""
    (problem,) = problems
    assert problem.certain == certain
    return problem.sentence, [file.replace(f'{Path(file).parent}/', '') for file in problem.files]


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('ignore_index', [255, 2, 65535])
def test_ids_mean_the_same_in_training(tmp_path, reduce_zero_label, ignore_index):
    label_map = {0: 2, 1: ignore_index, 2: 0, 3: 1}
    meaning = dict(
        ignore_index=ignore_index, reduce_zero_label=reduce_zero_label, label_map=label_map
    )
    table = LabelIds(CLASSES[:3], **meaning).table
    for file_id in [*range(8), 254, 255, 256, 65534, 65535]:
        path = tmp_path / 'a.png'
        Image.fromarray(np.full((2, 2), file_id, np.uint16)).save(path)
        info = dict(seg_map_path=str(path), num_classes=3, **meaning)
        try:
            loaded = int(LoadLabelMap().transform(info)['gt_seg_map'][0, 0])
        except ESCNetError:
            expected = OUTSIDE
        else:
            expected = IGNORED if loaded == ignore_index else loaded
        assert table[file_id] == expected, file_id
    assert {OUTSIDE, IGNORED, 1} <= set(table)


def test_wide_ids(tmp_path):
    """255 is a class of a wide set, and 65535 is not."""
    ids = np.array([[0, 255, 255, 256], [299, 65535, 65535, 65535]], np.uint16)
    write_pair(tmp_path, 'a', ids)
    inspection = inspect(dataset_cfg(tmp_path, WIDE, ignore_index=65535))
    assert find_problems(inspection) == []
    expected = np.zeros(300, int)
    expected[[0, 255, 256, 299]] = 1, 2, 1, 1
    np.testing.assert_array_equal(inspection.class_pixels, expected)
    assert inspection.ignored_pixels == 3


def test_palette_label_maps_and_grey_images(tmp_path):
    write_pair(tmp_path, 'a', np.zeros((20, 30)))
    image = Image.fromarray(np.full((20, 30), 3, np.uint8), 'P')
    image.putpalette(bytes(range(256)) * 3)
    image.save(tmp_path / 'labels' / 'a.png')
    Image.new('L', (30, 20)).save(tmp_path / 'images' / 'a.jpg')
    inspection = inspect(dataset_cfg(tmp_path))
    assert inspection.class_pixels.tolist() == [0, 0, 0, 600]
    assert find_problems(inspection) == []


def test_processes_and_limit(tmp_path):
    for number in range(40):
        write_pair(tmp_path, f'{number:02d}', np.full((4, 4), number % 5))  # 4 is outside
    one, two = (inspect(dataset_cfg(tmp_path), workers=workers) for workers in (1, 2))
    np.testing.assert_array_equal(one.class_pixels, two.class_pixels)
    assert one.files == two.files == [reading[:2] for reading in two.matching]
    assert find_problems(one) == find_problems(two)
    few = inspect(dataset_cfg(tmp_path), limit=4)
    assert [Path(label).stem for _, label in few.files] == ['00', '13', '26', '39']
    assert few.total == 40
    assert few.class_pixels.sum() + few.id_pixels[4] == 4 * 16
    assert len(inspect(dataset_cfg(tmp_path), limit=99).files) == 40


@pytest.mark.parametrize(
    ('classes', 'phrases', 'shared'),
    [
        (('door, open', 'cat', 'door, closed'), None, 'door'),
        (('Car | van', 'cat', 'car'), None, 'car'),
        (('tree', 'cat', 'shrub'), dict(tree=['a plant'], shrub=['A  plant', 'a bush']), 'a plant'),
        (('door, open', 'door, closed'), {n: [n] for n in ('door, open', 'door, closed')}, None),
        (('wall', 'wall paint', 'paint | wall'), None, None),
    ],
)
def test_classes_of_one_first_word(tmp_path, classes, phrases, shared):
    write_pair(tmp_path, 'a', np.zeros((4, 4)))
    cfg = dataset_cfg(tmp_path, classes)
    cfg['metainfo']['phrases'] = phrases
    problems = problems_of(cfg)
    if shared is None:
        assert problems == []
        return
    sentence, _ = only(problems, certain=False)
    assert f'Classes 0 and 2, {classes[0]!r} and {classes[2]!r}, have' in sentence
    assert f'first word, {shared!r}' in sentence


# --- what is wrong ------------------------------------------------------------------------------


def test_id_that_is_not_a_class(tmp_path):
    for number in range(6):
        write_pair(tmp_path, str(number), np.full((4, 4), [0, 7, 3, 9, 1, 2][number]))
    sentence, files = only(problems_of(dataset_cfg(tmp_path)))
    assert '2 of 6 label maps contain ids that are not classes (7, 9)' in sentence
    assert 'the classes are 0 to 3 and 255 is ignored: check reduce_zero_label' in sentence
    assert files == ['1.png (7)', '3.png (9)']


def test_ids_from_one_without_reduce_zero_label(tmp_path):
    for number in range(1, 5):
        write_pair(tmp_path, str(number), [[number, 0]])
    sentence, files = only(problems_of(dataset_cfg(tmp_path)))
    assert '4 is one more than the last class' in sentence
    assert 'set reduce_zero_label=True' in sentence
    assert files == ['4.png (4)']
    assert problems_of(dataset_cfg(tmp_path, reduce_zero_label=True)) == []
    write_pair(tmp_path, '5', [[5, 0]])  # ids that count from one have no such id
    assert 'one more' not in only(problems_of(dataset_cfg(tmp_path)))[0]


@pytest.mark.parametrize(
    ('ids', 'sign'),
    [
        ([1, 2, 3], '0 never occurs and 4 does not'),
        ([0, 1, 2, 3, 255], 'both 0 and 255 occur and 4 does not'),
    ],
)
def test_ids_from_zero_with_reduce_zero_label(tmp_path, ids, sign):
    for number, value in enumerate(ids):
        write_pair(tmp_path, str(number), np.full((4, 4), value))
    problem = find_problems(inspect(dataset_cfg(tmp_path, reduce_zero_label=True)))[0]
    assert problem.certain
    assert sign in problem.sentence
    assert problem.sentence.endswith('set reduce_zero_label=False.')
    assert all(not problem.certain for problem in problems_of(dataset_cfg(tmp_path)))


def test_right_use_of_reduce_zero_label(tmp_path):
    for number, ids in enumerate(
        (
            [0, 1, 2, 3],  # 0 is unlabelled, the last class happens not to occur
            [1, 2, 3, 4],  # every pixel is labelled
            [0, 1, 4, 255],  # PASCAL VOC without its background
        )
    ):
        write_pair(tmp_path / str(number), 'a', np.array([ids]))
        assert problems_of(dataset_cfg(tmp_path / str(number), reduce_zero_label=True)) == []


def test_few_images_are_no_evidence_against_reduce_zero_label(tmp_path):
    write_pair(tmp_path, 'a', [[2, 2, 2, 2]])
    problem = only(problems_of(dataset_cfg(tmp_path, reduce_zero_label=True)), certain=False)
    assert '0 never occurs' in problem[0]


def test_255_as_a_class_of_a_narrow_set(tmp_path):
    write_pair(tmp_path, 'a', [[0, 1, 2, 255]])
    sentence, files = only(problems_of(dataset_cfg(tmp_path, ignore_index=65535)))
    assert 'treated as a class here, so set ignore_index=255' in sentence
    assert files == ['a.png (255)']
    cfg = dataset_cfg(tmp_path, ignore_index=255)
    assert problems_of(cfg) == []
    cfg['pipeline'][1].update(ignore_index=65535)  # the transform has the last word
    assert 'set ignore_index=255' in only(problems_of(cfg))[0]


def test_ignore_index_is_a_class(tmp_path):
    write_pair(tmp_path, 'a', np.array([[0, 255, 299]], np.uint16))
    sentence, _ = only(problems_of(dataset_cfg(tmp_path, WIDE)))
    assert 'ignore_index=255 is the id of a class' in sentence


def test_wide_classes_in_narrow_files(tmp_path):
    write_pair(tmp_path, 'a', [[0, 44, 254]])
    sentence, _ = only(problems_of(dataset_cfg(tmp_path, WIDE, ignore_index=65535)))
    assert 'All label maps have 8 bits' in sentence
    write_pair(tmp_path, 'b', np.array([[0, 299]], np.uint16))
    assert problems_of(dataset_cfg(tmp_path, WIDE, ignore_index=65535)) == []


def test_loader_that_casts_to_bytes(tmp_path):
    write_pair(tmp_path, 'a', np.array([[0, 299]], np.uint16))
    cfg = dataset_cfg(tmp_path, WIDE, ignore_index=65535)
    cfg['pipeline'] = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    assert '65535 becomes 255: use LoadLabelMap' in only(problems_of(cfg))[0]
    write_pair(tmp_path / 'narrow', 'a', [[0, 3]])
    assert problems_of(dict(dataset_cfg(tmp_path / 'narrow'), pipeline=cfg['pipeline'])) == []


def test_sizes_that_disagree(tmp_path):
    write_pair(tmp_path, '0', np.zeros((30, 20)))
    write_pair(tmp_path, '1', np.zeros((30, 20)), size=(30, 20))
    write_pair(tmp_path, '2', np.zeros((30, 20)), size=(10, 10))
    sentence, files = only(problems_of(dataset_cfg(tmp_path)))
    assert '2 of 3 label maps differ in size from their images (1 with height' in sentence
    assert files == ['1.png (20x30, image 30x20)', '2.png (20x30, image 10x10)']
    # an image that its EXIF tag turns is as large as it is in training
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (30, 20)).save(tmp_path / 'images' / '1.jpg', exif=exif)
    assert '1 of 3' in only(problems_of(dataset_cfg(tmp_path)))[0]


def test_unreadable_files_are_reported(tmp_path):
    for number in range(5):
        write_pair(tmp_path, str(number), np.full((30, 20), number % 4))
    (tmp_path / 'labels' / '0.png').write_bytes(b'')
    image = tmp_path / 'images' / '1.jpg'
    image.write_bytes(image.read_bytes()[:-20])
    (tmp_path / 'labels' / '2.png').unlink()
    Image.new('RGB', (20, 30)).save(tmp_path / 'labels' / '3.png')
    inspection = inspect(dataset_cfg(tmp_path))
    assert inspection.class_pixels.tolist() == [600, 0, 0, 0]
    (problem,) = find_problems(inspection)
    assert problem.certain
    assert problem.sentence == '4 of 5 images cannot be read with their label maps:'
    wanted = ('0.png cannot be decoded', '1.jpg cannot', '2.png cannot be read', '3.png has 3')
    assert len(problem.files) == 4
    for text, file in zip(wanted, problem.files, strict=True):
        assert text in file


def test_everything_is_ignored(tmp_path):
    write_pair(tmp_path, 'a', np.full((4, 4), 255))
    sentence, _ = only(problems_of(dataset_cfg(tmp_path)))
    assert 'Every pixel is ignored (the label maps contain only 255)' in sentence
    write_pair(tmp_path, 'b', np.full((4, 4), 1))
    sentence, files = only(problems_of(dataset_cfg(tmp_path)), certain=False)
    assert 'In 1 of 2 label maps every pixel is ignored' in sentence
    assert files == ['a.png']


def test_number_of_images(tmp_path):
    write_pair(tmp_path / 'val2017', 'a', [[0]])
    cfg = dataset_cfg(tmp_path / 'val2017', seg_map_suffix='.png')
    cfg.update(type='COCOStuff171Dataset', metainfo=None)
    assert problems_of(cfg) == []  # the folder is called like no split
    os.rename(tmp_path / 'val2017' / 'images', tmp_path / 'val2017' / 'val2017')
    cfg['data_prefix']['img_path'] = 'val2017/'
    sentence, _ = only(problems_of(cfg))
    assert 'The number of images is 1, but 5000 were published: run `mmseg-escnet conv' in sentence
    assert problems_of(cfg, allow_partial=True) == []
    assert problems_of(dict(cfg, indices=1)) == []  # a part on purpose


def test_data_set_with_official_counts_of_its_own(tmp_path):
    class CountedDataset(CheckedDatasetMixin, BaseSegDataset):
        METAINFO = dict(classes=CLASSES)
        prepare_hint = 'run `make it`'
        official_counts = {'mine': 2}

    DATASETS.register_module(module=CountedDataset)
    try:
        write_pair(tmp_path, 'a', [[0]])
        (tmp_path / 'mine.txt').write_text('a\n')
        cfg = dataset_cfg(tmp_path, ann_file='mine.txt')
        cfg['type'] = 'CountedDataset'
        assert 'is 1, but 2 were published: run `make it`' in only(problems_of(cfg))[0]
        write_pair(tmp_path, 'b', [[0]])
        (tmp_path / 'mine.txt').write_text('a\nb\n')
        assert problems_of(cfg) == []
    finally:
        DATASETS.module_dict.pop('CountedDataset')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(data_prefix=dict(img_path='none', seg_map_path='labels')), 'none'),
        (dict(ann_file='none.txt'), r'none\.txt'),
        (dict(type='NoDataset'), 'NoDataset is not in'),
        (dict(metainfo=None), 'has no class names'),
        (dict(img_suffix='.bmp'), 'has no images in'),
        (dict(data_prefix=dict(img_path='images')), 'has no label maps'),
    ],
)
def test_data_sets_that_cannot_be_inspected(tmp_path, change, message):
    write_pair(tmp_path, 'a', [[0]])
    with pytest.raises(ESCNetError, match=message):
        inspect({**dataset_cfg(tmp_path), **change})


def test_colours_are_those_of_the_data_set(tmp_path):
    """Published ones, also of a part of its classes; ours where it defines none."""
    write_pair(tmp_path, 'a', np.zeros((4, 4)))
    published = PascalVOC20Dataset.METAINFO
    suffix = dict(img_suffix='.jpg', seg_map_suffix='.png', type='PascalVOC20Dataset')
    for names in (published['classes'], published['classes'][:3], published['classes'][4:2:-1]):
        palette = inspect(dataset_cfg(tmp_path, names) | suffix).palette
        color = dict(zip(published['classes'], published['palette'], strict=True))
        assert list(palette) == [color[name] for name in names]
    assert inspect(dataset_cfg(tmp_path)).palette == palette_of(CLASSES)
    merged = inspect(dataset_cfg(tmp_path, published['classes']) | suffix, background_from=2)
    assert list(map(tuple, merged.palette)) == [*map(tuple, published['palette'][:2]), BACKGROUND]
    assert len(merged.palette) == len(merged.labels.names)
