"""Predictions as files: what is written is read back, and what does not fit is an error."""

import json

import numpy as np
import pytest
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.evaluation.saved_predictions import (
    PredictionNames,
    PredictionReader,
    PredictionWriter,
    check_prediction_names,
    prediction_name,
)

NAMES = PredictionNames(names=tuple('abcd'), ignore_index=255, first_id=1, dataset='letters')
IDS = np.array([[0, 3, 255], [1, 2, 0]])


@pytest.fixture
def folder(tmp_path):
    """Predictions for two images of one name in two sub-folders."""
    writer = PredictionWriter(tmp_path / 'out', NAMES, image_dir='data/images')
    writer.begin()
    writer.write(IDS, 'data/images/x/1.jpg')
    writer.write(IDS[::-1], 'data/images/y/1.jpg')
    writer.finish()
    return tmp_path / 'out'


@pytest.mark.parametrize(
    ('img_path', 'image_dir', 'name'),
    [
        ('data/images/x/1.jpg', 'data/images', 'x/1.png'),
        ('data/images/x/1.jpg', 'data/images/', 'x/1.png'),
        ('/d/images/1.b.jpeg', '/d/images', '1.b.png'),
        ('data/images/x/1.jpg', None, '1.png'),
        ('elsewhere/1.jpg', 'data/images', '1.png'),
        ('data/images/..x/1.jpg', 'data/images', '..x/1.png'),
    ],
)
def test_prediction_name(img_path, image_dir, name):
    assert prediction_name(img_path, image_dir) == name


def test_two_images_with_one_name(tmp_path):
    paths = ['data/x/1.jpg', 'data/y/1.jpg', 'data/x/2.jpg']
    check_prediction_names(paths, 'data')
    check_prediction_names([paths[0], paths[0]], 'data')  # the very same image, twice
    with pytest.raises(ESCNetError, match=r'for data/x/1\.jpg and data/y/1\.jpg would both be'):
        check_prediction_names(paths)
    with pytest.raises(ESCNetError, match=r'data/x/1\.jpg and data/x/1\.png would both'):
        check_prediction_names(['data/x/1.jpg', 'data/x/1.png'], 'data')
    writer = PredictionWriter(tmp_path, NAMES)
    writer.write(IDS, 'data/x/1.jpg')
    before = (tmp_path / '1.png').read_bytes()
    with pytest.raises(ESCNetError, match='would both'):
        writer.write(0 * IDS, 'data/y/1.jpg')
    assert (tmp_path / '1.png').read_bytes() == before


def test_round_trip(folder):
    reader = PredictionReader(folder)
    assert reader.names == PredictionNames(
        names=list('abcd'), ignore_index=255, first_id=1, dataset='letters'
    )
    np.testing.assert_array_equal(reader.read('x/1.png'), IDS)
    np.testing.assert_array_equal(reader.read('y/1.png'), IDS[::-1])
    written = Image.open(folder / 'x/1.png')
    assert written.mode in ('I;16', 'I')  # 16 bits; Pillow < 10 says I
    np.testing.assert_array_equal(written, [[1, 4, 255], [2, 3, 1]])
    reader.check_classes(list('abcd'), 'the data set')
    reader.check_files(['x/1.png', 'y/1.png'])


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
        PredictionNames(names, ignore_index, first_id)
    else:
        with pytest.raises(ESCNetError, match=f'{count} classes cannot be saved with ignore_index'):
            PredictionNames(names, ignore_index, first_id)


def test_an_incomplete_folder_has_no_names(folder):
    """Begun anew and interrupted: what is there must not be taken for the predictions."""
    writer = PredictionWriter(folder, NAMES, image_dir='data/images')
    writer.begin()
    writer.write(IDS, 'data/images/x/1.jpg')
    with pytest.raises(ESCNetError, match=r'names\.json cannot be read .* after the last'):
        PredictionReader(folder)


def test_no_folder_and_no_names(tmp_path):
    with pytest.raises(ESCNetError, match='nowhere does not exist: make it with'):
        PredictionReader(tmp_path / 'nowhere')
    for content in ('', '[]', '{"names": ["a"]}', '{"other": 1}', '3'):
        (tmp_path / 'names.json').write_text(content)
        with pytest.raises(ESCNetError, match='is not a file of names'):
            PredictionReader(tmp_path)


@pytest.mark.parametrize(
    ('classes', 'difference'),
    [
        ('abc', 'have 4 classes, the data set 3'),
        ('abdc', "have 'c' as class 2, the data set 'd'"),
    ],
)
def test_other_classes(folder, classes, difference):
    with pytest.raises(ESCNetError, match=difference):
        PredictionReader(folder).check_classes(list(classes), 'the data set')


def test_missing_and_surplus_files(folder):
    reader = PredictionReader(folder)
    with pytest.raises(ESCNetError, match=r'2 of 4 predictions are missing .*\(1\.png, z/1\.png\)'):
        reader.check_files(['x/1.png', 'y/1.png', 'z/1.png', '1.png'])
    with pytest.raises(ESCNetError, match=r'1 predictions for images .* not have \(y/1\.png\)'):
        reader.check_files(['x/1.png'])


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
    reader = PredictionReader(folder)
    change(folder / 'x/1.png')
    with pytest.raises(ESCNetError, match=message) as caught:
        reader.read('x/1.png')
    assert str(folder / 'x/1.png') in str(caught.value)


def test_names_are_readable(folder):
    content = json.loads((folder / 'names.json').read_text())
    assert content['names'] == list('abcd')
