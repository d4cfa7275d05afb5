"""COCO's JSON as people have it: what does not fit its image, occurs twice, or was corrected."""

import json

import numpy as np
import pytest
from conftest import load_tool
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image, ImageDraw, ImageOps
from pycocotools import mask as coco_mask

from mmseg_escnet.datasets.inspection import build_dataset, inspect_dataset
from mmseg_escnet.errors import ESCNetError

WIDTH, HEIGHT = 40, 30
LEFT = [0, 0, 20, 0, 20, 30, 0, 30]
RIGHT = [20, 0, 40, 0, 40, 30, 20, 30]


@pytest.fixture(scope='module')
def main():
    return load_tool('tools/dataset_converters/coco_json.py').main


class Raw:
    """Annotations of images of 40 x 30 pixels with two categories, and where they are put."""

    def __init__(self, folder, main):
        self.folder, self.main, self.out = folder, main, folder / 'out'
        self.sizes = dict(width=WIDTH, height=HEIGHT)
        self.images = [dict(id=1, file_name='a.jpg', **self.sizes)]
        self.categories = [dict(id=1, name='dog'), dict(id=2, name='floor')]
        self.annotations = []
        self.save('a.jpg')

    def save(self, name, size=(WIDTH, HEIGHT)):
        (self.folder / 'raw' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', size).save(self.folder / 'raw' / name)

    def add(self, segmentation, category=1, image=1, **keys):
        keys = dict(id=len(self.annotations) + 1) | keys
        keys |= dict(image_id=image, category_id=category, segmentation=segmentation)
        self.annotations.append(keys)
        return self

    def convert(self, *options, out=None):
        path = self.folder / 'annotations.json'
        keys = ('images', 'annotations', 'categories')
        path.write_text(json.dumps({key: getattr(self, key) for key in keys}))
        arguments = [path, '--images', self.folder / 'raw', '--out', out or self.out]
        return self.main([*map(str, arguments), '--workers', '0', *options])

    def labels(self, name='a.png', out=None):
        with Image.open((out or self.out) / 'labels/train' / name) as image:
            return np.array(image)

    def dataset(self):
        init_default_scope('mmseg')
        return DATASETS.build(self.config)

    @property
    def config(self):
        return dict(
            type='FolderDataset',
            names='names.txt',
            data_root=str(self.out),
            data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
            pipeline=[dict(type='LoadImage'), dict(type='LoadLabelMap')],
        )

    def refused(self, message, *options):
        with pytest.raises(ESCNetError, match=message) as caught:
            self.convert(*options)
        assert not self.out.exists(), 'refused before anything is written'
        return str(caught.value)


@pytest.fixture
def raw(tmp_path, main):
    return Raw(tmp_path, main)


def halves(left=255, right=255):
    expected = np.full((HEIGHT, WIDTH), right)
    expected[:, :20] = left
    return expected


def painted(*polygons):
    """Pillow's own filling; the outlines of the two differ by a pixel."""
    mask = Image.new('1', (WIDTH, HEIGHT))
    for polygon in polygons:
        ImageDraw.Draw(mask).polygon(polygon, fill=1)
    return np.array(mask)


# -- what is drawn ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    'polygons',
    [
        [[2, 2, 12, 2, 12, 12, 2, 12], [22, 15, 37, 15, 30, 28]],
        [[22, 15, 37, 15, 30, 28], [2, 2, 12, 2, 12, 12, 2, 12], [15, 2, 35, 2, 35, 9, 15, 9]],
        [[], [2, 2, 12, 2, 12, 12, 2, 12], [15, 2, 35, 2, 35, 9, 15, 9]],
        # four numbers, which pycocotools takes for a box, and all behind it as well
        [[15, 2, 20, 9], [2, 2, 12, 2, 12, 12, 2, 12], [22, 15, 37, 15, 30, 28]],
    ],
)
def test_all_polygons_of_an_instance(raw, polygons, capsys):
    assert raw.add(polygons).convert() == 0
    found = raw.labels() == 0
    drawable = [polygon for polygon in polygons if len(polygon) > 4]
    expected = painted(*drawable)
    assert (found != expected).mean() < 0.07
    for polygon in drawable:
        middle = np.mean(np.reshape(polygon, (-1, 2)), axis=0).astype(int)
        assert found[middle[1], middle[0]]
    assert not found[5, 17] or expected[5, 17]
    assert 'left out' not in capsys.readouterr().out


def compressed(*lengths):
    """pycocotools' string of these run lengths, in one column of pixels."""
    size = [sum(lengths), 1]
    return coco_mask.frPyObjects(dict(counts=list(lengths), size=size), *size)['counts'].decode()


NOTHING = [
    *(None, [], [[]], [[5, 5]], [[5, 5, 15, 15]], [[5, 5, 15, 15], []]),
    *([[5, 5, 10, 10, 15, 15]], [[5, 5, 5, 5, 5, 5]], [[5, 5, 25, 5, 15, 5, 8, 5]]),
    *([[60, 5, 70, 5, 70, 9]], [[-9, -9, -1, -9, -1, -1]], [[5, 31, 9, 31, 9, 35]]),
    dict(counts=[WIDTH * HEIGHT], size=[HEIGHT, WIDTH]),
    *(dict(counts=counts, size=[HEIGHT, WIDTH]) for counts in (None, [], '', compressed(1200, 0))),
]


@pytest.mark.parametrize('segmentation', NOTHING)
def test_without_an_area(raw, segmentation, capsys):
    """The rest of the image is kept."""
    raw.add(segmentation, id=17).add([RIGHT], category=2)
    assert raw.convert() == 0
    np.testing.assert_array_equal(raw.labels(), halves(right=1))
    assert 'without an area inside their image, left out: 1 (id 17)' in capsys.readouterr().out


@pytest.mark.parametrize(('count', 'ignored'), [(255, 255), (256, 65535), (257, 65535)])
def test_so_many_categories_that_255_is_one(raw, count, ignored):
    raw.categories = [dict(id=i, name=f'class {i}') for i in range(count)]
    assert raw.add([LEFT], category=count - 1).convert() == 0
    np.testing.assert_array_equal(raw.labels(), halves(count - 1, ignored))


def test_without_a_segmentation(raw, capsys):
    raw.add(None, bbox=[1, 2, 3, 4]).add([LEFT])
    del raw.annotations[0]['segmentation']
    assert raw.convert() == 0
    np.testing.assert_array_equal(raw.labels(), halves(left=0))
    assert 'left out: 1 (id 1)' in capsys.readouterr().out


def test_boxes_alone(raw):
    for number in range(3):
        raw.add([], bbox=[number, 2, 3, 4])
    raw.refused('No annotation of .* export polygons or masks, not boxes')


@pytest.mark.parametrize(
    ('segmentation', 'message'),
    [
        ([[0, 0, 20, 0, 20, 30, 5]], '7 coordinates, an odd number'),
        ([LEFT, [1, 2, 3]], '3 coordinates, an odd number'),
        ([[0, 0, 20, 0, 20, None]], 'not a number'),
        ([[0, 0, 20, 0, 20, float('nan')]], 'not a number'),
        ([[0, 0, 20, 0, 20, 10**400]], 'too large'),
        ([[0, 0, 20, 0, 20, 'far']], 'could not convert'),
        (LEFT, 'list of polygons'),
        ('0 0 20 0', 'list of polygons'),
        ([[0, 0], [20, 0], [20, 30]], 'list of points'),
        ([[[0, 0], [20, 0], [20, 30]]], 'list of numbers'),
        ([[0, 0, 2000, 0, 2000, 3000, 0, 3000]], 'far outside the image of 40x30 pixels'),
        ([[0, 0, -1e9, 0, 20, 30]], 'far outside the image'),
        (dict(counts=[100, 200], size=[HEIGHT, WIDTH]), '300 pixels for 40x30'),
        (dict(counts=[-100, 1300], size=[HEIGHT, WIDTH]), 'at least 0'),
        (dict(counts=[0.5, 1199.5], size=[HEIGHT, WIDTH]), 'must be integers'),
        (dict(counts=[1200]), "'size' is missing"),
        (dict(counts=compressed(33, 2, 8, 2, 55), size=[HEIGHT, WIDTH]), '100 pixels for 40x30'),
        (dict(counts=compressed(600, 601), size=[HEIGHT, WIDTH]), '1201 pixels for 40x30'),
        (dict(counts='hello world', size=[HEIGHT, WIDTH]), 'pixels for 40x30'),
        (dict(counts='\u00e9\u6905', size=[HEIGHT, WIDTH]), 'at least 0'),
    ],
)
def test_invalid_segmentations_are_named_by_id(raw, segmentation, message):
    raw.add([RIGHT], category=2).add(segmentation, id=4711)
    assert 'annotation 4711 (a.jpg)' in raw.refused(message)


@pytest.mark.parametrize(
    ('polygon', 'rows', 'columns'),
    [
        ([-20, -20, 20, -20, 20, 50, -20, 50], slice(0, 30), slice(0, 20)),
        ([10, -5, 100, -5, 100, 15, 10, 15], slice(0, 15), slice(10, 40)),
        ([-300, 10, 400, 10, 400, 20, -300, 20], slice(10, 20), slice(0, 40)),
        ([30, 20, 30, 300, 390, 300, 390, 20], slice(20, 30), slice(30, 40)),
    ],
)
def test_beyond_the_edges(raw, polygon, rows, columns, capsys):
    assert raw.add([polygon]).convert() == 0
    expected = np.full((HEIGHT, WIDTH), 255)
    expected[rows, columns] = 0
    np.testing.assert_array_equal(raw.labels(), expected)
    assert 'beyond the edges of their image, clipped: 1 (id 1)' in capsys.readouterr().out


def test_the_smaller_one_is_on_top_whatever_its_area_is_said_to_be(raw):
    raw.add([LEFT], area=3).add([[0, 0, 40, 0, 40, 30, 0, 30]], category=2, area=0)
    assert raw.convert() == 0
    np.testing.assert_array_equal(raw.labels(), halves(0, 1))


# -- whether it belongs to the picture -----------------------------------------------------------


@pytest.mark.parametrize(
    'size', [(400, 300), (20, 15), (30, 40), (41, 30), (40, 0), (40, None), ('40', '30')]
)
def test_another_size_than_the_record(raw, size):
    raw.images[0].update(width=size[0], height=size[1])
    message = raw.add([LEFT]).refused('another size')
    assert f'a.jpg: {size[0]!r}x{size[1]!r} in annotations.json, but 40x30' in message


def test_one_of_many_images_has_another_size(raw):
    for number in range(2, 9):
        raw.save(f'{number}.png', (50, 30) if number == 5 else (40, 30))
        raw.images.append(dict(id=number, file_name=f'{number}.png', **raw.sizes))
    raw.add([LEFT]).refused(r'1 of 8 images .*5\.png: 40x30 in .*, but 50x30')


def test_a_record_without_a_size(raw):
    raw.images[0] = dict(id=1, file_name='a.jpg')
    assert raw.add([LEFT]).convert() == 0
    np.testing.assert_array_equal(raw.labels(), halves(0))


def test_an_unreadable_image_fails_alone(raw, capsys):
    raw.save('b.png')
    raw.images.append(dict(id=2, file_name='b.png', **raw.sizes))
    (raw.folder / 'raw/a.jpg').write_bytes(b'no picture')
    assert raw.add([LEFT]).add([RIGHT], image=2).convert() == 1
    assert 'a.jpg cannot be read' in capsys.readouterr().err
    np.testing.assert_array_equal(raw.labels('b.png'), halves(right=0))


def save_turned(path, upright, orientation):
    """Save an upright image so that its EXIF orientation makes it upright again."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    backward = {6: 8, 8: 6}.get(orientation, orientation)
    inverse = Image.Exif()
    inverse[0x0112] = backward
    upright.info['exif'] = inverse.tobytes()
    stored = ImageOps.exif_transpose(upright)
    stored.save(path, quality=100, subsampling=0, exif=exif.tobytes())


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_upright_as_the_data_set_loads_it(raw, orientation, suffix):
    """The polygon surrounds what is red in the loaded picture."""
    upright = Image.new('RGB', (WIDTH, HEIGHT))
    ImageDraw.Draw(upright).rectangle((0, 0, 15, 7), fill=(255, 0, 0))
    name = f'turned.{suffix}'
    save_turned(raw.folder / 'raw' / name, upright, orientation)
    with Image.open(raw.folder / 'raw' / name) as stored:
        assert stored.size == ((HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT))
    raw.images = [dict(id=1, file_name=name, **raw.sizes)]
    assert raw.add([[0, 0, 16, 0, 16, 8, 0, 8]]).convert() == 0
    (item,) = raw.dataset()
    assert item['img'].shape[:2] == item['gt_seg_map'].shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(item['gt_seg_map'] == 0, item['img'][..., 2] > 127)


@pytest.mark.parametrize('orientation', [5, 6, 7, 8])
def test_a_record_of_the_picture_lying_on_its_side(raw, orientation):
    save_turned(raw.folder / 'raw/a.jpg', Image.new('RGB', (HEIGHT, WIDTH)), orientation)
    raw.add([LEFT]).refused('a.jpg: 40x30 in annotations.json, but 30x40')


@pytest.mark.parametrize('name', ['photo', '.a.jpg', 'deep/._b.png', 'a.jpg.part', 'scan.pdf'])
def test_images_that_the_data_set_would_not_find(raw, name):
    raw.save('a.jpg')
    (raw.folder / 'raw/deep').mkdir()
    (raw.folder / 'raw/a.jpg').rename(raw.folder / 'raw' / name)
    raw.images[0]['file_name'] = name
    raw.add([LEFT]).refused(f"the image '{name}', which data sets do not find")


# -- what occurs twice ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('first', 'second'),
    [
        ('a.jpg', 'a.jpg'),
        ('a.jpg', './a.jpg'),
        ('a.jpg', 'a.png'),
        ('a.jpg', 'a.JPG'),
        ('deep/b.tif', 'deep\\b.webp'),
    ],
)
def test_two_records_of_one_label_map(raw, first, second):
    for name in (first, second):
        raw.save(name.replace('\\', '/'))
    raw.images = [
        dict(id=1, file_name=first, **raw.sizes),
        dict(id=2, file_name=second, **raw.sizes),
    ]
    message = raw.add([LEFT]).add([RIGHT], image=2).refused('would share one label map')
    assert '(id 1)' in message
    assert '(id 2)' in message


@pytest.mark.parametrize('key', [1, 'x'])
def test_an_id_of_two_images(raw, key):
    raw.save('b.jpg')
    raw.images = [dict(id=key, file_name=name, **raw.sizes) for name in ('a.jpg', 'b.jpg')]
    raw.add([LEFT], image=key).refused(f'several images with the id {key!r}')


def test_an_id_of_two_categories(raw):
    raw.categories.insert(1, dict(id=1, name='cat'))
    raw.add([LEFT]).refused('several categories with the id 1')


def test_an_id_of_two_annotations_loses_none(raw):
    """As in files merged from two."""
    assert raw.add([LEFT], id=1).add([RIGHT], category=2, id=1).convert() == 0
    np.testing.assert_array_equal(raw.labels(), halves(0, 1))


# -- names ---------------------------------------------------------------------------------------

NAMES = [
    *('#1 pencil', '# 2', 'car: damaged', 'sign: stop', 'sign: yield', 'note:', ': x', 'a : b'),
    *('door, open', 'door, closed', 'cup | mug', 'x|y', 'sofa,', '"quoted"', '"half', "it's"),
    *('back\\slash', '\\"', '"a": b', '[x]', '{"a": 1}', '- item', 'null', '12', 'ünï 椅子 🪑'),
    *('two\u2028lines', 'two\u2029rows', '\ufeffmark', 'no-break\xa0space', '"#": 3 | 4'),
]


@pytest.mark.parametrize('start', range(3))
def test_names_are_what_they_are(raw, start):
    """In every reader, whichever of them comes first in the file."""
    names = [*NAMES[start * 11 :], *NAMES[: start * 11]]
    raw.categories = [dict(id=i, name=name) for i, name in enumerate(names)]
    for i in range(len(names)):
        raw.add([[i, 0, i + 1, 0, i + 1, 30, i, 30]], category=i)
    assert raw.convert() == 0
    dataset = raw.dataset()
    assert dataset.metainfo['classes'] == tuple(names)
    assert dataset.vocabulary.synonyms == tuple((name,) for name in names)
    assert dataset[0]['gt_seg_map'][0, : len(names)].tolist() == list(range(len(names)))
    config = raw.config
    inspection = inspect_dataset(build_dataset(config), config['pipeline'])
    assert inspection.labels.names == tuple(names)
    assert raw.convert() == 0, 'the file of names is the same'


@pytest.mark.parametrize(
    ('background', 'name', 'synonyms'),
    [
        ('ground', 'ground', ('ground',)),
        ('wall | floor', 'wall | floor', ('wall', 'floor')),
        ('other: wall | floor', 'other', ('wall', 'floor')),
        ('"#0"', '#0', ('#0',)),
    ],
)
def test_background(raw, background, name, synonyms):
    """A line of the file of names, unlike categories."""
    raw.categories[1]['name'] = 'tile, white'
    assert raw.add([LEFT]).convert('--background', background) == 0
    vocabulary = raw.dataset().vocabulary
    assert vocabulary.names == ('dog', 'tile, white', name)
    assert vocabulary.synonyms == (('dog',), ('tile, white',), synonyms)
    np.testing.assert_array_equal(raw.labels(), halves(0, 2))


@pytest.mark.parametrize('background', ['', ' ', '#0', 'a\nb', 'dog', 'Dog: floor'])
def test_backgrounds_that_are_refused(raw, background):
    with pytest.raises(ESCNetError, match=r'--background|listed twice'):
        raw.add([LEFT]).convert('--background', background)
    assert not raw.out.exists()


# -- again, after corrections ----------------------------------------------------------------


def move(raw):
    raw.annotations[0]['segmentation'] = [[0, 0, 10, 0, 10, 30, 0, 30]]


def exchange(raw):
    raw.annotations[0]['category_id'], raw.annotations[1]['category_id'] = 2, 1


def take_away(raw):
    del raw.annotations[1]


def run_lengths(raw):
    counts = [300, 300, 600]
    raw.annotations[0]['segmentation'] = dict(counts=counts, size=[HEIGHT, WIDTH])


@pytest.mark.parametrize('correct', [move, exchange, take_away, run_lengths])
def test_corrected_annotations(raw, correct, capsys):
    """Equal to a conversion from nothing; the other image is kept."""
    raw.save('b.jpg')
    raw.images.append(dict(id=2, file_name='b.jpg', **raw.sizes))
    raw.add([LEFT]).add([RIGHT], category=2).add([RIGHT], image=2)
    assert raw.convert() == 0
    before, other = raw.labels(), (raw.out / 'labels/train/b.png').stat().st_mtime_ns
    correct(raw)
    capsys.readouterr()
    assert raw.convert() == 0
    assert '0 label maps converted, 1 unchanged, 1 updated, 0 failed' in capsys.readouterr().out
    assert not np.array_equal(raw.labels(), before)
    assert (raw.out / 'labels/train/b.png').stat().st_mtime_ns == other
    raw.convert(out=raw.folder / 'new')
    np.testing.assert_array_equal(raw.labels(), raw.labels(out=raw.folder / 'new'))
    capsys.readouterr()
    assert raw.convert() == 0
    assert '0 label maps converted, 2 unchanged, 0 updated' in capsys.readouterr().out


def test_what_does_not_change_the_labels(raw, capsys):
    raw.add([LEFT], iscrowd=0).add([RIGHT], category=2)
    raw.convert()
    raw.annotations[0] |= dict(score=0.5, bbox=[1, 2, 3, 4], id=9)
    raw.images[0]['license'] = 3
    raw.convert()
    assert '0 label maps converted, 1 unchanged, 0 updated' in capsys.readouterr().out


def test_a_correction_that_is_invalid_leaves_no_old_label_map(raw, capsys):
    raw.add([LEFT])
    raw.convert()
    raw.annotations[0]['segmentation'] = dict(counts=[3, 6], size=[3, 3])
    assert raw.convert() == 1
    assert 'annotation 1 of a.jpg (40x30 pixels)' in capsys.readouterr().err
    assert not (raw.out / 'labels/train/a.png').exists()
    with pytest.raises(ESCNetError, match='contains no file'):
        raw.dataset()


def test_label_maps_of_an_earlier_version(raw, capsys):
    """They have no note: right ones are kept, others are replaced, also of other bits."""
    for number, name in enumerate(('b.jpg', 'c.jpg'), 2):
        raw.save(name)
        raw.images.append(dict(id=number, file_name=name, **raw.sizes))
    raw.add([LEFT]).add([RIGHT], image=2).add([LEFT], image=3)
    folder = raw.out / 'labels/train'
    folder.mkdir(parents=True)
    for stem, dtype in zip('abc', (np.uint8, np.uint8, np.uint16), strict=True):
        Image.fromarray(halves(left=0).astype(dtype)).save(folder / f'{stem}.png')
    content = (folder / 'a.png').read_bytes()
    assert raw.convert() == 0
    assert '0 label maps converted, 1 unchanged, 2 updated' in capsys.readouterr().out
    assert (folder / 'a.png').read_bytes() == content
    assert raw.labels('c.png').dtype == np.uint8
    np.testing.assert_array_equal(raw.labels('b.png'), halves(right=0))


def test_changed_categories(raw):
    raw.add([LEFT]).add([RIGHT], category=2)
    raw.convert()
    raw.categories.insert(0, dict(id=0, name='cat'))
    with pytest.raises(ESCNetError, match='remove the file and convert every split again'):
        raw.convert()
    (raw.out / 'names.txt').unlink()
    assert raw.convert() == 0
    np.testing.assert_array_equal(raw.labels(), halves(1, 2))
    assert raw.dataset().metainfo['classes'] == ('cat', 'dog', 'floor')


def test_an_image_that_was_removed(raw, capsys):
    raw.save('b.jpg')
    raw.images.append(dict(id=2, file_name='b.jpg', **raw.sizes))
    raw.add([LEFT])
    raw.convert()
    assert 'warning' not in capsys.readouterr().err
    del raw.images[1]
    assert raw.convert() == 0
    assert f'1 label maps in {raw.out}/labels/train are of no image' in capsys.readouterr().err
