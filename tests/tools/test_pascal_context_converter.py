"""The PASCAL-Context converter on a made VOC2010 folder."""

import re

import numpy as np
import pytest
import scipy.io
from conftest import ROOT, load_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_escnet.datasets import load_benchmark, vocabulary_names
from mmseg_escnet.errors import ESCNetError

SCRIPT = 'tools/dataset_converters/pascal_context.py'
PIPELINE = [dict(type='LoadImage'), dict(type='LoadLabelMap')]
RAW_ID = {entry.name: entry.raw_id for entry in load_benchmark('pc459')}
# The 59 of the 459, as other code that converts PASCAL-Context lists them.
PUBLISHED_59 = [
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
]  # fmt: skip


@pytest.fixture(scope='module')
def converter():
    return load_tool(SCRIPT)


def write_sample(raw, stem, ids, **options):
    ids = np.asarray(ids)
    for folder in ('trainval', 'JPEGImages'):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(
        raw / 'trainval' / f'{stem}.mat', dict(LabelMap=ids), do_compression=True, **options
    )
    Image.new('RGB', ids.shape[::-1]).save(raw / 'JPEGImages' / f'{stem}.jpg')


def write_list(raw, split, stems):
    path = raw / 'ImageSets' / 'Main' / f'{split}.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{stem}\n' for stem in stems))


FIRST = np.array([[0, 1, 2, 255], [256, 397, 459, 458]], np.uint16)


@pytest.fixture
def raw(tmp_path, converter, monkeypatch):
    monkeypatch.setattr(converter, 'NUM_IMAGES', {'train': 1, 'val': 2})
    raw = tmp_path / 'VOCdevkit' / 'VOC2010'
    write_sample(raw, '2008_000001', FIRST)
    write_sample(raw, '2008_000002', np.full((30, 20), RAW_ID['table'], float))
    write_sample(raw, '2009_000003', np.full((5, 6), 2))
    write_list(raw, 'val', ['2008_000001', '2008_000002'])
    write_list(raw, 'train', ['2009_000003'])
    return raw


def run(converter, raw, *options):
    out = raw.parents[1] / 'out'
    return converter.main([str(raw), '--out', str(out), '--workers', '1', *options]), out


def build(out, name='pascal-context-459', split='val'):
    """The data set of a config, in OUT."""
    init_default_scope('mmseg')
    path = ROOT / f'configs/_base_/datasets/{name}.py'
    dataset = Config.fromfile(path).test_dataloader.dataset
    dataset.ann_file = dataset.ann_file.replace('val', split)
    return DATASETS.build(dict(dataset, data_root=str(out), pipeline=PIPELINE))


def read(path):
    return np.array(Image.open(path))


def test_the_59_classes_are_the_published_ones(converter):
    table = converter.label_sets()[0].table
    assert np.flatnonzero(table).tolist() == PUBLISHED_59
    assert table[PUBLISHED_59].tolist() == list(range(1, 60))
    assert set(vocabulary_names('pc59')) - set(RAW_ID) == set(converter.RENAMED)


def test_corrected_labels(converter, raw, capsys):
    _, out = run(converter, raw)
    write_sample(raw, '2008_000001', FIRST[:, ::-1])
    capsys.readouterr()
    assert run(converter, raw)[0] == 0
    printed = capsys.readouterr().out
    for name in ('PC-59', 'PC-459'):
        assert f'{name}: 0 label maps converted, 1 unchanged, 1 updated' in printed
    label = build(out)[0]['gt_seg_map']
    np.testing.assert_array_equal(label, [[254, 1, 0, 65_535], [457, 458, 396, 255]])


def test_converts(converter, raw, capsys):
    status, out = run(converter, raw)
    assert status == 0
    wide = read(out / 'SegmentationClassContext459' / '2008_000001.png')
    assert wide.dtype == np.uint16
    np.testing.assert_array_equal(wide, [[65_535, 0, 1, 254], [255, 396, 458, 457]])
    narrow = read(out / 'SegmentationClassContext' / '2008_000001.png')
    assert narrow.dtype == np.uint8
    np.testing.assert_array_equal(narrow, [[0, 0, 1, 0], [0, 50, 0, 59]])
    printed = capsys.readouterr().out
    assert 'PC-59: 2 label maps converted, 0 unchanged, 0 updated, 0 failed' in printed
    assert 'PC-59: 0.8% of the pixels are ignored, 56 of 59 classes never occur: ' in printed
    assert 'PC-459: 0.2% of the pixels are ignored, 452 of 459 classes never occur: ' in printed

    dataset = build(out)
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], wide)
    names = np.array([*dataset.metainfo['classes'], 'none'])
    found = names[np.minimum(dataset[0]['gt_seg_map'], 459)].tolist()
    by_id = {raw_id: name for name, raw_id in RAW_ID.items()} | {0: 'none'}
    assert found == [[by_id[raw_id] for raw_id in row] for row in FIRST.tolist()]
    dataset = build(out, 'pascal-context-59')
    label = dataset[0]['gt_seg_map']
    np.testing.assert_array_equal(label, [[255, 255, 0, 255], [255, 49, 255, 58]])
    assert [dataset.metainfo['classes'][i] for i in (0, 49, 58)] == [
        'aeroplane',
        'diningtable',
        'wood',
    ]
    assert (dataset[1]['gt_seg_map'] == 49).all()
    assert run(converter, raw, '--splits', 'train', 'val')[0] == 0
    assert len(build(out, split='train')) == 1


def test_files_of_mmsegmentation_are_kept(converter, raw, capsys):
    """They hold the same ids, and its list, which lacks an image, is replaced."""
    theirs = raw / 'SegmentationClassContext' / '2008_000001.png'
    theirs.parent.mkdir()
    Image.fromarray(np.array([[0, 0, 1, 0], [0, 50, 0, 59]], np.uint8)).save(theirs, optimize=True)
    content = theirs.read_bytes()
    (raw / 'ImageSets' / 'SegmentationContext').mkdir()
    (raw / 'ImageSets' / 'SegmentationContext' / 'val.txt').write_text('2008_000001\n')
    assert converter.main([str(raw), '--out', str(raw), '--workers', '1']) == 0
    printed = capsys.readouterr().out
    assert 'PC-59: 1 label maps converted, 1 unchanged' in printed
    assert 'val.txt: replacing a list of 1 images' in printed
    assert theirs.read_bytes() == content
    assert len(build(raw, 'pascal-context-59')) == 2
    assert not (raw / 'JPEGImages' / '2008_000001.jpg').is_symlink()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (dict(LabelMap=np.full((2, 4), 460)), 'holds id 460, which no class of PC-59 has'),
        (dict(LabelMap=np.full((2, 4), 65_535)), 'holds id 65535'),
        (dict(LabelMap=np.full((2, 4), -1)), 'not a matrix of ids from 0 to 65535'),
        (dict(LabelMap=np.full((2, 4), 1.5)), 'not a matrix of ids'),
        (dict(LabelMap=np.full((2, 4), np.nan)), 'not a matrix of ids'),
        (dict(LabelMap=np.full((2, 4), 1 + 1j)), 'not a matrix of ids'),
        (dict(LabelMap=np.ones((2, 4, 2))), 'not a matrix of ids'),
        (dict(LabelMap=np.array([[dict(a=1)]], object)), 'not a matrix of ids'),
        (dict(LabelMap=dict(a=1)), 'not a matrix of ids'),
        (dict(LabelMap='text'), 'not a matrix of ids'),
        (dict(labels=np.ones((2, 4))), r'has no LabelMap \(KeyError'),
        (dict(LabelMap=np.ones((4, 2))), r'001\.mat is 2x4 pixels but its image'),
    ],
)
def test_wrong_contents_are_named_and_the_rest_goes_on(converter, raw, capsys, content, message):
    scipy.io.savemat(raw / 'trainval' / '2008_000001.mat', content)
    status, out = run(converter, raw)
    assert status == 1
    captured = capsys.readouterr()
    assert 'PC-459: 1 label maps converted, 0 unchanged, 0 updated, 1 failed' in captured.out
    assert re.search(message, captured.err)
    assert '2008_000001' in captured.err
    assert not (out / 'SegmentationClassContext459' / '2008_000001.png').exists()
    with pytest.raises(ESCNetError, match='1 of 2 images have no label map'):
        build(out)


def test_damaged_file(converter, raw, capsys):
    path = raw / 'trainval' / '2008_000001.mat'
    content = path.read_bytes()
    for damaged in (content[:-9], content[:100], b'', b'text'):
        path.write_bytes(damaged)
        assert run(converter, raw)[0] == 1
        assert '2008_000001.mat cannot be read' in capsys.readouterr().err
    path.write_bytes(content)
    assert run(converter, raw)[0] == 0


def test_missing_files_are_named_before_anything_is_written(converter, raw):
    (raw / 'trainval' / '2008_000002.mat').rename(raw / 'trainval' / 'elsewhere.mat')
    with pytest.raises(
        ESCNetError,
        match=r'trainval holds 1 of 2 label maps: unpack trainval\.tar\.gz of https.*'
        r'missing: 2008_000002\.mat.*--allow-partial',
    ):
        run(converter, raw)
    assert not (raw.parents[1] / 'out').exists()
    assert run(converter, raw, '--allow-partial')[0] == 0
    assert len(build(raw.parents[1] / 'out')) == 1
    (raw / 'trainval' / 'elsewhere.mat').rename(raw / 'trainval' / '2008_000002.mat')
    (raw / 'JPEGImages' / '2008_000001.jpg').unlink()
    with pytest.raises(
        ESCNetError, match=r'JPEGImages holds 1 of 2 images: unpack .*VOCtrainval_03-May-2010\.tar'
    ):
        run(converter, raw)
    write_list(raw, 'val', ['2008_000001'])
    with pytest.raises(ESCNetError, match=r'holds 1 of 2 images listed in ImageSets/Main/val\.txt'):
        run(converter, raw)
    (raw / 'ImageSets' / 'Main' / 'val.txt').unlink()
    with pytest.raises(ESCNetError, match=r'list of images .* cannot be read'):
        run(converter, raw)


def test_labels_beside_the_devkit(converter, raw):
    top = raw.parents[1]
    (raw / 'trainval').rename(top / 'trainval')
    out = top / 'out'
    assert converter.main([str(top), '--out', str(out), '--workers', '1']) == 0
    assert len(build(out)) == 2


def test_wrong_folders(converter, tmp_path):
    with pytest.raises(ESCNetError, match=r'nowhere does not exist.*VOCtrainval_03-May-2010'):
        converter.main([str(tmp_path / 'nowhere')])
    with pytest.raises(ESCNetError, match='has no ImageSets/Main or JPEGImages'):
        converter.main([str(tmp_path)])
