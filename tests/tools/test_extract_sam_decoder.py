"""tools/model_converters/extract_sam_decoder.py on a small SAM."""

import hashlib
import os

import pytest
import torch
from conftest import load_tool, toy_model_cfg
from mmseg.registry import MODELS
from safetensors import safe_open
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from mmseg_escnet import ESCNetError


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/model_converters/extract_sam_decoder.py')


@pytest.fixture
def sam(tmp_path):
    sam = Sam(
        image_encoder=nn.Linear(300, 500),
        prompt_encoder=PromptEncoder(32, (4, 4), (64, 64), mask_in_chans=8),
        mask_decoder=MaskDecoder(
            transformer_dim=32, transformer=TwoWayTransformer(2, 32, 2, mlp_dim=64)
        ),
    )
    torch.save(sam.state_dict(), tmp_path / 'sam.pth')
    return sam


def neck_of(path):
    cfg = toy_model_cfg(neck=dict(sam_pretrained=str(path)))['neck']
    torch.manual_seed(1)
    neck = MODELS.build(cfg | dict(image_dims=32))
    neck.init_weights()
    return neck.state_dict()


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_result_loads_as_the_whole_does(tool, sam, tmp_path, capsys, suffix):
    source, out = tmp_path / 'sam.pth', tmp_path / 'new' / f'decoder{suffix}'
    tool.main([str(source), str(out)])
    assert os.listdir(out.parent) == [out.name]  # nothing is left behind
    # the image encoder makes up most of the file
    assert out.stat().st_size < source.stat().st_size - 4 * 300 * 500
    whole, part = neck_of(source), neck_of(out)
    for key, value in whole.items():
        assert torch.equal(part[key], value), key
    printed = capsys.readouterr().out
    assert f'sam.pth ({source.stat().st_size / 1e6:.1f} MB)' in printed
    assert f'({out.stat().st_size / 1e6:.1f} MB, 89 tensors)' in printed
    assert f'model.neck.sam_pretrained={out}' in printed

    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if suffix == '.pth':
        metadata = torch.load(out, weights_only=True)['meta']
    else:
        with safe_open(out, 'pt') as file:
            metadata = file.metadata()
    assert metadata == {'source': 'sam.pth', 'source_sha256': digest}


def test_the_extract_of_an_extract_is_the_same(tool, sam, tmp_path):
    first, second = tmp_path / 'a.pth', tmp_path / 'b.pth'
    tool.main([str(tmp_path / 'sam.pth'), str(first)])
    tool.main([str(first), str(second)])
    first, second = (torch.load(path, weights_only=True)['state_dict'] for path in (first, second))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_existing_file_needs_force(tool, sam, tmp_path):
    out = tmp_path / 'out.safetensors'
    out.write_bytes(b'mine')
    arguments = [str(tmp_path / 'sam.pth'), str(out)]
    with pytest.raises(ESCNetError, match='--force'):
        tool.main(arguments)
    assert out.read_bytes() == b'mine'
    tool.main([*arguments, '--force'])
    neck_of(out)


def test_source_is_never_overwritten(tool, sam, tmp_path):
    path = tmp_path / 'sam.pth'
    before = path.read_bytes()
    with pytest.raises(ESCNetError, match='give another name'):
        tool.main([str(path), str(tmp_path / '..' / tmp_path.name / 'sam.pth'), '--force'])
    assert path.read_bytes() == before


@pytest.mark.parametrize('existing', [False, True])
def test_written_whole_or_not_at_all(tool, sam, tmp_path, monkeypatch, existing):
    folder = tmp_path / 'new'
    folder.mkdir()
    out = folder / 'out.safetensors'
    if existing:
        out.write_bytes(b'mine')

    def fail(*args):
        raise OSError('the disk is full')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(ESCNetError, match='disk is full'):
        tool.main([str(tmp_path / 'sam.pth'), str(out), '--force'])
    assert os.listdir(folder) == (['out.safetensors'] if existing else [])
    assert not existing or out.read_bytes() == b'mine'


@pytest.mark.parametrize(
    ('source', 'out', 'message'),
    [
        ('missing.pth', 'out.pth', 'missing.pth does not exist'),
        ('other.pth', 'out.pth', 'is not a SAM checkpoint'),
        ('text.pth', 'out.pth', 'damaged'),
        ('sam_vit_b_01ec64.pth', 'out.pth', 'not the published file'),
        ('sam.pth', 'out.onnx', r'must end in \.safetensors or \.pth'),
        ('sam.pth', 'folder.pth', 'is a folder'),
    ],
)
def test_refusals(tool, sam, tmp_path, source, out, message):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / 'other.pth')
    torch.save(sam.state_dict(), tmp_path / 'sam_vit_b_01ec64.pth')
    (tmp_path / 'text.pth').write_text('not found')
    (tmp_path / 'folder.pth').mkdir()
    with pytest.raises(ESCNetError, match=message):
        tool.main([str(tmp_path / source), str(tmp_path / out)])
    assert not (tmp_path / out).is_file()


def test_official_vit_b(tool, tmp_path):
    from segment_anything import sam_model_registry

    torch.save(sam_model_registry['vit_b']().state_dict(), tmp_path / 'sam.pth')
    tool.main([str(tmp_path / 'sam.pth'), str(tmp_path / 'out.safetensors')])
    assert (tmp_path / 'out.safetensors').stat().st_size == pytest.approx(12.7e6, rel=0.01)
