"""The PASCAL VOC converter on a made VOC2012 folder, and on two real photographs."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from conftest import ROOT, load_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image
from tool_processes import environment, run_tool, tool_server

from mmseg_escnet.datasets import vocabulary_names
from mmseg_escnet.errors import ESCNetError

SCRIPT = 'tools/dataset_converters/pascal_voc.py'
PIPELINE = [dict(type='LoadImage'), dict(type='LoadLabelMap')]


@pytest.fixture(scope='module')
def converter():
    return load_tool(SCRIPT)


def write_sample(raw, stem, ids):
    """A palette image, as published: its indices are the ids."""
    ids = np.asarray(ids, np.uint8)
    for folder in ('SegmentationClass', 'JPEGImages'):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids, 'P')
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(raw / 'SegmentationClass' / f'{stem}.png')
    Image.new('RGB', ids.shape[::-1]).save(raw / 'JPEGImages' / f'{stem}.jpg')


def write_list(raw, split, stems):
    path = raw / 'ImageSets' / 'Segmentation' / f'{split}.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{stem}\n' for stem in stems))


@pytest.fixture
def raw(tmp_path, converter, monkeypatch):
    monkeypatch.setattr(converter, 'NUM_IMAGES', {'train': 1, 'val': 2})
    raw = tmp_path / 'VOCdevkit' / 'VOC2012'
    write_sample(raw, '2007_000001', [[0, 1, 2], [20, 255, 19]])
    write_sample(raw, '2007_000002', np.full((30, 20), 15))
    write_sample(raw, '2007_000003', np.full((5, 6), 1))
    write_list(raw, 'val', ['2007_000001', '2007_000002'])
    write_list(raw, 'train', ['2007_000003'])
    return raw


def run(converter, raw, *options):
    out = raw.parents[1] / 'out'
    return converter.main([str(raw), '--out', str(out), '--workers', '1', *options]), out


def build(out, name='pascal-voc-20', split='val'):
    """The data set of a config, in OUT."""
    init_default_scope('mmseg')
    path = ROOT / f'configs/_base_/datasets/{name}.py'
    dataset = Config.fromfile(path).test_dataloader.dataset
    dataset.ann_file = dataset.ann_file.replace('val', split)
    return DATASETS.build(dict(dataset, data_root=str(out), pipeline=PIPELINE))


def test_corrected_labels(converter, raw, capsys):
    _, out = run(converter, raw)
    write_sample(raw, '2007_000001', [[3, 1, 2], [255, 20, 0]])
    capsys.readouterr()
    assert run(converter, raw)[0] == 0
    printed = capsys.readouterr().out
    for name in ('PAS-20', 'PAS-20b'):
        assert f'{name}: 0 label maps converted, 1 unchanged, 1 updated' in printed
    np.testing.assert_array_equal(build(out)[0]['gt_seg_map'], [[2, 0, 1], [255, 19, 255]])
    label = build(out, 'pascal-voc-20b')[0]['gt_seg_map']
    np.testing.assert_array_equal(label, [[2, 0, 1], [255, 19, 20]])


def test_converts(converter, raw, capsys):
    status, out = run(converter, raw)
    assert status == 0
    label = build(out)[0]['gt_seg_map']
    np.testing.assert_array_equal(label, [[255, 0, 1], [19, 255, 18]])
    label = build(out, 'pascal-voc-20b')[0]['gt_seg_map']
    np.testing.assert_array_equal(label, [[20, 0, 1], [19, 255, 18]])
    printed = capsys.readouterr().out
    assert 'PAS-20: 2 label maps converted, 0 unchanged, 0 updated, 0 failed' in printed
    assert 'PAS-20: 0.3% of the pixels are ignored, 15 of 20 classes never occur: ' in printed
    assert 'PAS-20b: 0.2% of the pixels are ignored, 15 of 21 classes never occur: ' in printed
    assert run(converter, raw, '--splits', 'train', 'val')[0] == 0
    assert (build(out, split='train')[0]['gt_seg_map'] == 0).all()
    assert len(build(out)) == 2


def test_colours_in_place_of_indices(converter, raw, capsys):
    Image.new('RGB', (3, 2)).save(raw / 'SegmentationClass' / '2007_000001.png')
    assert run(converter, raw)[0] == 1
    assert '2007_000001.png has 3 channel(s)' in capsys.readouterr().err
    (raw / 'SegmentationClass' / '2007_000001.png').write_bytes(b'no picture')
    assert run(converter, raw)[0] == 1
    assert '2007_000001.png cannot be decoded' in capsys.readouterr().err


def test_missing_files_are_named_before_anything_is_written(converter, raw):
    (raw / 'SegmentationClass' / '2007_000002.png').unlink()
    with pytest.raises(
        ESCNetError,
        match=r'SegmentationClass holds 1 of 2 label maps: unpack http.*VOCtrainval_11-May-2012'
        r'.*missing: 2007_000002\.png',
    ):
        run(converter, raw)
    assert not (raw.parents[1] / 'out').exists()
    assert run(converter, raw, '--allow-partial')[0] == 0
    assert len(build(raw.parents[1] / 'out')) == 1
    (raw / 'JPEGImages' / '2007_000001.jpg').unlink()
    with pytest.raises(ESCNetError, match=r'No image in .*JPEGImages is listed in'):
        run(converter, raw, '--allow-partial')


def test_wrong_folders(converter, tmp_path):
    with pytest.raises(ESCNetError, match=r'nowhere does not exist.*VOCtrainval_11-May-2012'):
        converter.main([str(tmp_path / 'nowhere')])
    with pytest.raises(ESCNetError, match='has no SegmentationClass or'):
        converter.main([str(tmp_path)])


def test_two_data_sets_in_one_folder(converter, raw, capsys):
    """VOC2010 beside VOC2012 in one OUT: labels of both are right, no image is replaced."""
    context = load_tool('tools/dataset_converters/pascal_context.py')
    older = raw.with_name('VOC2010')
    for folder in ('trainval', 'JPEGImages', 'ImageSets/Main'):
        (older / folder).mkdir(parents=True)
    stems = ['2007_000001', '2008_000009']
    (older / 'ImageSets' / 'Main' / 'val.txt').write_text('\n'.join(stems))
    for stem in stems:
        scipy.io.savemat(older / 'trainval' / f'{stem}.mat', dict(LabelMap=np.full((2, 3), 2)))
        Image.new('RGB', (3, 2)).save(older / 'JPEGImages' / f'{stem}.jpg')
    _, out = run(converter, raw)
    command = [str(older), '--out', str(out), '--workers', '1', '--allow-partial']
    assert context.main(command) == 0
    np.testing.assert_array_equal(build(out)[0]['gt_seg_map'], [[255, 0, 1], [19, 255, 18]])
    context_label = out / 'SegmentationClassContext459' / '2007_000001.png'
    assert (np.array(Image.open(context_label)) == 1).all()

    Image.effect_noise((3, 2), 90).save(older / 'JPEGImages' / '2007_000001.jpg')
    capsys.readouterr()
    assert context.main(command) == 1
    assert 'the folder belongs to another data set' in capsys.readouterr().err
    assert (out / 'JPEGImages' / '2007_000001.jpg').samefile(raw / 'JPEGImages' / '2007_000001.jpg')


def test_killed_half_way(tmp_path):
    """What is there is whole, the data set says what is not, and a second call completes it."""
    raw, out = tmp_path / 'VOC2012', tmp_path / 'out'
    ids = np.random.default_rng(0).integers(0, 21, (300, 300))  # slow to compress
    write_sample(raw, '2007_000000', ids)
    stems = [f'2007_{i:06d}' for i in range(100)]
    for stem in stems[1:]:
        for folder, suffix in (('SegmentationClass', '.png'), ('JPEGImages', '.jpg')):
            os.link(raw / folder / f'2007_000000{suffix}', raw / folder / f'{stem}{suffix}')
    write_list(raw, 'val', stems)
    command = [SCRIPT, raw, '--out', out, '--workers', '2', '--allow-partial']
    log = dict(stdout=os.devnull, stderr=os.devnull, environment=environment())
    (pid,) = tool_server().start(command, [log])
    labels = out / 'SegmentationClass20b'
    deadline = time.monotonic() + 300
    while len(list(labels.glob('*.png'))) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    assert tool_server().end() == [-signal.SIGKILL]
    there = list(labels.glob('*.png'))
    assert 10 <= len(there) < 100, 'killed too late or too early to show anything'
    expected = np.where(ids == 0, 20, ids - 1)
    for path in there:
        np.testing.assert_array_equal(np.array(Image.open(path)), expected)
    with pytest.raises(ESCNetError, match=r'val\.txt \(ann_file\) does not exist: run `mmseg'):
        build(out, 'pascal-voc-20b')

    times = {path: path.stat().st_mtime_ns for path in there}
    done = run_tool(*command)
    assert done.returncode == 0, done.stderr
    assert len(build(out, 'pascal-voc-20b')) == 100
    assert times == {path: path.stat().st_mtime_ns for path in there}


def test_real_photographs(converter, tmp_path, real_samples):
    raw, out = real_samples / 'VOCdevkit' / 'VOC2012', tmp_path / 'out'
    options = ['--out', str(out), '--allow-partial', '--workers', '1']
    assert converter.main([str(raw), *options]) == 0
    names = np.array([*vocabulary_names('voc20'), 'background'])
    expected = [{'bottle', 'person'}, {'chair', 'person', 'sofa'}]
    for kind, extra in (('pascal-voc-20', set()), ('pascal-voc-20b', {'background'})):
        dataset = build(out, kind)
        assert len(dataset) == 2
        for sample, objects in zip(dataset, expected, strict=True):
            label = sample['gt_seg_map']
            stem = Path(sample['img_path']).stem
            palette_index = np.array(Image.open(raw / 'SegmentationClass' / f'{stem}.png'))
            assert set(names[np.unique(label[label != 255])]) == objects | extra
            is_object = (palette_index > 0) & (palette_index < 255)
            np.testing.assert_array_equal(label[is_object], palette_index[is_object] - 1)
            background = 20 if extra else 255
            np.testing.assert_array_equal(label[palette_index == 0], background)
            np.testing.assert_array_equal(label[palette_index == 255], 255)
