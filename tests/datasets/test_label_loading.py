"""Ids are loaded unchanged, or raise an error."""

import io
import struct
import zlib

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image

from mmseg_escnet.datasets import LoadLabelMap
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import decode_label_map, encode_label_map, png_header


@pytest.fixture(autouse=True)
def _mmseg_scope():
    init_default_scope('mmseg')


def write_png(path, array, mode=None, **kwargs):
    Image.fromarray(array, mode).save(path, **kwargs)
    return str(path)


def write_grey_png_of_4_bits(path, ids):
    """By hand: which libraries write such files depends on their version."""
    height, width = ids.shape
    rows = ids.astype(np.uint8).reshape(height, width // 2, 2)
    packed = (rows[..., 0] << 4) | rows[..., 1]
    data = b''.join(b'\0' + row.tobytes() for row in packed)  # filter 0 before each row

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', checksum)

    header = struct.pack('>IIBBBBB', width, height, 4, 0, 0, 0, 0)
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(data))
        + chunk(b'IEND', b'')
    )


def load(path, **info):
    return LoadLabelMap().transform(dict(seg_map_path=str(path), seg_fields=[], **info))[
        'gt_seg_map'
    ]


WIDE = np.array([[0, 255, 256, 300], [846, 65535, 700, 511]], np.uint16)


def test_wide_ids_survive_the_training_pipeline(tmp_path):
    # Blocks of 16 pixels, so that resizing moves borders but must not invent ids.
    ids = np.kron(WIDE, np.ones((16, 16), np.uint16))
    label = write_png(tmp_path / 'a.png', ids)
    image = write_png(tmp_path / 'a.jpg', np.zeros((32, 64, 3), np.uint8))
    info = dict(
        img_path=image,
        seg_map_path=label,
        seg_fields=[],
        num_classes=847,
        ignore_index=65535,
        label_map=None,
        reduce_zero_label=False,
    )
    steps = [
        dict(type='LoadImage'),
        dict(type='LoadLabelMap'),
        dict(type='Resize', scale=(128, 64), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(64, 128), cat_max_ratio=0.9, ignore_index=65535),
        dict(type='RandomFlip', prob=1.0),
        dict(type='PhotoMetricDistortion'),
        dict(type='Pad', size=(128, 80), pad_val=dict(img=0, seg=65535)),
        dict(type='PackSegInputs'),
    ]
    packed = Compose(steps)(info)
    found = packed['data_samples'].gt_sem_seg.data
    expected = np.kron(WIDE, np.ones((32, 32), np.int64))[:, ::-1]
    expected = np.pad(expected, ((0, 16), (0, 0)), constant_values=65535)
    assert found.shape == (1, 80, 128)
    np.testing.assert_array_equal(found[0].numpy(), expected)
    assert packed['inputs'].shape == (3, 80, 128)


def test_palette_png_gives_indices(tmp_path):
    image = Image.fromarray(np.array([[0, 5], [20, 255]], np.uint8), 'P')
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(tmp_path / 'a.png')
    loaded = load(tmp_path / 'a.png', num_classes=21)
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, [[0, 5], [20, 255]])


@pytest.mark.parametrize(
    ('ignore_index', 'dtype'), [(255, 'u1'), (65535, 'u2'), (200, 'u1'), (255, 'u2'), (256, 'u1')]
)
def test_reduce_zero_label(tmp_path, ignore_index, dtype):
    """Also where an ignored -1 or 256 of 8 bits would happen to be 255 or 0."""
    ignored = ignore_index if ignore_index <= np.iinfo(dtype).max else 0
    path = write_png(tmp_path / 'a.png', np.array([[0, 1, 150], [2, ignored, 3]], dtype))
    loaded = load(path, reduce_zero_label=True, num_classes=150, ignore_index=ignore_index)
    np.testing.assert_array_equal(loaded, [[ignore_index, 0, 149], [1, ignore_index, 2]])


def test_label_map_swaps_without_repeated_replacement(tmp_path):
    path = write_png(tmp_path / 'a.png', np.array([[0, 1, 2, 255]], np.uint8))
    loaded = load(path, label_map={0: 1, 1: 0, 2: 255}, num_classes=2)
    np.testing.assert_array_equal(loaded, [[1, 0, 255, 255]])


def test_label_map_to_ids_wider_than_the_file(tmp_path):
    path = write_png(tmp_path / 'a.png', np.array([[0, 1]], np.uint8))
    loaded = load(path, label_map={0: 300, 1: 2}, num_classes=400, ignore_index=65535)
    np.testing.assert_array_equal(loaded, [[300, 2]])


def test_same_as_mmseg_where_8_bits_suffice(tmp_path):
    from mmseg.datasets.transforms import LoadAnnotations

    rng = np.random.default_rng(0)
    path = write_png(tmp_path / 'a.png', rng.integers(0, 151, (40, 30)).astype(np.uint8))
    info = dict(
        seg_map_path=path,
        reduce_zero_label=True,
        label_map={i: (i * 7) % 150 for i in range(150)},
    )
    theirs = LoadAnnotations().transform(dict(info, seg_fields=[]))['gt_seg_map']
    ours = LoadLabelMap().transform(dict(info, seg_fields=[]))
    np.testing.assert_array_equal(ours['gt_seg_map'], theirs)
    assert ours['seg_fields'] == ['gt_seg_map']


def test_without_label_path_nothing_happens():
    assert LoadLabelMap().transform(dict(img_path='a.jpg')) == dict(img_path='a.jpg')


@pytest.mark.parametrize(
    ('info', 'message'),
    [
        (dict(num_classes=171), r'a\.png holds id 171, 200, but .* classes 0 to 170 and ignores'),
        (dict(num_classes=171, label_map=dict.fromkeys(range(171), 0)), 'holds id 171, 200'),
        (dict(num_classes=170, reduce_zero_label=True), 'id 171, 200, but .* classes 1 to 170'),
        (dict(ori_shape=(1, 6)), 'is 5x1 pixels but its image .* is 6x1'),
        (dict(ori_shape=(5, 1)), 'EXIF'),
    ],
)
def test_wrong_labels_name_the_file(tmp_path, info, message):
    path = write_png(tmp_path / 'a.png', np.array([[0, 170, 171, 200, 255]], np.uint8))
    with pytest.raises(ESCNetError, match=message):
        load(path, **info)


def test_id_255_of_a_wide_set_is_a_class(tmp_path):
    path = write_png(tmp_path / 'a.png', np.array([[255, 65535]], np.uint16))
    loaded = load(path, num_classes=459, ignore_index=65535)
    np.testing.assert_array_equal(loaded, [[255, 65535]])
    with pytest.raises(ESCNetError, match='holds id 65535'):
        load(path, num_classes=459, ignore_index=255)


def test_conflicting_ignore_index(tmp_path):
    path = write_png(tmp_path / 'a.png', np.zeros((1, 1), np.uint8))
    with pytest.raises(ESCNetError, match=r'ignore_index=255 but the data set .* has 65535'):
        LoadLabelMap(ignore_index=255).transform(dict(seg_map_path=path, ignore_index=65535))
    with pytest.raises(ESCNetError, match='ignore_index=-1'):
        LoadLabelMap(ignore_index=-1)


def test_unreadable_label_maps(tmp_path):
    with pytest.raises(ESCNetError, match=r'none\.png cannot be read \(No such file'):
        load(tmp_path / 'none.png')
    content = encode_label_map(np.random.default_rng(0).integers(0, 171, (64, 64), np.uint8))
    for damaged in (content[: len(content) // 2], b''):
        (tmp_path / 'a.png').write_bytes(damaged)
        with pytest.raises(ESCNetError, match=r'a\.png cannot be decoded'):
            load(tmp_path / 'a.png')


def test_files_that_are_not_label_maps(tmp_path):
    write_png(tmp_path / 'rgb.png', np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ESCNetError, match=r'rgb\.png has 3 channel\(s\)'):
        load(tmp_path / 'rgb.png')
    write_grey_png_of_4_bits(tmp_path / 'four.png', np.arange(16).reshape(4, 4))
    with pytest.raises(ESCNetError, match=r'four\.png is a grey PNG of 4 bits'):
        load(tmp_path / 'four.png')
    for suffix, options in (
        ('jpg', {}),
        ('jp2', {}),
        ('webp', {}),
        ('tif', {'compression': 'jpeg'}),
    ):
        write_png(tmp_path / f'a.{suffix}', np.zeros((8, 8), np.uint8), **options)
        with pytest.raises(ESCNetError, match='lossy'):
            load(tmp_path / f'a.{suffix}')


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_encoded_label_maps_decode_equal(dtype, tmp_path):
    ids = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (7, 5)).astype(dtype)
    content = encode_label_map(ids)
    decoded = decode_label_map(content, 'a.png')
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, ids)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(content))), ids)
    (tmp_path / 'a.png').write_bytes(content)
    assert png_header(tmp_path / 'a.png') == (7, 5, 8 * ids.itemsize)
    (tmp_path / 'a.png').write_bytes(content[:9])
    assert png_header(tmp_path / 'a.png') is None


def test_wider_arrays_are_not_cast():
    with pytest.raises(TypeError, match='int64'):
        encode_label_map(np.full((2, 2), 300))
