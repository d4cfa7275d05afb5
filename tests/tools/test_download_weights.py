"""tools/download_weights.py, without a network."""

import hashlib
import re
import shlex

import pytest
from conftest import load_tool

from mmseg_escnet import ESCNetError
from mmseg_escnet.models import clip_weights, sam_weights

CONTENT = b'a checkpoint'


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/download_weights.py')


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder in place of the server, with files of known digests in it."""
    folder = tmp_path / 'server'
    folder.mkdir()
    for name in sam_weights.OFFICIAL_SAM_FILES:
        (folder / name).write_bytes(CONTENT)
        monkeypatch.setitem(
            sam_weights.OFFICIAL_SAM_FILES, name, hashlib.sha256(CONTENT).hexdigest()
        )

    def urlopen(request):
        from email.message import Message
        from urllib.response import addinfourl

        name = request.full_url.removeprefix('https://dl.fbaipublicfiles.com/segment_anything/')
        return addinfourl(open(folder / name, 'rb'), Message(), request.full_url, 200)

    monkeypatch.setattr('torch.hub.urlopen', urlopen)
    monkeypatch.chdir(tmp_path)
    return folder


def test_every_official_file_has_a_command(tool):
    assert set(tool.SAM_FILES.values()) == set(sam_weights.OFFICIAL_SAM_FILES)


@pytest.mark.parametrize('name', ['sam-vit-b', 'sam-vit-l', 'sam-vit-h'])
def test_sam(tool, server, tmp_path, capsys, name):
    file_name = tool.SAM_FILES[name]
    assert name.replace('-', '_') in file_name
    tool.main([name])
    assert (tmp_path / 'data' / 'weights' / file_name).read_bytes() == CONTENT
    assert capsys.readouterr().out == f'data/weights/{file_name}\n'
    tool.main([name, '--out', 'elsewhere/deep'])
    assert (tmp_path / 'elsewhere' / 'deep' / file_name).read_bytes() == CONTENT


def test_existing_file_is_checked_and_kept(tool, server, tmp_path, capsys):
    file = tmp_path / 'sam_vit_b_01ec64.pth'
    file.write_bytes(CONTENT)
    (server / file.name).unlink()  # so it cannot be downloaded again
    tool.main(['sam-vit-b', '--out', str(tmp_path)])
    assert 'exists: verifying it' in capsys.readouterr().err
    file.write_bytes(b'other')
    with pytest.raises(ESCNetError, match='not the published file'):
        tool.main(['sam-vit-b', '--out', str(tmp_path)])
    assert file.read_bytes() == b'other'


def test_tampered_file_is_refused(tool, server):
    (server / 'sam_vit_b_01ec64.pth').write_bytes(b'tampered with')
    with pytest.raises(ESCNetError, match='invalid hash value'):
        tool.main(['sam-vit-b'])


def test_clip(tool, monkeypatch, capsys):
    asked = []

    def find_clip(model, tag):
        asked.append((model, tag))
        return f'/cache/{model}', True

    monkeypatch.setattr(clip_weights, 'find_clip', find_clip)
    tool.main(['clip'])
    tool.main(['clip', '--model', 'ViT-L-14-336', '--tag', 'laion'])
    assert asked == [('ViT-B-16', 'openai'), ('ViT-L-14-336', 'laion')]
    assert capsys.readouterr().out == '/cache/ViT-B-16\n/cache/ViT-L-14-336\n'


def test_unknown_weights(tool, capsys):
    with pytest.raises(SystemExit) as caught:
        tool.main(['sam-vit-x'])
    assert caught.value.code == 2
    with pytest.raises(ESCNetError, match='ViT-B-17'):
        tool.main(['clip', '--model', 'ViT-B-17'])


@pytest.mark.parametrize('file_name', sam_weights.OFFICIAL_SAM_FILES)
def test_command_in_the_message_of_a_missing_sam_works(tool, server, file_name):
    for path in (f'data/weights/{file_name}', f'my weights/{file_name}'):
        with pytest.raises(ESCNetError) as caught:
            sam_weights.find_sam(path)
        command = re.search('`mmseg-escnet download (.*?)`', str(caught.value))[1]
        tool.main(shlex.split(command))
        assert sam_weights.find_sam(path).read_bytes() == CONTENT


def test_command_in_the_message_of_a_missing_clip_is_understood(tool, monkeypatch):
    def fail(tag):
        raise OSError('no network')

    monkeypatch.setattr(clip_weights, '_find_in_cache', fail)
    with pytest.raises(ESCNetError) as caught:
        clip_weights.find_clip('ViT-B-16', 'openai')
    command = re.search('`mmseg-escnet download (.*?)`', str(caught.value))[1]
    args = tool.parse_args(shlex.split(command))
    assert (args.weights, args.model, args.tag) == ('clip', 'ViT-B-16', 'openai')
