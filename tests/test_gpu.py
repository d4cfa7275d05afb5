"""The whole model on a GPU: in each precision, in another memory format, with many words, compiled.

On the CPU too, as far as that is something else than the reference. Trainings by NCCL and FSDP are
in tests/distributed.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, load_tool, toy_model_cfg
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from packaging.version import Version

from mmseg_escnet.config import forget_pretrained


def build(**kwargs):
    torch.manual_seed(0)
    model = MODELS.build(toy_model_cfg(**kwargs))
    model.set_vocabulary(['cat', 'dog', 'grass', 'wet road'])
    return model


def step(model, images, labels, dtype):
    """Logits and gradients of a training step in a precision, as float32 on the CPU."""
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    # not TF32, which convolutions on a GPU use by default
    with (
        torch.backends.cudnn.flags(allow_tf32=False),
        torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32),
    ):
        logits = model.encode_decode(images, [])
        loss = model.loss(images, samples)['decode.loss_ce']
        loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.cat([parameter.grad.flatten() for parameter in trained])
    return [tensor.detach().cpu().float() for tensor in (logits, gradients)]


# relative errors, four times those of the CPU
@pytest.mark.parametrize(
    ('dtype', 'tolerances'),
    [
        (torch.float32, (1e-3, 1e-2)),
        (torch.bfloat16, (4e-2, 0.25)),
        (torch.float16, (5e-3, 0.1)),
    ],
    ids=['fp32', 'bf16', 'fp16'],
)
def test_training_step_in_each_precision(device, dtype, tolerances):
    """Forward and backward pass, against those in float32 on the CPU."""
    if (device, dtype) == ('cpu', torch.float32):
        pytest.skip('the reference itself')
    images, labels = torch.randn(2, 3, 64, 96), torch.randint(0, 4, (2, 1, 64, 96))
    expected = step(build().train(), images, labels, torch.float32)
    model = build().train().to(device)
    found = step(model, images.to(device), labels.to(device), dtype)
    for one, other, tolerance in zip(found, expected, tolerances, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() <= tolerance * other.norm()
    assert dtype == torch.float32 or not torch.equal(found[0], expected[0]), 'it was no autocast'


@torch.no_grad()
def test_channels_last(device):
    model, images = build().eval().to(device), torch.randn(2, 3, 64, 96, device=device)
    expected = model.encode_decode(images, [])
    model = model.to(memory_format=torch.channels_last)
    found = model.encode_decode(images.to(memory_format=torch.channels_last), [])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_memory_of_many_words(device):
    """In chunks, a word costs a window a few times its E_t; all at once, dozens of times that."""
    peak_memory = load_tool('tools/analysis/benchmark.py').peak_memory
    real = device == 'cuda'
    name = 'escnet/escnet_vitb16_coco-stuff' if real else 'toyworld/escnet_toy'
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    forget_pretrained(cfg.model)
    with torch.device(device):
        model = MODELS.build(cfg.model).eval()
        crop = torch.randn(1, 3, *cfg.model.data_preprocessor.size)
    tokens = model.backbone(crop).image[0, 0].numel()

    def peak(number):
        text = F.normalize(torch.randn(number, model.backbone.embed_dims, device=device), dim=1)
        return peak_memory(lambda: model.logits(crop, text, class_chunk=16), device)

    few, many = peak(171), peak(847)
    if few is None or many is None:
        pytest.skip('this kernel does not forget the highest memory so far')
    assert many < few + (847 - 171) * 6 * 4 * model.neck.embed_dims * tokens
    assert few < many or not real  # a process keeps what it was given


@pytest.mark.skipif(
    Version(torch.__version__) < Version('2.6'), reason='PyTorch cannot trace the whole model'
)
@torch.no_grad()
def test_compiled_network(device, monkeypatch):
    """As one graph, with SAM's own indexing by a mask in it."""
    monkeypatch.setattr(torch._dynamo.config, 'capture_dynamic_output_shape_ops', True)
    backend = 'inductor' if device == 'cuda' else 'eager'  # compilers of a CPU take minutes
    model, images = build(num_blocks=1).eval().to(device), torch.randn(2, 3, 64, 96, device=device)
    text = F.normalize(torch.randn(4, 32, device=device), dim=1)
    compiled = torch.compile(model.logits, backend=backend, fullgraph=True)
    found = compiled(images, text, class_chunk='all')
    torch.testing.assert_close(found, model.logits(images, text), rtol=1e-3, atol=1e-3)
