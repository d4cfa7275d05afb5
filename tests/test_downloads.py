"""Downloading published files and comparing them with their digests."""

import hashlib
import http.server
import os
import threading

import pytest

from mmseg_escnet import ESCNetError
from mmseg_escnet.downloads import check_sha256, download
from mmseg_escnet.files import sha256

CONTENT = bytes(range(256)) * 12_000  # 3 MB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends CONTENT, whole or as the server's ``fault`` says."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        self.close_connection = True
        if self.server.fault == 'garbage':
            self.wfile.write(b'this is not HTTP\r\n\r\n')
            return
        if self.path != '/file.bin':
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header('Content-Length', str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:2_000_000] if self.server.fault == 'cut' else CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.fault, server.url = None, f'http://127.0.0.1:{server.server_address[1]}/file.bin'
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / 'new' / 'file.bin'


def test_sha256(tmp_path):
    (tmp_path / 'a').write_bytes(CONTENT)
    assert sha256(tmp_path / 'a') == DIGEST
    check_sha256(tmp_path / 'a', DIGEST)
    with pytest.raises(ESCNetError, match='not the published file') as caught:
        check_sha256(tmp_path / 'a', DIGEST[::-1])
    assert str(tmp_path / 'a') in str(caught.value)


def test_download(server, target, capsys):
    assert download(server.url, target, expected_sha256=DIGEST) == target
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == ['file.bin']
    assert '%' in capsys.readouterr().err  # progress


@pytest.mark.parametrize(
    ('fault', 'expected', 'message'),
    [
        ('cut', DIGEST, 'invalid hash value'),
        ('garbage', None, 'not HTTP'),
        ('404', None, '404'),
        (None, DIGEST[::-1], 'invalid hash value'),
    ],
)
def test_failures_leave_nothing_and_a_second_try_works(server, target, fault, expected, message):
    server.fault = fault
    url = server.url + ('.gz' if fault == '404' else '')
    with pytest.raises(ESCNetError, match=message) as caught:
        download(url, target, expected_sha256=expected)
    assert f'wget -c -O {target} {url}' in str(caught.value)
    assert '\n' not in str(caught.value)
    assert os.listdir(target.parent) == []
    server.fault = None
    download(server.url, target, expected_sha256=DIGEST)
    assert target.read_bytes() == CONTENT


def test_existing_file_is_left_alone(server, target):
    target.parent.mkdir()
    target.write_bytes(b'mine')
    assert download(server.url, target, expected_sha256=DIGEST) == target
    assert target.read_bytes() == b'mine'


def test_nobody_answers(server, target):
    server.shutdown()
    server.server_close()
    with pytest.raises(ESCNetError, match='refused'):
        download(server.url, target)


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ESCNetError, match='Cannot download'):
        download(server.url, tmp_path / 'file' / 'a.bin')
