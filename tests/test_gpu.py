"""The whole model on a GPU against the CPU; skipped without one."""

import pytest
import torch
from conftest import toy_model_cfg
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device'),
]


def build():
    torch.manual_seed(0)
    model = MODELS.build(toy_model_cfg())
    model.set_vocabulary(['cat', 'dog', 'grass', 'wet road'])
    return model


@torch.no_grad()
def test_logits_equal_those_of_the_cpu():
    model = build().eval()
    images = torch.randn(2, 3, 64, 96)
    expected = model.encode_decode(images, [])
    device = torch.device('cuda')
    actual = model.to(device).encode_decode(images.to(device), [])
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('dtype', [None, torch.bfloat16, torch.float16])
def test_a_step_of_training(dtype):
    device = torch.device('cuda')
    model = build().to(device).train()
    images = torch.randn(2, 3, 64, 64, device=device)
    labels = torch.randint(0, 4, (2, 1, 64, 64), device=device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    with torch.autocast('cuda', dtype=dtype, enabled=dtype is not None):
        loss = model.loss(images, samples)['decode.loss_ce']
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
