"""The COCO-Stuff converter on a made tree, and on a real photograph."""

import numpy as np
import pytest
from conftest import load_tool
from mmengine.registry import init_default_scope
from PIL import Image
from tool_processes import run_tool

from mmseg_escnet.datasets import COCOStuff171Dataset
from mmseg_escnet.errors import ESCNetError

SCRIPT = 'tools/dataset_converters/coco_stuff164k.py'
SUFFIX = '_labelTrainIds.png'


@pytest.fixture(scope='module')
def converter():
    return load_tool(SCRIPT)


def write_raw(raw, split, stem, values, labels='annotations', images='images'):
    values = np.asarray(values, np.uint8)
    for folder in (raw / labels / split, raw / images / split):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(raw / labels / split / f'{stem}.png')
    Image.new('RGB', values.shape[::-1]).save(raw / images / split / f'{stem}.jpg')


@pytest.fixture
def raw(tmp_path, converter, monkeypatch):
    monkeypatch.setattr(converter, 'NUM_IMAGES', {'train2017': 2, 'val2017': 1})
    write_raw(tmp_path / 'raw', 'train2017', '1', [[0, 10, 12, 255], [89, 91, 181, 0]])
    write_raw(tmp_path / 'raw', 'train2017', '2', np.full((30, 20), 181))
    write_raw(tmp_path / 'raw', 'val2017', '3', np.array([[255, 255], [255, 91]]))
    return tmp_path / 'raw'


def run(converter, raw, *options):
    out = raw.parent / 'out'
    return converter.main([str(raw), '--out', str(out), '--workers', '1', *options]), out


def read(path):
    return np.array(Image.open(path))


def test_corrected_labels(converter, raw, capsys):
    _, out = run(converter, raw)
    write_raw(raw, 'train2017', '2', np.full((30, 20), 91))
    capsys.readouterr()
    assert run(converter, raw)[0] == 0
    printed = capsys.readouterr().out
    assert 'train2017: 0 label maps converted, 1 unchanged, 1 updated' in printed
    assert 'val2017: 0 label maps converted, 1 unchanged, 0 updated' in printed
    assert (read(out / 'annotations' / 'train2017' / f'2{SUFFIX}') == 80).all()


def test_converts(converter, raw, capsys):
    status, out = run(converter, raw)
    assert status == 0
    label = read(out / 'annotations' / 'train2017' / f'1{SUFFIX}')
    # person, fire hydrant; the gap at 11; unlabelled; toothbrush, banner, wood.
    np.testing.assert_array_equal(label, [[0, 10, 11, 255], [79, 80, 170, 0]])
    val = read(out / 'annotations' / 'val2017' / f'3{SUFFIX}')
    np.testing.assert_array_equal(val, [[255, 255], [255, 80]])
    printed = capsys.readouterr().out
    assert (
        'COCO-Stuff train2017: 2 label maps converted, 0 unchanged, 0 updated, 0 failed' in printed
    )
    assert 'train2017: 0.2% of the pixels are ignored, 165 of 171 classes never occur' in printed
    assert 'val2017: 75.0% of the pixels are ignored, 170 of 171 classes never occur' in printed
    init_default_scope('mmseg')
    dataset = COCOStuff171Dataset(
        data_root=str(out),
        data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'),
        pipeline=[dict(type='LoadImage'), dict(type='LoadLabelMap')],
    )
    assert len(dataset) == 2
    assert (dataset[1]['gt_seg_map'] == 170).all()


@pytest.mark.parametrize('labels', ['.', 'stuffthingmaps'])
def test_other_published_layouts(converter, tmp_path, monkeypatch, labels):
    monkeypatch.setattr(converter, 'NUM_IMAGES', {'val2017': 1})
    write_raw(tmp_path / 'raw', 'val2017', '3', [[0]], labels=labels)
    status, out = run(converter, tmp_path / 'raw', '--splits', 'val2017')
    assert status == 0
    assert (out / 'images' / 'val2017' / '3.jpg').is_symlink()


def test_into_the_raw_folder_itself(converter, raw, capsys):
    for expected in ('2 label maps converted, 0 unchanged', '0 label maps converted, 2 unchanged'):
        assert converter.main([str(raw), '--out', str(raw), '--workers', '1']) == 0
        assert expected in capsys.readouterr().out
    assert not (raw / 'images' / 'train2017' / '1.jpg').is_symlink()


def test_unknown_id_names_file_and_id_and_the_rest_goes_on(converter, raw, capsys):
    write_raw(raw, 'train2017', '1', [[11, 182, 0]])
    status, out = run(converter, raw)
    assert status == 1
    captured = capsys.readouterr()
    assert 'train2017: 1 label maps converted, 0 unchanged, 0 updated, 1 failed' in captured.out
    assert 'train2017/1.png holds id 11, 182, which no class' in captured.err
    assert not (out / 'annotations' / 'train2017' / f'1{SUFFIX}').exists()


def test_unreadable_file_is_reported(converter, raw, capsys):
    path = raw / 'annotations' / 'train2017' / '2.png'
    path.write_bytes(path.read_bytes()[:45])
    assert run(converter, raw)[0] == 1
    assert 'train2017/2.png cannot be decoded' in capsys.readouterr().err


def test_counts_are_checked_before_anything_is_written(converter, raw):
    (raw / 'annotations' / 'train2017' / '2.png').unlink()
    with pytest.raises(
        ESCNetError, match='holds 1 of 2 label maps of train2017: unpack stuffthing'
    ):
        run(converter, raw)
    assert not (raw.parent / 'out').exists()
    assert run(converter, raw, '--allow-partial')[0] == 0


def test_missing_image_is_named(converter, raw, capsys):
    (raw / 'images' / 'train2017' / '1.jpg').unlink()
    with pytest.raises(ESCNetError, match=r'holds 1 of 2 images of train2017.*missing: 1\.jpg'):
        run(converter, raw)
    Image.new('RGB', (1, 1)).save(raw / 'images' / 'train2017' / 'another.jpg')
    with pytest.raises(ESCNetError, match=r'lacks the images of 1 label maps \(.*: 1\.jpg\)'):
        run(converter, raw)
    status, out = run(converter, raw, '--allow-partial')
    assert status == 0
    assert '1 without image left out' in capsys.readouterr().out
    assert not (out / 'annotations' / 'train2017' / f'1{SUFFIX}').exists()
    status, out = run(converter, raw, '--link', 'none')
    assert status == 0
    assert (out / 'annotations' / 'train2017' / f'1{SUFFIX}').exists()


def test_wrong_folders(converter, tmp_path):
    with pytest.raises(ESCNetError, match='nowhere does not exist'):
        converter.main([str(tmp_path / 'nowhere')])
    with pytest.raises(ESCNetError, match='holds no label map with its image'):
        converter.main([str(tmp_path), '--allow-partial'])


def test_command_line_in_two_processes(tmp_path):
    for i in range(40):
        write_raw(tmp_path / 'raw', 'val2017', f'{i:03d}', np.full((4, 4), 91))
    (tmp_path / 'raw' / 'annotations' / 'val2017' / '007.png').write_bytes(b'no picture')
    command = [SCRIPT, tmp_path / 'raw', '--out', tmp_path / 'out']
    done = run_tool(*command)
    assert done.returncode == 2
    assert 'holds 0 of 118287 label maps' in done.stderr
    assert 'https://github.com/nightrome/cocostuff#downloads' in done.stderr
    assert 'Traceback' not in done.stderr
    command += ['--allow-partial', '--workers', '2']
    done = run_tool(*command)
    assert done.returncode == 1
    assert '39 label maps converted, 0 unchanged, 0 updated, 1 failed' in done.stdout
    assert '007.png cannot be decoded' in done.stderr
    assert (read(tmp_path / 'out' / 'annotations' / 'val2017' / f'000{SUFFIX}') == 80).all()


def test_real_photograph(converter, tmp_path, real_samples):
    raw, out = real_samples / 'coco_stuff164k', tmp_path / 'out'
    assert converter.main([str(raw), '--out', str(out), '--allow-partial', '--workers', '1']) == 0
    init_default_scope('mmseg')
    dataset = COCOStuff171Dataset(
        data_root=str(out),
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
        pipeline=[dict(type='LoadImage'), dict(type='LoadLabelMap')],
        test_mode=True,
    )
    label = dataset[0]['gt_seg_map']
    assert label.shape == (427, 640)
    names = {dataset.metainfo['classes'][i] for i in np.unique(label) if i != 255}
    assert names == {'person', 'sports ball', 'grass', 'sky-other', 'tree'}
