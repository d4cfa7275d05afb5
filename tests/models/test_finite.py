"""NaN and Inf: refused in weights and in scores."""

import pytest
import torch
from conftest import toy_model_cfg
from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_escnet import ESCNetError


@pytest.fixture
def model():
    model = MODELS.build(toy_model_cfg()).eval()
    model.set_vocabulary(['sky', 'tree', 'road'])
    return model


@pytest.fixture
def images():
    return torch.randn(1, 3, 64, 64)


def spoil(module, value=float('nan')):
    """From now on one number of the module's output is not finite."""

    def hook(_, __, output):
        output = output.clone()
        output[(0,) * output.dim()] = value
        return output

    module.register_forward_hook(hook)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('shortlist', [None, dict(top_k=2)])
def test_labels_are_not_chosen_among_nan(model, images, value, shortlist):
    model.test_cfg.shortlist = shortlist
    spoil(model.neck.blocks[0].sam_block.fuse, value)
    with pytest.raises(ESCNetError, match='scores are not finite'):
        model.predict(images)


def test_an_unchanged_model_predicts(model, images):
    assert model.predict(images)[0].pred_sem_seg.data.shape == (1, 64, 64)


@pytest.mark.parametrize('value', [float('nan'), float('-inf')])
def test_checkpoint(model, value):
    state_dict = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    name = 'decode_head.predict_logits.bias'
    state_dict[name].view(-1)[0] = value
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ESCNetError, match=f'not finite .*{name}'):
        model.load_state_dict(state_dict)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_configs_have_the_hook(root):
    cfg = Config.fromfile(root / 'configs/escnet/escnet_vitl14_coco-stuff.py')
    assert dict(type='FiniteHook') in cfg.custom_hooks
