"""Reading, checking and strictly loading weights."""

import argparse
import io
import os
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from safetensors.torch import save_file

from mmseg_escnet import ESCNetError
from mmseg_escnet.files import sha256
from mmseg_escnet.models import weights
from mmseg_escnet.models.weights import check_fit, load_strict, read_state_dict

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


@pytest.fixture
def openai(monkeypatch):
    """Take a file for one that OpenAI published."""
    return lambda path: monkeypatch.setattr(weights, '_openai_digests', lambda: {sha256(path)})


@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_formats(tmp_path, name, dtype, openai):
    save, file_format = FORMATS[name]
    module = small_net()
    if name == 'script.pt' and dtype == torch.float16:
        torch.jit.save(torch.jit.script(module.half()), tmp_path / name)  # half does not trace
    else:
        save(module.to(dtype), tmp_path / name)
    openai(tmp_path / name)
    state_dict, found_format = read_state_dict(tmp_path / name)
    assert found_format == file_format
    assert_same(state_dict, module)


def test_torchscript_of_others_is_refused(tmp_path, monkeypatch):
    save_torchscript(small_net(), tmp_path / 'script.pt')
    monkeypatch.setattr(torch.jit, 'load', lambda *_, **__: pytest.fail('it was read'))
    assert "is not one of OpenAI's: save its state dict" in refusal(tmp_path / 'script.pt')


def test_published_digests():
    digests = weights._openai_digests()
    assert len(digests) >= 9
    assert '5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f' in digests  # B/16
    assert all(len(digest) == 64 and int(digest, 16) for digest in digests)


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
        ([torch.zeros(2)], 'contains a list'),
        (torch.zeros(2), 'contains a Tensor'),
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


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize(
    ('content', 'what'),
    [
        (argparse.Namespace(lr=0.1), 'argparse.Namespace'),
        (Path('a'), 'pathlib'),
        (nn.Linear(2, 2), 'torch.nn.modules.linear.Linear'),
        (Fraction(1, 2), 'fractions.Fraction'),
    ],
)
def test_nobody_is_advised_to_run_what_is_in_a_file(tmp_path, legacy, content, what):
    """As PyTorch's message does, in colours."""
    path = tmp_path / 'a.pth'
    saved = {'state_dict': {'a': torch.zeros(1)}, 'x': content}
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    message = refusal(path)
    assert what in message
    assert 'save its state dict alone' in message
    assert_no_advice(message)


@pytest.mark.parametrize(
    'content', [b'<html>not found</html>', b'\x80\x02]q\x00.', b'\x95', b'hello']
)
def test_what_pytorch_did_not_write(tmp_path, content):
    (tmp_path / 'a.pth').write_bytes(content)
    assert_no_advice(refusal(tmp_path / 'a.pth'))


def assert_no_advice(message: str) -> None:
    assert 'weights_only' not in message
    assert 'PyTorch' not in message
    assert '\x1b' not in message


# -- checking and loading ------------------------------------------------------------------------


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
    with pytest.raises(ESCNetError, match=r'9 unexpected \(k0, k1, k2, k3, k4 and 4 more\)'):
        check_fit(nn.ReLU(), {f'k{i}': torch.zeros(1) for i in range(9)}, source='it')
