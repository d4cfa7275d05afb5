"""Weights stored as the rows that are not zero: written, read, and loaded as any others are."""

import pytest
import torch
from conftest import toy_clip_cfg, toy_model_cfg
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS
from torch import nn

from mmseg_escnet import ESCNetError
from mmseg_escnet.models import OpenCLIPBackbone
from mmseg_escnet.models.sparse_rows import sparse_rows, to_dense
from mmseg_escnet.models.weights import read_state_dict

TOKENS = 'text.token_embedding.weight'
KEY = f'backbone.clip.{TOKENS}'


def few_rows(num_rows=49408, width=32, kept=(0, 7, 320, 49406, 49407), dtype=torch.float32):
    weight = torch.zeros(num_rows, width, dtype=dtype)
    weight[list(kept)] = torch.randn(len(kept), width, dtype=dtype)
    return weight


# -- the tensor and the file ---------------------------------------------------------------------


def test_rows_that_are_not_all_zero():
    weight = torch.zeros(6, 3)
    weight[1, 2], weight[3, 0], weight[5] = -1e-30, torch.nan, 2.0
    sparse = sparse_rows(nn.Parameter(weight))
    assert sparse.layout == torch.sparse_coo
    assert not sparse.requires_grad
    assert sparse.indices().tolist() == [[1, 3, 5]]
    assert torch.equal(sparse.values().nan_to_num(9.0), weight[[1, 3, 5]].nan_to_num(9.0))
    assert sparse.shape == weight.shape


@pytest.mark.parametrize('kept', [(), (2,), (0, 1, 2, 3)])
def test_round_trip_in_memory(kept):
    weight = few_rows(4, 5, kept)
    other = torch.randn(3)
    result = to_dense({'a': sparse_rows(weight), 'b': other}, source='it')
    assert torch.equal(result['a'], weight)
    assert result['a'].layout == torch.strided
    assert result['b'] is other


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('legacy', [False, True])
def test_round_trip_through_a_file(tmp_path, dtype, legacy):
    weight, other = few_rows(dtype=dtype), torch.randn(4, 3)
    content = {'module.a': sparse_rows(weight), 'module.b': other}
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': content}, path, _use_new_zipfile_serialization=not legacy)
    state_dict, file_format = read_state_dict(path)
    assert file_format == 'pickle'
    assert sorted(state_dict) == ['a', 'b']
    for key, value in (('a', weight), ('b', other)):
        assert state_dict[key].layout == torch.strided
        assert state_dict[key].dtype == value.dtype
        assert torch.equal(state_dict[key], value)
    assert torch.load(path, weights_only=True)  # it is read by torch alone too
    assert path.stat().st_size < 5 * (32 * 4 + 8) + 4096


@pytest.mark.parametrize('row', [-1, 50, 2**40])
def test_rows_outside_are_refused(tmp_path, row):
    """torch would write into memory that is not the tensor's."""
    broken = torch.sparse_coo_tensor(
        torch.tensor([[3, row]]), torch.ones(2, 4), (50, 4), check_invariants=False
    )
    torch.save({'a.weight': broken}, tmp_path / 'a.pth')
    with pytest.raises(ESCNetError) as caught:
        read_state_dict(tmp_path / 'a.pth')
    message = str(caught.value)
    assert str(tmp_path / 'a.pth') in message
    assert '\n' not in message
    with pytest.raises(ESCNetError, match=r"damaged sparse tensor under 'a\.weight'"):
        to_dense({'a.weight': broken}, source='it')


@pytest.mark.filterwarnings('ignore:Sparse CSR tensor support is in beta')
def test_other_layouts_are_refused(tmp_path):
    torch.save({'a': torch.eye(3).to_sparse_csr()}, tmp_path / 'a.pth')
    with pytest.raises(ESCNetError, match=r"layout torch\.sparse_csr under 'a': store it dense"):
        read_state_dict(tmp_path / 'a.pth')


# -- the models ----------------------------------------------------------------------------------


def toy_model(seed):
    torch.manual_seed(seed)
    return MODELS.build(toy_model_cfg(num_blocks=1))


@pytest.fixture
def trained():
    """A model with few tokens."""
    model = toy_model(1)
    with torch.no_grad():
        model.backbone.clip.text.token_embedding.weight.copy_(few_rows())
    return model


def sparse_state_dict(model):
    state_dict = model.state_dict()
    state_dict[KEY] = sparse_rows(state_dict[KEY])
    return state_dict


def assert_same_weights(model, other):
    expected, found = model.state_dict(), other.state_dict()
    assert sorted(expected) == sorted(found)
    for key, value in expected.items():
        assert found[key].layout == torch.strided, key
        assert torch.equal(found[key], value), key


def test_load_state_dict(trained):
    state_dict = sparse_state_dict(trained)
    model = toy_model(2)
    parameter = model.backbone.clip.text.token_embedding.weight
    model.load_state_dict(state_dict)
    assert_same_weights(trained, model)
    assert model.backbone.clip.text.token_embedding.weight is parameter
    assert state_dict[KEY].layout == torch.sparse_coo  # what was given is left alone


def test_load_state_dict_of_what_holds_the_model(trained):
    inner = sparse_state_dict(trained)
    outer = nn.ModuleDict({'net': toy_model(2), 'other': nn.Linear(2, 2)})
    state_dict = outer['other'].state_dict(prefix='other.')
    outer.load_state_dict({f'net.{key}': value for key, value in inner.items()} | state_dict)
    assert_same_weights(trained, outer['net'])


@pytest.mark.parametrize('strict', [False, True])
def test_mmengine_load_checkpoint(trained, tmp_path, strict):
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': sparse_state_dict(trained), 'meta': {'epoch': 1}}, path)
    model = toy_model(2)
    load_checkpoint(model, str(path), map_location='cpu', strict=strict)
    assert_same_weights(trained, model)


def by_torch(model, state_dict, path):
    model.load_state_dict(state_dict, strict=False)


def by_mmengine(model, state_dict, path):
    torch.save({'state_dict': state_dict}, path)
    load_checkpoint(model, str(path), map_location='cpu')


@pytest.mark.parametrize('way', [by_torch, by_mmengine])
def test_loading_stays_strict(trained, tmp_path, way):
    def load(change):
        state_dict = sparse_state_dict(trained)
        change(state_dict)
        model = toy_model(2)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises((ESCNetError, RuntimeError)) as caught:
            way(model, state_dict, tmp_path / 'a.pth')
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        return str(caught.value)

    wide = sparse_rows(few_rows(width=33))
    message = load(lambda state_dict: state_dict.update({KEY: wide}))
    assert f'1 of another shape ({KEY} is (49408, 33) instead of (49408, 32))' in message
    long = sparse_rows(few_rows(50000))
    message = load(lambda state_dict: state_dict.update({KEY: long}))
    assert f'{KEY} is (50000, 32) instead of (49408, 32)' in message
    assert f'1 missing ({KEY})' in load(lambda state_dict: state_dict.pop(KEY))
    outside = torch.sparse_coo_tensor(
        torch.tensor([[49408]]), torch.ones(1, 32), (49408, 32), check_invariants=False
    )
    message = load(lambda state_dict: state_dict.update({KEY: outside}))
    ours = f"The checkpoint contains a damaged sparse tensor under '{KEY}'"
    assert message.startswith((ours, 'size is inconsistent with indices'))  # some PyTorch looks


def test_pretrained_clip(trained, tmp_path):
    """The backbone reads such a file as its pretrained weights, as strictly as any."""
    clip = trained.backbone.clip
    state_dict = {key: value.clone() for key, value in clip.state_dict().items()}
    for width, name in ((32, 'good.pth'), (31, 'bad.pth')):
        state_dict[TOKENS] = sparse_rows(clip.state_dict()[TOKENS][:, :width])
        torch.save(state_dict, tmp_path / name)

    def backbone(name):
        return OpenCLIPBackbone(
            model_cfg=toy_clip_cfg(), pretrained=str(tmp_path / name), activation='gelu'
        )

    good = backbone('good.pth')
    good.init_weights()
    assert_same_weights(clip, good.clip)
    with pytest.raises(ESCNetError, match=r'token_embedding\.weight is \(49408, 31\) instead of'):
        backbone('bad.pth').init_weights()
