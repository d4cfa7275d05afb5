"""NaN and Inf: named with the tensor in which they begin and the iteration, and never saved."""

import pytest
import torch
from conftest import toy_model_cfg
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_escnet import ESCNetError
from mmseg_escnet.models.finite import origin


@pytest.fixture
def model():
    model = MODELS.build(toy_model_cfg()).eval()
    model.set_vocabulary(['sky', 'tree', 'road'])
    return model


@pytest.fixture
def images():
    return torch.randn(1, 3, 64, 64)


@pytest.fixture
def samples():
    return [SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 64, 64, dtype=torch.long)))]


def spoil(module, value=float('nan')):
    """From now on one number of the module's output is not finite."""

    def hook(_, __, output):
        output = output.clone()
        output[(0,) * output.dim()] = value
        return output

    module.register_forward_hook(hook)


class TestLoss:
    def test_names_loss_module_and_iteration(self, model, images, samples):
        MessageHub.get_current_instance().update_info('iter', 41)
        spoil(model.neck.blocks[1].sam_block.layers['1'].mlp.lin1)
        where = r'iteration 41: .* the output of neck\.blocks\.1\.sam_block\.layers\.1\.mlp\.lin1;'
        with pytest.raises(ESCNetError, match=rf'loss_ce is not finite .* in {where}'):
            model.train().loss(images, samples)

    def test_names_the_weights(self, model, images, samples):
        with torch.no_grad():
            model.neck.blocks[0].sam_block.layers['0'].norm1.weight[0] = float('inf')
        with pytest.raises(
            ESCNetError, match=r'the weights neck\.blocks\.0\.sam_block\.layers\.0\.norm1\.weight;'
        ):
            model.train().loss(images, samples)

    def test_names_the_images(self, model, images, samples):
        images[0, 1, 2, 3] = float('nan')
        with pytest.raises(ESCNetError, match='it begins in the images'):
            model.train().loss(images, samples)

    def test_a_finite_loss_passes(self, model, images, samples):
        assert model.train().loss(images, samples)['decode.loss_ce'].isfinite()


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('shortlist', [None, dict(top_k=2)])
def test_labels_are_not_chosen_among_nan(model, images, samples, value, shortlist):
    model.test_cfg.shortlist = shortlist
    spoil(model.neck.blocks[0].sam_block.fuse, value)
    with pytest.raises(ESCNetError, match=r'output of neck\.blocks\.0\.sam_block\.fuse'):
        model.predict(images, samples)


def test_an_unchanged_model_predicts(model, images, samples):
    assert model.predict(images, samples)[0].pred_sem_seg.data.shape == (1, 64, 64)


@pytest.mark.parametrize('value', [float('nan'), float('-inf')])
def test_checkpoint(model, value):
    state_dict = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    name = 'decode_head.predict_logits.bias'
    state_dict[name].view(-1)[0] = value
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ESCNetError, match=f'not finite .*{name}'):
        model.load_state_dict(state_dict)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_first_module_is_named(images):
    """Not the one that got it from another."""
    chain = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.ReLU(), torch.nn.Conv2d(3, 3, 1))
    spoil(chain[1])
    assert origin(chain, images, lambda: chain(images)) == 'the output of 1'
    assert not any(module._forward_hooks for module in (chain[0], chain[2]))


def test_configs_have_the_hook(root):
    cfg = Config.fromfile(root / 'configs/escnet/escnet_vitl14_coco-stuff.py')
    assert dict(type='FiniteHook') in cfg.custom_hooks
