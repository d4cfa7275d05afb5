"""The forms in which a result is given away, on label maps that are made by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import Query, SegmentationResult

NAMES = ['taxi', 'wet road', 'sofa | couch', 'never seen']
LABELS = np.array(
    [
        [0, 0, 1, 1, 1],
        [0, 0, 1, 2, 1],
        [1, 1, 1, 1, 1],
        [0, 255, 255, 255, 2],
    ],
    np.uint8,
)


def make(labels=LABELS, names=NAMES, source='photos/a.jpg', **options) -> SegmentationResult:
    generator = np.random.default_rng(0)
    return SegmentationResult(
        labels=labels,
        scores=generator.random(labels.shape, np.float32),
        query=Query.create(names, **options),
        image=generator.integers(0, 256, (*labels.shape, 3), np.uint8),
        source=source,
    )


def test_what_there_is():
    result = make(threshold=0.2)
    assert result.classes == tuple(NAMES)
    assert result.no_class == 255
    assert result.areas == {'wet road': 10, 'taxi': 5, 'sofa | couch': 2}
    assert list(result.areas) == ['wet road', 'taxi', 'sofa | couch']
    assert (
        repr(result) == 'SegmentationResult(5x4: wet road 50.0 %, taxi 25.0 %, sofa | couch 10.0 %)'
    )
    assert 'nothing' in repr(make(np.full((2, 2), 255, np.uint8)))


@pytest.mark.parametrize('name', ['sofa | couch', 'couch', ' Sofa', 2, np.int64(2)])
def test_classes_by_name_synonym_and_id(name):
    np.testing.assert_array_equal(make().mask(name), LABELS == 2)


def test_the_background_goes_by_its_name():
    result = make(names=NAMES[:2], background={'Other': ['sky', 'sand']})
    np.testing.assert_array_equal(result.mask('other'), LABELS == 2)
    with pytest.raises(ESCNetError, match="no class 'sky'"):
        result.mask('sky')


@pytest.mark.parametrize('name', ['chair', '', 4, -1, 255, None, 0.0])
def test_missing_classes(name):
    choices = "choose one of 'taxi', 'wet road'" if isinstance(name, str) else 'id from 0 to 3'
    with pytest.raises(ESCNetError, match=f'no class {name!r}: .*{choices}'):
        make().mask(name)


# -- files -------------------------------------------------------------------------------------


def test_save(tmp_path):
    result = make(threshold=0.2)
    folder = tmp_path / 'new/folder'
    result.save(folder / 'a.png', overlay=folder / 'b.png', scores=folder / 'c.png')
    with Image.open(folder / 'a.png') as image:
        assert image.mode == 'L'
        np.testing.assert_array_equal(np.array(image), LABELS)
    with Image.open(folder / 'c.png') as image:
        scores = np.array(image) / 65535
    np.testing.assert_allclose(scores, result.scores, atol=0.51 / 65535)
    with Image.open(folder / 'b.png') as image:
        assert image.size == result.overlay().size
    record = json.loads((folder / 'a.json').read_text())
    assert record['names'] == NAMES
    assert (record['first_id'], record['ignore_index']) == (0, 255)
    assert record['words'][2] == ['sofa', 'couch']
    assert record['threshold'] == 0.2
    assert sorted(path.name for path in folder.iterdir()) == ['a.json', 'a.png', 'b.png', 'c.png']


def test_wide_ids_are_saved_as_they_are(tmp_path):
    labels = np.array([[0, 299, 65535]], np.uint16)
    make(labels, names=[f'word {i}' for i in range(300)]).save(tmp_path / 'a.png')
    with Image.open(tmp_path / 'a.png') as image:
        np.testing.assert_array_equal(np.array(image), labels)


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ESCNetError, match=r'a\.jpg must end in \.png'):
        make().save(tmp_path / 'ok.png', overlay=tmp_path / 'a.jpg')
    (tmp_path / 'file').touch()
    with pytest.raises(ESCNetError, match=r'a\.png cannot be written'):
        make().save(tmp_path / 'file/a.png')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


# -- annotations -------------------------------------------------------------------------------


def test_coco(tmp_path):
    """Through JSON and pycocotools' own reader: every mask is that of the label map."""
    result = make()
    (tmp_path / 'a.json').write_text(json.dumps(result.to_coco(image_id=7)))
    coco = COCO(tmp_path / 'a.json')
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == NAMES
    (image,) = coco.loadImgs(coco.getImgIds())
    assert image == dict(id=7, width=5, height=4, file_name='a.jpg')
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=7))
    assert [annotation['category_id'] for annotation in annotations] == [0, 1, 2]
    for annotation in annotations:
        mask = result.labels == annotation['category_id']
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        assert annotation['area'] == mask.sum()
        assert annotation['score'] == pytest.approx(result.scores[mask].mean())
    assert annotations[2]['bbox'] == [3, 1, 2, 3]


def test_polygons():
    pytest.importorskip('shapely', reason='the extra `shapes` is not installed')
    result = make()
    collection = json.loads(json.dumps(result.to_polygons()))
    assert collection['type'] == 'FeatureCollection'
    found = [(f['properties']['class'], f['properties']['area']) for f in collection['features']]
    assert sorted(found) == [
        ('sofa | couch', 1),
        ('sofa | couch', 1),
        ('taxi', 1),
        ('taxi', 4),
        ('wet road', 10),
    ]
    road = next(f for f in collection['features'] if f['properties']['class'] == 'wet road')
    assert road['geometry']['type'] == 'Polygon'
    outer, hole = road['geometry']['coordinates']
    assert sorted(map(tuple, outer[:-1])) == [(0, 2), (0, 3), (2, 0), (2, 2), (5, 0), (5, 3)]
    assert sorted(map(tuple, hole[:-1])) == [(3, 1), (3, 2), (4, 1), (4, 2)]
    assert outer[0] == outer[-1]
    assert road['properties']['id'] == 1
    score = result.scores[LABELS == 1].mean()
    assert road['properties']['score'] == pytest.approx(score)
    assert len(result.to_polygons(min_area=2)['features']) == 2


def test_an_image_of_no_class():
    result = make(np.full((3, 4), 255, np.uint8))
    assert result.to_coco()['annotations'] == []
    assert result.overlay().size[1] == 480 * 3 // 4


def test_a_background_is_not_missed():
    """A legend names what was asked for and not found."""
    plain = np.array(make().overlay())
    np.testing.assert_array_equal(np.array(make(background='other').overlay()), plain)
    assert not np.array_equal(np.array(make(names=[*NAMES, 'other']).overlay()), plain)


@pytest.mark.parametrize('image_id', [np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), 3])
def test_image_ids_from_arrays(image_id):
    found = json.loads(json.dumps(make().to_coco(image_id=image_id)))
    ids = [image['id'] for image in found['images']]
    assert {*ids, *(each['image_id'] for each in found['annotations'])} == {3}


@pytest.mark.parametrize('image_id', [1.5, None, np.float32(3), [3]])
def test_what_is_no_image_id(image_id):
    with pytest.raises(ESCNetError, match='give a whole number or a string'):
        make().to_coco(image_id=image_id)
    assert make().to_coco(image_id='a')['images'][0]['id'] == 'a'


@pytest.mark.parametrize(
    ('overlay', 'scores'),
    [
        ('y.png', None),
        ('sub/../y.png', None),
        (None, 'link/y.png'),
        ('o.png', 'o.png'),
    ],
)
def test_no_file_is_written_over_another(tmp_path, overlay, scores):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path)
    options = dict(overlay=overlay, scores=scores)
    paths = {name: tmp_path / path for name, path in options.items() if path}
    with pytest.raises(ESCNetError, match='cannot be two of label map, overlay and scores'):
        make().save(tmp_path / 'y.png', **paths)
    assert not list(tmp_path.glob('*.png'))


@pytest.mark.parametrize('synonym', ['couch', 'Couch', ' COUCH '])
def test_a_synonym_of_two_classes(synonym):
    result = make(names=['sofa | couch', 'bed | couch', 'dog'])
    for ask in (result.class_scores, result.mask):
        with pytest.raises(ESCNetError, match='Several classes have the synonym'):
            ask(synonym)
    assert result.mask('sofa').shape == result.labels.shape
