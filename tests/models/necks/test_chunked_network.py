"""Neck and head in chunks of classes against the plain network of tests/models/plain_escnet.py.

In float64, so that what is left between the two is rounding alone, of outputs and gradients.
"""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import toy_model_cfg
from mmseg.registry import MODELS
from models.plain_escnet import plain_head, plain_neck
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmseg_escnet.models.backbones.open_clip import DenseFeatures

D, SKIP_DIMS, CLASSES = 32, 12, 5
HEIGHT, WIDTH = 8, 4  # no multiples of the windows of 3
VARIANTS = {
    'points and masks': {},
    'points': dict(prompt_encoder=dict(prompts=('points',))),
    'masks': dict(prompt_encoder=dict(prompts=('masks',))),
    'boxes': dict(prompt_encoder=dict(prompts=('boxes',))),
    'all prompts': dict(prompt_encoder=dict(prompts=('points', 'boxes', 'masks'))),
    'presence': dict(sam_block=dict(class_fusion='presence')),
    'both SAM layers': dict(sam_block=dict(layers='all')),
    'no SAM block': dict(sam_block=None),
    'no image guidance': dict(image_guidance=False),
    'no text guidance': dict(fusion=dict(text_guidance=None)),
    'own word': dict(fusion=dict(own_word=True)),
    'attention over the classes': dict(fusion=dict(text_guidance='self')),
    'MLPs': dict(fusion=dict(text_mlp_ratio=2.0)),
    'MLPs, over the classes': dict(fusion=dict(text_guidance='self', text_mlp_ratio=2.0)),
    'Swin pair': dict(fusion=dict(swin_blocks='pair')),
    'two convolutions': dict(head=dict(num_convs=2)),
    'residual': dict(head=dict(residual=True)),
    'three blocks': dict(num_blocks=3),
}


def build(variant='points and masks'):
    """Neck and head with random weights, all of them trained but the prompt encoder's."""
    changes = dict(VARIANTS[variant])
    head = dict(
        type='OpenVocabularyHead',
        in_channels=16,
        skip_dims=(SKIP_DIMS, SKIP_DIMS),
        stage_channels=(16, 16),
        skip_channels=(8, 8),
        **changes.pop('head', {}),
    )
    cfg = toy_model_cfg(num_blocks=changes.pop('num_blocks', 2))['neck']
    cfg['sam_block'] |= dict(trainable='all')
    cfg['fusion'] |= dict(window_size=3)
    for key, change in changes.items():
        cfg[key] = cfg[key] | change if isinstance(change, dict) else change
    neck, head = MODELS.build(cfg, default_args=dict(image_dims=D)), MODELS.build(head)
    for parameter in (*neck.parameters(), *head.parameters()):
        nn.init.normal_(parameter, std=0.2)
    return neck.train(), head.train()


def inputs(batch=2, classes=CLASSES):
    """F_v, C_0, F_l and the two skips."""
    image = torch.randn(batch, D, HEIGHT, WIDTH)
    text = F.normalize(torch.randn(classes, D), dim=-1)
    correlation = torch.einsum('bdhw,nd->bnhw', F.normalize(image, dim=1), text)
    skips = (torch.randn(batch, SKIP_DIMS, HEIGHT, WIDTH) for _ in range(2))
    return (image, correlation, text, *skips)


def forward(neck, head, values, class_chunk, **kwargs):
    """Outputs by name, from the real network or, without a size of chunks, from the plain one."""
    image, correlation, text, *skips = values
    scale = torch.tensor(20.0, dtype=image.dtype)
    if class_chunk is None:
        blocks = plain_neck(neck, image, correlation, text, scale)
        logits = plain_head(head, blocks[-1].embedding, blocks[-1].correlation * scale, skips)
    else:
        features = DenseFeatures(image=image, skips=tuple(skips))
        result = neck(features, correlation, text, scale, class_chunk, keep_blocks=True, **kwargs)
        blocks, logits = result.blocks, head(result)
    outputs = {'logits': logits}
    for index, block in enumerate(blocks):
        outputs |= {f'C_{index}': block.correlation, f'E_{index}': block.embedding}
        if block.image_features is not None:
            outputs[f'F_{index}'] = block.image_features
    return outputs


def gradients(neck, head, values, class_chunk):
    """Outputs, and what is at the leaves after going back from the logits, by name."""
    values = [value.clone().requires_grad_() for value in values]
    neck.zero_grad()
    head.zero_grad()
    outputs = forward(neck, head, values, class_chunk)
    torch.manual_seed(7)
    (outputs['logits'] * torch.randn_like(outputs['logits'])).sum().backward()
    leaves = dict(zip(('F_v', 'C_0', 'F_l', 'shallow', 'deep'), values, strict=True))
    for module in (neck, head):
        leaves |= {f'{type(module).__name__}.{k}': p for k, p in module.named_parameters()}
    return outputs, {key: leaf.grad for key, leaf in leaves.items()}


@pytest.fixture
def in_double(monkeypatch):
    """What the network computes in float32, whatever it is given, is float64 here.

    In float32 the result of an exponential may depend on where in memory its values lie.
    """
    encode = PositionEmbeddingRandom._pe_encoding

    def precise(self, coordinates):
        return encode(self, coordinates.to(self.positional_encoding_gaussian_matrix.dtype))

    monkeypatch.setattr(PositionEmbeddingRandom, '_pe_encoding', precise)
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)

    def convert(neck, head, values):
        return neck.double(), head.double(), [value.double() for value in values]

    return convert


# what the variants leave out
WITHOUT_GRADIENT = {'F_v': ['no image guidance'], 'F_l': ['no text guidance']}


def assert_same(found, expected, size):
    """Each value by name, within 1e-9 of the largest."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key],
            value,
            rtol=1e-9,
            atol=1e-9 * max(1.0, value.detach().abs().max().item()),
            msg=lambda message, key=key: f'{key} in chunks of {size}: {message}',
        )


# every size with one variant, two sizes that leave a rest with the others
RUNS = [(variant, 2, (2,), (3,)) for variant in VARIANTS][1:] + [
    ('points and masks', batch, (1, 2, 3, CLASSES, CLASSES + 5, 'auto'), (2, CLASSES))
    for batch in (1, 2)
]


@pytest.mark.parametrize(('variant', 'batch', 'sizes', 'recomputed'), RUNS)
def test_any_chunk_gives_the_plain_network(variant, batch, sizes, recomputed, in_double):
    """Outputs of every block, logits, and the gradients of all parameters and inputs."""
    neck, head, values = in_double(*build(variant), inputs(batch))
    expected, expected_gradients = gradients(neck, head, values, None)
    without = {key for key, gradient in expected_gradients.items() if gradient is None}
    assert without == {key for key in expected_gradients if '.prompt_encoder.' in key} | {
        key for key, variants in WITHOUT_GRADIENT.items() if variant in variants
    }
    assert len(expected_gradients) - len(without) > 60
    for size, neck.with_cp in [(n, False) for n in sizes] + [(n, True) for n in recomputed]:
        outputs, found = gradients(neck, head, values, size)
        assert_same(outputs, expected, size)
        assert {key for key, gradient in found.items() if gradient is None} == without
        for key in without:
            del found[key]
        assert_same(found, {key: expected_gradients[key] for key in found}, size)
        with torch.no_grad():  # where chunks overwrite those of the block before
            assert_same(forward(neck, head, values, size), expected, size)


@pytest.mark.parametrize(
    'variant', ['points and masks', 'presence', 'own word', 'attention over the classes']
)
@torch.no_grad()
def test_a_class_that_stands_for_several(variant, in_double):
    """As if it were in the vocabulary that often."""
    neck, head, values = in_double(*build(variant), inputs())
    times = torch.tensor([1, 3, 1, 2, 1])
    again = torch.arange(CLASSES).repeat_interleave(times)
    image, correlation, text, *skips = values
    expected = forward(neck, head, (image, correlation[:, again], text[again], *skips), None)
    for size in (1, 2, CLASSES):
        found = forward(neck, head, values, size, counts=times.double(), vocabulary=text[again])
        for key in found:
            if not key.startswith('F_'):
                found[key] = found[key][:, again]
        assert_same(found, expected, size)


class Allocations(TorchDispatchMode):
    """Storages of at least so many values that operations have returned, by address."""

    def __init__(self, least):
        super().__init__()
        self.least, self.found = least, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                size = storage.nbytes() // 4  # values of float32
                if size >= self.least:
                    self.found[storage.data_ptr()] = size
        return result


@torch.no_grad()
def test_memory_of_a_chunk_does_not_grow_with_the_classes():
    """Of what is as large as all classes, the embedding exists, once, and the logits."""
    neck, head = (module.eval() for module in build())
    classes, positions = 40, 2 * HEIGHT * WIDTH
    # both have 16 values for each position of the patch grid; sums are taken over 32 classes
    size_of_all = 16 * classes * positions

    def run(class_chunk):
        image, correlation, text, *skips = inputs(classes=classes)
        features = DenseFeatures(image=image, skips=tuple(skips))
        with Allocations(least=size_of_all) as of_neck:
            result = neck(features, correlation, text, torch.tensor(20.0), class_chunk)
        with Allocations(least=size_of_all) as of_head:
            logits = head(result)
        addresses = [x.untyped_storage().data_ptr() for x in (result.embedding, logits)]
        return of_neck.found, of_head.found, addresses

    of_neck, of_head, (embedding, logits) = run(1)
    assert of_neck == {embedding: size_of_all}
    assert of_head == {embedding: size_of_all, logits: size_of_all}
    of_neck, of_head, _ = run(classes)
    assert max(of_neck.values()) >= 4 * size_of_all  # hidden layers of MLPs
    assert max(of_head.values()) >= 16 * size_of_all


@torch.no_grad()
def test_nothing_that_was_given_is_overwritten():
    neck, head = build()
    image, correlation, text, *skips = values = inputs()
    before = [value.clone() for value in values]
    features = DenseFeatures(image=image, skips=tuple(skips))
    result = neck(features, correlation, text, torch.tensor(20.0), 2, keep_blocks=True)
    kept = [block.embedding.clone() for block in result.blocks]
    assert head(result).equal(head(result))
    assert all(a.equal(b) for a, b in zip(values, before, strict=True))
    assert not kept[0].equal(kept[1])
    assert result.blocks[1].embedding.equal(result.embedding)


@pytest.mark.parametrize('variant', ['points and masks', 'Swin pair', 'no SAM block'])
def test_bfloat16_autocast(variant):
    """Measured over 8 seeds and these variants: logits 0.3 to 0.9 % off."""
    neck, head = build(variant)
    values = inputs()
    expected = forward(neck, head, values, 2)['logits']
    with torch.autocast('cpu', dtype=torch.bfloat16):
        low = forward(neck, head, values, 2)
        with torch.no_grad():
            without_gradient = forward(neck, head, values, 2)
    assert 0 < (low['logits'] - expected).norm() / expected.norm() < 0.03
    assert low['E_0'].dtype == low['E_1'].dtype == torch.bfloat16
    for key, value in low.items():
        assert without_gradient[key].dtype == value.dtype, key
        torch.testing.assert_close(without_gradient[key], value)


@pytest.mark.parametrize('variant', ['all prompts', 'both SAM layers', 'Swin pair', 'MLPs'])
@torch.no_grad()
def test_autocast_casts_a_trained_weight_once(variant):
    """However many chunks use it, unless they use it in another shape (SAM's attention)."""
    neck, head = build(variant)
    weights = [p for m in (neck, head) for p in m.parameters() if p.requires_grad]
    weights = {(p.data_ptr(), p.shape) for p in weights}
    cast = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default:
                weight = args[0].data_ptr(), args[0].shape
                cast.extend({weight} & weights)
            return function(*args, **kwargs or {})

    with torch.autocast('cpu', dtype=torch.bfloat16), Watch():
        forward(neck, head, inputs(), 1)
    assert len(cast) > 30
    assert len(set(cast)) == len(cast)
