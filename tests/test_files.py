"""Atomic writes, and notes in PNG files."""

import os
import stat

import numpy as np
import pytest
from PIL import Image

from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import encode_label_map, encode_png, encode_scores, read_note, write_file


def test_the_old_file_or_the_new(tmp_path, monkeypatch):
    target = tmp_path / 'a/b.png'
    write_file(target, b'old')
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', stop)
    with pytest.raises(KeyboardInterrupt):
        write_file(target, b'new')
    assert target.read_bytes() == b'old'
    assert os.listdir(target.parent) == ['b.png']


def test_what_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ESCNetError, match=r'a\.png cannot be written'):
        write_file(tmp_path / 'file/a.png', b'')


def test_notes(tmp_path):
    path = tmp_path / 'a.png'
    labels = np.eye(3, dtype=np.uint8)
    for content in (
        encode_label_map(labels, 'abc:1'),
        encode_scores(labels / 2, 'abc:1'),
        encode_png(Image.new('RGB', (2, 2)), 'abc:1'),
    ):
        path.write_bytes(content)
        assert read_note(path) == 'abc:1'
    for content in (encode_label_map(labels), b'\x89PNG\r\n\x1a\n'):
        path.write_bytes(content)
        assert read_note(path) is None
    assert read_note(tmp_path / 'none.png') is None
    assert read_note(tmp_path) is None
