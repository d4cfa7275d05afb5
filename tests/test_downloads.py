"""Downloading published files and comparing them with their digests."""

import hashlib
import http.server
import os
import threading

import pytest

from mmseg_escnet import ESCNetError
from mmseg_escnet.downloads import check_sha256, download, fetch
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
        if not self.path.startswith('/file'):
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
    url = server.url.replace('/file', '/none' if fault == '404' else '/file')
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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """What torch.hub has downloaded."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    return tmp_path / 'home/hub/checkpoints'


def test_fetch_verifies_by_the_digits_in_the_name(server, cache):
    name = f'file_20261130-{DIGEST[:8]}.safetensors'
    url = server.url.replace('file.bin', f'{name}?download=true')
    assert fetch(url) == cache / name
    assert (cache / name).read_bytes() == CONTENT
    (cache / name).write_bytes(b'damaged')
    assert fetch(url).read_bytes() == CONTENT, 'a damaged one is replaced'
    server.shutdown()
    server.server_close()
    assert fetch(url).read_bytes() == CONTENT, 'nothing to download'


@pytest.mark.parametrize('fault', [None, 'cut'])
def test_fetch_leaves_no_wrong_file(server, cache, fault):
    server.fault = fault
    name = 'file_20261130-01234567.safetensors'
    cache.mkdir(parents=True)
    (cache / name).write_bytes(b'wrong, too')
    wrong = hashlib.sha256(CONTENT if fault is None else CONTENT[:2_000_000]).hexdigest()
    with pytest.raises(ESCNetError, match=f'expected "01234567", got "{wrong}"'):
        fetch(server.url.replace('file.bin', name))
    assert os.listdir(cache) == []


def test_fetch_of_a_name_without_digits(server, cache, tmp_path):
    with pytest.raises(ESCNetError, match=r'file\.bin has no digest.*sha256='):
        fetch(server.url)
    assert fetch(server.url, DIGEST.upper()).read_bytes() == CONTENT
    with pytest.raises(ESCNetError, match='invalid hash value'):
        fetch(server.url, DIGEST[::-1])
    assert os.listdir(cache) == []
    with pytest.raises(ESCNetError, match='not 64 hexadecimal digits'):
        fetch(server.url, DIGEST[:8])
    (tmp_path / 'mine-20261130.pth').write_bytes(b'mine')  # that is a date
    assert fetch(tmp_path / 'mine-20261130.pth') == tmp_path / 'mine-20261130.pth'


def test_fetch_of_a_path(tmp_path):
    right, wrong = (tmp_path / f'a_20261130-{d}.pth' for d in (DIGEST[:8], DIGEST[1:9]))
    for path in (right, wrong):
        path.write_bytes(CONTENT)
    assert fetch(str(right)) == fetch(right, DIGEST) == right
    with pytest.raises(ESCNetError, match=f'SHA-256 is {DIGEST}, not {DIGEST[1:9]}'):
        fetch(wrong)
    assert wrong.exists(), 'it is not ours to delete'
    with pytest.raises(ESCNetError, match='not the published file'):
        fetch(right, DIGEST[::-1])
