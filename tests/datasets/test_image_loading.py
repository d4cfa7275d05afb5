"""Every image format becomes (height, width, 3) uint8 in BGR order, or raises a clear error."""

import io
from collections.abc import Iterator

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from mmseg_escnet.datasets import LoadImage
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import decode_image, is_cut_short

RGB = (250, 100, 20)


def load(path, **kwargs):
    results = LoadImage(**kwargs).transform(dict(img_path=str(path)))
    image = results['img']
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert results['ori_shape'] == results['img_shape'] == image.shape[:2]
    return image


@pytest.mark.parametrize('size', [(1, 1), (5, 3)])
def test_colour_png(tmp_path, size):
    Image.new('RGB', size, RGB).save(tmp_path / 'a.png')
    image = load(tmp_path / 'a.png')
    assert image.shape == (size[1], size[0], 3)
    assert (image == RGB[::-1]).all()


def test_grey_palette_and_alpha(tmp_path):
    Image.new('L', (3, 2), 77).save(tmp_path / 'grey.png')
    assert (load(tmp_path / 'grey.png') == 77).all()
    Image.new('LA', (3, 2), (77, 0)).save(tmp_path / 'grey_alpha.png')
    assert (load(tmp_path / 'grey_alpha.png') == 77).all()
    Image.new('RGBA', (3, 2), (*RGB, 0)).save(tmp_path / 'rgba.png')
    assert (load(tmp_path / 'rgba.png') == RGB[::-1]).all()
    palette = Image.new('P', (3, 2), 1)
    palette.putpalette([0, 0, 0, *RGB])
    palette.save(tmp_path / 'palette.png')
    assert (load(tmp_path / 'palette.png') == RGB[::-1]).all()


def test_16_bit_png(tmp_path):
    Image.fromarray(np.full((2, 3), 40000, np.uint16)).save(tmp_path / 'grey.png')
    assert (load(tmp_path / 'grey.png') == 40000 // 256).all()
    bgr = np.full((2, 3, 3), (1000, 40000, 65535), np.uint16)
    cv2.imwrite(str(tmp_path / 'color.png'), bgr)
    assert (load(tmp_path / 'color.png') == (3, 156, 255)).all()


def test_cmyk_jpeg(tmp_path):
    Image.new('CMYK', (16, 16), (0, 255, 255, 0)).save(tmp_path / 'a.jpg')
    image = load(tmp_path / 'a.jpg').astype(int)
    assert np.abs(image - (0, 0, 255)).max() < 8


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new('RGB', (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (20, 0, 40, 20))  # red left, blue right
    exif = Image.Exif()
    exif[0x112] = 6  # turn clockwise to see it upright: red on top
    image.save(tmp_path / 'a.jpg', exif=exif)
    loaded = load(tmp_path / 'a.jpg').astype(int)
    assert loaded.shape == (40, 20, 3)
    assert np.abs(loaded[3, 10] - (0, 0, 255)).max() < 8
    assert np.abs(loaded[36, 10] - (255, 0, 0)).max() < 8


def test_unreadable_files_are_named(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for suffix in ('jpg', 'png'):
        noise.save(tmp_path / f'whole.{suffix}')
        content = (tmp_path / f'whole.{suffix}').read_bytes()
        half = tmp_path / f'half.{suffix}'
        half.write_bytes(content[: len(content) // 2])
        with pytest.raises(ESCNetError, match=rf'half\.{suffix} cannot be decoded'):
            load(half)
    (tmp_path / 'empty.jpg').write_bytes(b'')
    with pytest.raises(ESCNetError, match=r'empty\.jpg cannot be decoded \(it is empty\)'):
        load(tmp_path / 'empty.jpg')
    (tmp_path / 'text.jpg').write_text('hello' * 20)
    with pytest.raises(ESCNetError, match=r'text\.jpg cannot be decoded'):
        load(tmp_path / 'text.jpg')
    with pytest.raises(ESCNetError, match=r'none\.jpg cannot be read \(No such file'):
        load(tmp_path / 'none.jpg')
    assert LoadImage(ignore_empty=True).transform(dict(img_path=str(half))) is None


def test_truncated_jpeg(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for progressive in (False, True):
        noise.save(tmp_path / 'a.jpg', progressive=progressive)
        content = (tmp_path / 'a.jpg').read_bytes()
        assert not is_cut_short(content)
        assert not is_cut_short(content + b'bytes some cameras append')
        for length in (len(content) // 2, len(content) - 2):
            assert is_cut_short(content[:length])
        # A thumbnail in the header has an end mark of its own.
        exif = b'\xff\xe1' + (2 + len(content)).to_bytes(2, 'big') + content
        with_thumbnail = content[:2] + exif + content[2:]
        assert not is_cut_short(with_thumbnail)
        assert is_cut_short(with_thumbnail[:-2])


def jpeg_variants() -> dict[str, bytes]:
    """A part of a photograph, or of something like one, as the encoders of cameras write it."""
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(pixels).resize((72, 50), Image.Resampling.BICUBIC)
    bgr = np.asarray(image)[..., ::-1]
    variants = {}
    for name, options in dict(
        baseline=[],
        progressive=[cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        restart_marks=[cv2.IMWRITE_JPEG_RST_INTERVAL, 1],
    ).items():
        variants[name] = cv2.imencode('.jpg', bgr, options)[1].tobytes()
    buffer = io.BytesIO()
    image.convert('CMYK').save(buffer, 'JPEG', progressive=True)
    variants['cmyk'] = buffer.getvalue()
    baseline = variants['baseline']
    scan = baseline.rindex(b'\xff\xda')
    variants['fill_bytes'] = baseline[:scan] + b'\xff\xff' + baseline[scan:-2] + b'\xff\xff\xff\xd9'
    thumbnail = variants['progressive']
    header = b'\xff\xe1' + (2 + len(thumbnail)).to_bytes(2, 'big') + thumbnail
    comment = b'\xff\xfe\x00\x06\xff\xd9\xff\xda'
    variants['thumbnail'] = baseline[:2] + header + comment + baseline[2:]
    return variants


@pytest.mark.parametrize(('name', 'content'), jpeg_variants().items())
def test_every_truncation_of_a_jpeg(name, content):
    """The whole file decodes as OpenCV and Pillow alone decode it, and no part of it does."""
    whole = decode_image(content, 'Image a')
    for backend in ('cv2', 'pillow'):
        np.testing.assert_allclose(whole, mmcv.imfrombytes(content, backend=backend), atol=3)
    assert not is_cut_short(content)
    for length in range(4, len(content)):
        assert is_cut_short(content[:length]), length
    with pytest.raises(ESCNetError, match='Image a cannot be decoded'):
        decode_image(content[: len(content) // 2], 'Image a')


MARKS = b'\xff\xda', b'\xff\xd8\xff', b'\xff\xd9', b'\xff\xe1', b'\xff\xc0\xff', b'\xff'


def tails(content: bytes, count: int) -> Iterator[bytes]:
    """What may be behind a picture: videos, part of another picture, arbitrary bytes."""
    rng = np.random.default_rng(len(content))
    yield from (content, content[: len(content) // 2], b'\0' * 9, b'ftypmp42\xff\xda\0')
    for _ in range(count):
        parts = [rng.bytes(int(rng.integers(40))) for _ in range(4)]
        yield b''.join(part + MARKS[rng.integers(len(MARKS))] for part in parts)


@pytest.mark.parametrize(('name', 'content'), jpeg_variants().items())
def test_bytes_behind_a_jpeg(name, content):
    whole = decode_image(content, 'Image a')
    for tail in tails(content, 60):
        assert not is_cut_short(content + tail)
        np.testing.assert_array_equal(decode_image(content + tail, 'Image a'), whole)


def test_photographs_with_bytes_behind_them_and_without_their_end(real_samples):
    photographs = sorted(real_samples.rglob('*.jp*g'))
    assert photographs
    for path in photographs:
        content = path.read_bytes()
        whole = decode_image(content, path.name)
        for tail in tails(content, 12):
            assert not is_cut_short(content + tail)
        np.testing.assert_array_equal(decode_image(content + tail, path.name), whole)
        for share in np.random.default_rng(0).random(20):
            part = content[: 4 + int(share * (len(content) - 5))]
            assert is_cut_short(part)
            with pytest.raises(ESCNetError, match='cannot be decoded'):
                decode_image(part, path.name)


def test_float_output(tmp_path):
    Image.new('RGB', (2, 2), RGB).save(tmp_path / 'a.png')
    results = LoadImage(to_float32=True).transform(dict(img_path=str(tmp_path / 'a.png')))
    assert results['img'].dtype == np.float32
