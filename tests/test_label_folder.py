"""Folders of label maps: round trip and errors."""

import json

import numpy as np
import pytest
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.label_folder import (
    LabelFiles,
    LabelNames,
    LabelReader,
    LabelWriter,
    image_name,
    label_file,
)

NAMES = LabelNames(names=tuple('abcd'), ignore_index=255, first_id=1, dataset='letters')
IDS = np.array([[0, 3, 255], [1, 2, 0]])


@pytest.fixture
def folder(tmp_path):
    """Predictions for two images of one name in two sub-folders."""
    writer = LabelWriter(tmp_path / 'out', NAMES, image_dir='data/images')
    writer.begin()
    writer.write(IDS, 'data/images/x/1.jpg')
    writer.write(IDS[::-1], 'data/images/y/1.jpg')
    writer.finish()
    return tmp_path / 'out'


@pytest.mark.parametrize(
    ('img_path', 'image_dir', 'name'),
    [
        ('data/images/x/1.jpg', 'data/images', 'x/1.jpg'),
        ('data/images/x/1.jpg', 'data/images/', 'x/1.jpg'),
        ('/d/images/1.b.jpeg', '/d/images', '1.b.jpeg'),
        ('data/images/x/1.jpg', None, '1.jpg'),
        ('elsewhere/1.jpg', 'data/images', '1.jpg'),
        ('data/images/..x/1.jpg', 'data/images', '..x/1.jpg'),
    ],
)
def test_image_name(img_path, image_dir, name):
    assert image_name(img_path, image_dir) == name


def test_label_file():
    assert label_file('{stem}.png', 'x/1.b.jpeg') == 'x/1.b.png'
    assert label_file('labels/{name}.png', 'x/{stem}.jpeg') == 'labels/x/{stem}.jpeg.png'


def test_two_images_with_one_name(tmp_path):
    paths = ['data/x/1.jpg', 'data/y/1.jpg', 'data/x/2.jpg']
    files = LabelFiles('{stem}.png', 'data')
    assert [files.of(path) for path in paths] == ['x/1.png', 'y/1.png', 'x/2.png']
    assert files.of(paths[0]) == 'x/1.png', 'the very same image'
    with pytest.raises(ESCNetError, match=r'of data/x/1\.jpg and data/x/1\.png would both be'):
        files.of('data/x/1.png')
    assert LabelFiles('{name}.png', 'data').of('data/x/1.jpg') == 'x/1.jpg.png'
    writer = LabelWriter(tmp_path, NAMES)
    writer.write(IDS, 'data/x/1.jpg')
    before = (tmp_path / '1.png').read_bytes()
    with pytest.raises(ESCNetError, match='would both'):
        writer.write(0 * IDS, 'data/y/1.jpg')
    assert (tmp_path / '1.png').read_bytes() == before


def test_round_trip(folder):
    reader = LabelReader(folder)
    assert reader.names == LabelNames(
        names=list('abcd'), ignore_index=255, first_id=1, dataset='letters'
    )
    np.testing.assert_array_equal(reader.read('x/1.jpg'), IDS)
    np.testing.assert_array_equal(reader.read('y/1.jpg'), IDS[::-1])
    written = Image.open(folder / 'x/1.png')
    assert written.mode == 'L'
    np.testing.assert_array_equal(written, [[1, 4, 255], [2, 3, 1]])
    reader.check_classes(list('abcd'), 'the data set')
    reader.check_files(['x/1.jpg', 'y/1.jpg'])


def test_round_trip_of_16_bits(tmp_path):
    """255 is a class of many, or no class of few where 65535 is asked for."""
    names = LabelNames(names=[f'class {i}' for i in range(300)], ignore_index=65535)
    ids = np.array([[0, 255, 65535], [254, 299, 256]])
    writer = LabelWriter(tmp_path, names)
    writer.write(ids, 'a.jpg')
    writer.finish()
    np.testing.assert_array_equal(LabelReader(tmp_path).read('a.jpg'), ids)


@pytest.mark.parametrize(
    ('count', 'first_id', 'ignore_index', 'fits'),
    [
        (255, 0, 255, True),
        (256, 0, 255, False),
        (255, 1, 255, False),  # the last class would be 255 in the file
        (255, 1, 0, True),
        (847, 0, 65535, True),
        (65535, 0, 65535, True),
        (65535, 1, 0, True),
        (65536, 1, 0, False),
        (4, 0, 70000, False),
        (4, 0, -1, False),
    ],
)
def test_ids_that_fit(count, first_id, ignore_index, fits):
    names = [f'class {i}' for i in range(count)]
    if fits:
        LabelNames(names, ignore_index, first_id)
    else:
        with pytest.raises(ESCNetError, match=f'{count} classes cannot be saved with ignore_index'):
            LabelNames(names, ignore_index, first_id)


def test_an_incomplete_folder_has_no_names(folder):
    """Restarted and interrupted: the files must not be used as predictions."""
    writer = LabelWriter(folder, NAMES, image_dir='data/images')
    writer.begin()
    writer.write(IDS, 'data/images/x/1.jpg')
    with pytest.raises(ESCNetError, match=r'names\.json cannot be read .*after the last'):
        LabelReader(folder)


def test_missing_folder_and_invalid_names(tmp_path):
    with pytest.raises(ESCNetError, match='nowhere does not exist: create it with'):
        LabelReader(tmp_path / 'nowhere')
    bad = '{"names": ["a"], "ignore_index": 255, "file": 3}'
    for content in ('', '[]', '{"names": ["a"]}', '{"other": 1}', '3', bad):
        (tmp_path / 'names.json').write_text(content)
        with pytest.raises(ESCNetError, match='is not a valid names file'):
            LabelReader(tmp_path)


@pytest.mark.parametrize(
    ('classes', 'difference'),
    [
        ('abc', 'have 4 classes, the data set 3'),
        ('abdc', "have 'c' as class 2, the data set 'd'"),
    ],
)
def test_other_classes(folder, classes, difference):
    with pytest.raises(ESCNetError, match=difference):
        LabelReader(folder).check_classes(list(classes), 'the data set')


def test_missing_and_surplus_files(folder):
    reader = LabelReader(folder)
    with pytest.raises(ESCNetError, match=r'2 of 4 label maps are missing .*\(1\.png, z/1\.png\)'):
        reader.check_files(['x/1.jpg', 'y/1.jpg', 'z/1.jpg', '1.jpg'])
    with pytest.raises(ESCNetError, match=r'1 label maps of images .* not have \(y/1\.png\)'):
        reader.check_files(['x/1.jpg'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:40]), 'cannot be decoded'),
        (lambda path: Image.fromarray(np.full((2, 3), 5, np.uint16)).save(path), 'holds id 5'),
        (lambda path: Image.fromarray(np.zeros((2, 3), np.uint16)).save(path), 'id 0.* 1 to 4'),
        (lambda path: path.unlink(), 'cannot be read'),
    ],
)
def test_damaged_files(folder, change, message):
    reader = LabelReader(folder)
    change(folder / 'x/1.png')
    with pytest.raises(ESCNetError, match=message) as caught:
        reader.read('x/1.jpg')
    assert str(folder / 'x/1.png') in str(caught.value)


def test_other_keys_of_the_names_are_kept_and_pictures_ignored(folder):
    """As tools/infer.py writes them, with overlays beside the label maps."""
    record = json.loads((folder / 'names.json').read_text())
    record |= dict(file='labels/{name}.png', checkpoint='a.pth')
    (folder / 'names.json').write_text(json.dumps(record))
    (folder / 'labels').mkdir()
    (folder / 'x/1.png').rename(folder / 'labels/1.jpg.png')
    reader = LabelReader(folder)
    reader.check_files(['1.jpg'])
    np.testing.assert_array_equal(reader.read('1.jpg'), IDS)
    assert reader.record['checkpoint'] == 'a.pth'
