"""Images from wherever people have them, and what is refused."""

import io
import os
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis.images import ImageReader
from mmseg_escnet.datasets import LoadImage

RGB = (250, 100, 20)


def read(image, **kwargs):
    pixels = ImageReader(LoadImage(), **kwargs).read(image, 'Image x')
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)
    return pixels


def encoded(image: Image.Image, kind: str, **kwargs) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


# -- reading -----------------------------------------------------------------------------------


def palette_image() -> Image.Image:
    image = Image.new('P', (3, 2), 1)
    image.putpalette([0, 0, 0, *RGB])
    return image


@pytest.mark.parametrize(
    ('image', 'expected'),
    [
        (Image.new('RGB', (3, 2), RGB), RGB),
        (Image.new('RGBA', (3, 2), (*RGB, 0)), RGB),
        (Image.new('L', (3, 2), 77), (77, 77, 77)),
        (Image.new('LA', (3, 2), (77, 0)), (77, 77, 77)),
        (Image.new('1', (3, 2), 1), (255, 255, 255)),
        (palette_image(), RGB),
        (Image.fromarray(np.full((2, 3), 40_000, np.uint16)), (156, 156, 156)),
        (Image.new('CMYK', (3, 2), (0, 255, 255, 0)), (255, 0, 0)),
    ],
    ids=lambda value: getattr(value, 'mode', None),
)
def test_every_mode(image, expected):
    """As a Pillow image and as a file; CMYK as a JPEG, which may change it a little."""
    kind, tolerance = ('JPEG', 8) if image.mode == 'CMYK' else ('PNG', 1)
    for way in (image, encoded(image, kind)):
        pixels = read(way)
        assert pixels.shape == (2, 3, 3)
        assert np.abs(pixels.astype(int) - expected[::-1]).max() < tolerance


def test_arrays():
    color = np.zeros((2, 3, 3), np.uint8)
    color[:] = RGB
    assert (read(color) == RGB[::-1]).all()
    assert (read(np.dstack([color, color[..., :1]])) == RGB[::-1]).all()
    assert (read(color.astype(np.uint16) * 256 + 3) == RGB[::-1]).all()
    assert (read(color[..., 0]) == 250).all()
    assert (read(color[..., :1]) == 250).all()
    assert (read(color[:, ::-1][::-1]) == RGB[::-1]).all()  # not contiguous


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.zeros((2, 3, 3)), 'array of float64: give uint8'),
        (np.zeros((2, 3, 2), np.uint8), r'shape \(2, 3, 2\)'),
        (np.zeros((0, 3, 3), np.uint8), r'shape \(0, 3, 3\)'),
        (np.zeros((1, 2, 3, 3), np.uint8), r'shape \(1, 2, 3, 3\)'),
        (None, 'is a NoneType: give a path'),
        (7, 'is a int: give a path'),
        (b'', 'cannot be decoded .it is empty'),
        (b'hello' * 100, 'cannot be decoded .it is damaged or not an image'),
        (Image.new('F', (2, 2)), 'floating point'),
        ('a\0b', 'cannot be read'),
        (os.sep, 'is not a regular file'),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image(image, message):
    with pytest.raises(ESCNetError, match=f'Image x .*{message}'):
        read(image)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'PPM'])
def test_damaged_files(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8))
    content = encoded(noise, kind)
    assert read(content).shape == (64, 48, 3)
    for share in (0.02, 0.5, 0.97):
        with pytest.raises(ESCNetError, match='cannot be decoded'):
            read(content[: int(share * len(content))])


def test_a_lazy_pillow_image_whose_end_is_missing():
    content = encoded(Image.fromarray(np.zeros((64, 48, 3), np.uint8)), 'PNG')
    image = Image.open(io.BytesIO(content[:-40]))
    with pytest.raises(ESCNetError, match='cannot be decoded'):
        read(image)


def bomb(width: int, height: int) -> bytes:
    """A small PNG file that becomes width x height pixels."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data).to_bytes(4, 'big')
        return len(data).to_bytes(4, 'big') + kind + data + checksum

    header = width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + bytes([8, 0, 0, 0, 0])
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0'))


@pytest.mark.parametrize(
    ('side', 'message'),
    [(9_001, '9001x9001 pixels'), (60_000, 'over .* pixels')],
)
def test_decompression_bombs_are_not_decoded(side, message, monkeypatch):
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('decoded'))
    with pytest.raises(ESCNetError, match=f'Image x has {message}'):
        read(bomb(side, side))


def test_the_limit_is_an_argument():
    image = Image.new('RGB', (30, 20), RGB)
    for way in (image, np.array(image), encoded(image, 'PNG')):
        assert read(way, max_pixels=600).shape == (20, 30, 3)
        with pytest.raises(ESCNetError, match='30x20 pixels, and images of up to 599 pixels'):
            read(way, max_pixels=599)


def test_files_larger_than_any_image_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / 'huge.png'
    with open(path, 'wb') as file:
        file.truncate(1 << 40)  # a sparse file
    with pytest.raises(ESCNetError, match=f'{1 << 40} bytes'):
        read(path)


# -- finding -----------------------------------------------------------------------------------
