"""Reading, checking, downloading and strictly loading weights."""

import hashlib
import http.server
import io
import os
import re
import threading

import pytest
import torch
import torch.nn as nn
from safetensors.torch import save_file

from mmseg_escnet import ESCNetError
from mmseg_escnet.files import sha256
from mmseg_escnet.models import weights
from mmseg_escnet.models.weights import (
    check_fit,
    check_sha256,
    download,
    load_strict,
    read_state_dict,
)

# -- reading -------------------------------------------------------------------------------------


def small_net():
    return nn.Sequential(nn.Linear(40, 30), nn.LayerNorm(30))


def save_safetensors(module, path):
    save_file(module.state_dict(), path)


def save_torchscript(module, path):
    # as OpenAI's are: a traced module
    torch.jit.save(torch.jit.trace(module, torch.zeros(2, 40)), path)


def save_torch(module, path):
    torch.save(module.state_dict(), path)


def save_torch_legacy(module, path):
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)


FORMATS = {
    'net.safetensors': (save_safetensors, 'safetensors'),
    'script.pt': (save_torchscript, 'torchscript'),
    'net.pth': (save_torch, 'pickle'),
    'legacy.bin': (save_torch_legacy, 'pickle'),
}


def assert_same(state_dict, module):
    expected = module.state_dict()
    assert sorted(state_dict) == sorted(expected)
    for key, value in expected.items():
        assert torch.equal(state_dict[key], value), key
        assert state_dict[key].dtype == value.dtype
        assert state_dict[key].device.type == 'cpu'


@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_formats(tmp_path, name, dtype):
    save, file_format = FORMATS[name]
    module = small_net()
    if name == 'script.pt' and dtype == torch.float16:
        torch.jit.save(torch.jit.script(module.half()), tmp_path / name)  # half does not trace
    else:
        save(module.to(dtype), tmp_path / name)
    state_dict, found_format = read_state_dict(tmp_path / name)
    assert found_format == file_format
    assert_same(state_dict, module)


@pytest.mark.parametrize('legacy', [False, True])
def test_wrappings(tmp_path, legacy):
    module = small_net()
    own = module.state_dict()
    prefixed = {f'module.{key}': value for key, value in own.items()}
    for content in (
        {'state_dict': own, 'epoch': 3, 'meta': {'name': 'net'}},
        prefixed,
        {'state_dict': prefixed, 'optimizer': {'lr': 0.1}},
    ):
        path = tmp_path / 'net.pt'
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        assert_same(read_state_dict(str(path))[0], module)


def test_prefix_is_taken_off_safetensors_too(tmp_path):
    module = small_net()
    save_file(
        {f'module.{k}': v for k, v in module.state_dict().items()}, tmp_path / 'a.safetensors'
    )
    state_dict, _ = read_state_dict(tmp_path / 'a.safetensors')
    assert sorted(state_dict) == sorted(module.state_dict())


def refusal(path):
    """The one sentence with which a file is refused."""
    with pytest.raises(ESCNetError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert str(path) in message
    assert '\n' not in message
    assert len(message) < 500 + len(str(path))
    return message


@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize('kept', [0.0, 0.02, 0.5, 0.98])
def test_truncated_files_are_refused(tmp_path, name, kept):
    path = tmp_path / name
    FORMATS[name][0](small_net(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert 'damaged' in refusal(path)


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.bin', '.safetensors'])
def test_other_files_are_refused(tmp_path, suffix):
    path = tmp_path / f'weights{suffix}'
    path.write_text('<html>404: not found</html>\n' * 20)
    assert 'damaged' in refusal(path)


def test_missing_file_is_refused(tmp_path):
    assert 'does not exist' in refusal(tmp_path / 'nothing.pth')
    assert 'does not exist' in refusal(tmp_path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([torch.zeros(2)], 'holds a list'),
        (torch.zeros(2), 'holds a Tensor'),
        ({'weight': torch.zeros(2), 'lr': 0.1}, "a float under 'lr'"),
        ({'model': {'weight': torch.zeros(2)}}, "a dict under 'model'"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / 'a.pth')
    assert message in refusal(tmp_path / 'a.pth')


class Malicious:
    """Its pickle would make a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('name', ['a.pth', 'a.pt', 'a.bin', 'a.safetensors'])
def test_nothing_in_a_file_is_executed(tmp_path, legacy, name):
    folder = tmp_path / 'made_by_the_pickle'
    path = tmp_path / name
    torch.save(
        {'state_dict': {'a': torch.zeros(1)}, 'x': Malicious(folder)},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    refusal(path)
    assert not folder.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert folder.is_dir()  # it is malicious indeed


# -- checking and loading ------------------------------------------------------------------------


def test_sha256(tmp_path):
    content = bytes(range(256)) * 9000  # several chunks
    (tmp_path / 'a').write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert sha256(tmp_path / 'a') == digest
    check_sha256(tmp_path / 'a', digest)
    with pytest.raises(ESCNetError, match='not the published file') as caught:
        check_sha256(tmp_path / 'a', digest[::-1])
    assert str(tmp_path / 'a') in str(caught.value)


@pytest.mark.parametrize('prefix', ['', 'net.head.'])
def test_load_strict(prefix):
    source, target = small_net(), small_net()
    state_dict = {prefix + key: value for key, value in source.state_dict().items()}
    if prefix:
        state_dict['other.weight'] = torch.zeros(3)  # not ours to judge
    load_strict(target, state_dict, source='file', prefix=prefix)
    assert_same(target.state_dict(), source)


def test_half_precision_is_loaded_into_single():
    source, target = small_net().half(), small_net()
    load_strict(target, source.state_dict(), source='file')
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight.half(), source[0].weight)


@pytest.mark.parametrize('prefix', ['', 'net.'])
def test_misfits_are_named(prefix):
    module = small_net()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state_dict = {prefix + key: value + 1 for key, value in before.items()}
    state_dict[prefix + '0.scale'] = state_dict.pop(prefix + '0.weight')
    state_dict[prefix + '1.bias'] = torch.zeros(31)
    with pytest.raises(ESCNetError) as caught:
        load_strict(module, state_dict, source='The file', prefix=prefix)
    message = str(caught.value)
    assert message.startswith('The file does not fit Sequential')
    assert f'1 missing ({prefix}0.weight)' in message
    assert f'1 unexpected ({prefix}0.scale)' in message
    assert f'1 of another shape ({prefix}1.bias is (31,) instead of (30,))' in message
    assert_same(before, module)  # nothing was loaded


def test_each_misfit_alone():
    module = small_net()
    for change, message in (
        (lambda d: d.pop('0.weight'), r'1 missing \(0\.weight\); use'),
        (lambda d: d.update(more=torch.zeros(1)), r'1 unexpected \(more\); use'),
        (lambda d: d.update({'0.bias': torch.zeros(30, 1)}), r'1 of another shape \(0\.bias is'),
    ):
        state_dict = module.state_dict()
        check_fit(module, state_dict, source='it')
        change(state_dict)
        with pytest.raises(ESCNetError, match=message):
            check_fit(module, state_dict, source='it')


def test_long_lists_of_misfits_are_cut():
    with pytest.raises(ESCNetError, match=r'9 unexpected \(k0, k1, k2, k3, k4, \.\.\.\)'):
        check_fit(nn.ReLU(), {f'k{i}': torch.zeros(1) for i in range(9)}, source='it')


# -- downloading ---------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 12_000  # 3 MB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Sends CONTENT; the class attributes say how."""

    ranges, cut_after, chunked, garbage = True, None, False, False

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.asked = []
        self.url = f'http://127.0.0.1:{self.server_address[1]}/file.bin'


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        server = self.server
        wanted = self.headers.get('Range')
        server.asked.append(wanted)
        self.close_connection = True
        if server.garbage:
            self.wfile.write(b'this is not HTTP\r\n\r\n')
            return
        if self.path != '/file.bin':
            self.send_error(404)
            return
        start = 0
        if wanted and server.ranges:
            start = int(re.fullmatch(r'bytes=(\d+)-', wanted)[1])
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header('Content-Range', f'bytes */{len(CONTENT)}')
                self.send_header('Content-Length', '0')
                self.end_headers()
                return
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}')
        else:
            self.send_response(200)
        body = CONTENT[start:][: server.cut_after]
        if server.chunked:
            self.send_header('Transfer-Encoding', 'chunked')
            self.end_headers()
            self.wfile.write(f'{len(CONTENT) - start:x}\r\n'.encode() + body)
            if server.cut_after is None:
                self.wfile.write(b'\r\n0\r\n\r\n')
        else:
            self.send_header('Content-Length', str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / 'new' / 'file.bin'


def part_of(target):
    return target.with_name('file.bin.part')


def put_part(target, content):
    target.parent.mkdir()
    part_of(target).write_bytes(content)


@pytest.mark.parametrize('chunked', [False, True])
def test_download(server, target, chunked, capsys):
    server.chunked = chunked
    assert download(server.url, target, expected_sha256=DIGEST) == target
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == ['file.bin']
    assert 'file.bin' in capsys.readouterr().err  # progress


def test_download_is_resumed(server, target):
    put_part(target, CONTENT[:1_000_000])
    download(server.url, target, expected_sha256=DIGEST)
    assert server.asked == ['bytes=1000000-']
    assert target.read_bytes() == CONTENT
    assert not part_of(target).exists()


def test_download_starts_again_where_a_server_cannot_resume(server, target):
    server.ranges = False
    put_part(target, b'?' * 1_000_000)
    download(server.url, target)
    assert server.asked == ['bytes=1000000-']
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize('chunked', [False, True])
def test_cut_connection_and_a_second_try(server, target, chunked):
    server.chunked, server.cut_after = chunked, 2_000_000
    with pytest.raises(ESCNetError, match='run the same command') as caught:
        download(server.url, target, expected_sha256=DIGEST)
    assert server.url in str(caught.value)
    assert not target.exists()
    assert 0 < part_of(target).stat().st_size <= 2_000_000
    assert CONTENT.startswith(part_of(target).read_bytes())
    server.cut_after = None
    download(server.url, target, expected_sha256=DIGEST)
    assert server.asked[1].startswith('bytes=')
    assert target.read_bytes() == CONTENT


def test_whole_part(server, target):
    """The process was killed between the last byte and the renaming."""
    put_part(target, CONTENT)
    download(server.url, target, expected_sha256=DIGEST)
    assert target.read_bytes() == CONTENT


def test_part_of_another_file_is_dropped(server, target):
    put_part(target, CONTENT + b'!')
    with pytest.raises(ESCNetError, match='416'):
        download(server.url, target)
    assert not target.exists()
    assert not part_of(target).exists()
    download(server.url, target)
    assert target.read_bytes() == CONTENT


def test_not_found(server, target):
    with pytest.raises(ESCNetError, match='404'):
        download(server.url + '.gz', target)
    assert not target.exists()
    assert not part_of(target).exists()


def test_wrong_digest_removes_the_part(server, target):
    put_part(target, b'?' * 1_000_000)  # what was there is of another file
    with pytest.raises(ESCNetError, match='not the published file'):
        download(server.url, target, expected_sha256=DIGEST)
    assert os.listdir(target.parent) == []
    download(server.url, target, expected_sha256=DIGEST)
    assert target.read_bytes() == CONTENT


def test_existing_file_is_left_alone(server, target):
    target.parent.mkdir()
    target.write_bytes(b'mine')
    assert download(server.url, target, expected_sha256=DIGEST) == target
    assert target.read_bytes() == b'mine'
    assert server.asked == []


def test_nobody_answers(server, target):
    server.shutdown()
    server.server_close()
    with pytest.raises(ESCNetError, match='check the network') as caught:
        download(server.url, target)
    assert str(target) in str(caught.value)


def test_answer_that_is_not_http(server, target):
    server.garbage = True
    with pytest.raises(ESCNetError, match='Cannot download'):
        download(server.url, target)


def test_silent_server_is_given_up(target, monkeypatch):
    import socket

    monkeypatch.setattr(weights, '_TIMEOUT_SECONDS', 0.2)
    with (
        socket.create_server(('127.0.0.1', 0)) as silent,
        pytest.raises(ESCNetError, match='timed out'),
    ):
        download(f'http://127.0.0.1:{silent.getsockname()[1]}/a', target)


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ESCNetError, match='Cannot download'):
        download(server.url, tmp_path / 'file' / 'a.bin')
