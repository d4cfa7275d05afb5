"""2,200 damaged weights files, images and label maps: the right result or one clear sentence."""

import io
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from damage import damaged, outcome, watchdog

from mmseg_escnet.apis.images import ImageReader
from mmseg_escnet.files import decode_image, decode_label_map, encode_label_map
from mmseg_escnet.models.weights import read_state_dict

SECONDS = 300  # for what takes ten


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 10), nn.LayerNorm(10))


def write(name: str, path: Path) -> None:
    if name == 'safetensors':
        save_file(net().state_dict(), path)
    else:
        torch.save(net().state_dict(), path, _use_new_zipfile_serialization=name == 'archive')


SUFFIXES = dict(safetensors='.safetensors', archive='.pth', legacy='.bin')


@pytest.mark.parametrize('name', SUFFIXES)
def test_weights(tmp_path, name):
    """Where the format has checksums not a number differs; elsewhere all are at least finite."""
    path = tmp_path / f'net{SUFFIXES[name]}'
    write(name, path)
    expected = read_state_dict(path)[0]
    refused = 0
    with watchdog(SECONDS):
        for content in damaged(path.read_bytes(), 400):
            path.write_bytes(content)
            found, message = outcome(partial(read_state_dict, path))
            if message is not None:
                assert str(path) in message
                refused += 1
            elif name == 'archive':
                assert found[0].keys() == expected.keys()
                assert all(torch.equal(found[0][key], value) for key, value in expected.items())
            else:
                assert all(value.isfinite().all() for value in found[0].values())
    assert refused > 150


def photograph() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(pixels).resize((40, 30), Image.Resampling.BICUBIC)


@pytest.mark.parametrize('name', ['png', 'jpeg', 'webp', 'tiff', 'bmp'])
def test_images(name):
    buffer = io.BytesIO()
    photograph().save(buffer, name)
    reader = ImageReader(LoadImageFromFile(imdecode_backend='cv2'), max_pixels=10_000)
    refused = 0
    with watchdog(SECONDS):
        for content in damaged(buffer.getvalue(), 140):
            pixels, message = outcome(partial(reader.read, content, 'Image a'))
            if message is not None:
                assert message.startswith('Image a ')
                refused += 1
            else:
                assert pixels.dtype == np.uint8
                assert pixels.ndim == 3
                assert pixels.shape[2] == 3
                assert 0 < pixels.shape[0] * pixels.shape[1] <= 10_000
    assert refused > 10


def test_every_bit_at_the_end_of_a_png():
    """Decoders stop after the last pixel, before they would compare the last checksum."""
    ids = np.random.default_rng(0).integers(0, 900, (40, 40), np.uint16)
    content = encode_label_map(ids)
    expected, refused = decode_image(content, 'Image a.png'), 0
    for place in range(len(content) - 100, len(content)):
        for bit in range(8):
            copy = bytearray(content)
            copy[place] ^= 1 << bit
            found, message = outcome(partial(decode_label_map, bytes(copy), 'a.png'))
            pixels, why = outcome(partial(decode_image, bytes(copy), 'Image a.png'))
            assert message or np.array_equal(found, ids)
            assert why or np.array_equal(pixels, expected)
            refused += 'its checksum differs' in f'{message}' and 'its checksum differs' in f'{why}'
    assert refused > 500


def test_what_is_behind_a_png_is_not_checked():
    """It ends with its last chunk."""
    ids = np.arange(12, dtype=np.uint16).reshape(3, 4)
    content = encode_label_map(ids) + b'\0\0\0\4IDATlike a chunk'
    np.testing.assert_array_equal(decode_label_map(content, 'a.png'), ids)
    assert decode_image(content, 'Image a.png').shape[:2] == (3, 4)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_label_maps(dtype):
    """A PNG has checksums: an id that differs is never returned."""
    ids = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (20, 30), dtype, endpoint=True)
    buffer = io.BytesIO()
    Image.fromarray(ids).save(buffer, 'png')
    refused = 0
    with watchdog(SECONDS):
        for content in damaged(buffer.getvalue(), 200):
            found, message = outcome(partial(decode_label_map, content, 'a.png'))
            if message is not None:
                assert message.startswith('Label map a.png ')
                refused += 1
            else:
                np.testing.assert_array_equal(found, ids)
    assert refused > 100
