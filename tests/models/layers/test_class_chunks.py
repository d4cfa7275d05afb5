"""ClassChunks: which classes go together, and how their parts are put together again."""

import pytest
import torch
import torch.nn as nn

from mmseg_escnet.models.layers import ClassChunks

CPU = torch.device('cpu')


@pytest.mark.parametrize(
    ('tokens', 'size'), [(24 * 24, 16), (2 * 24 * 24, 8), (100, 92), (9000, 1)]
)
def test_automatic_size(tokens, size):
    """On a processor: as many classes as have 16 x 24 x 24 positions together, at least one."""
    assert ClassChunks.create('auto', num_tokens=tokens, device=CPU) == ClassChunks(size)


def test_automatic_size_under_autocast():
    """Twice as many of half the size."""
    with torch.autocast('cpu', torch.bfloat16):
        assert ClassChunks.create('auto', num_tokens=576, device=CPU) == ClassChunks(32)


@pytest.mark.parametrize('recompute', [True, False])
def test_given_size(recompute):
    chunks = ClassChunks.create(7, num_tokens=9000, device=CPU, recompute=recompute)
    assert chunks == ClassChunks(7, recompute)


@pytest.mark.parametrize(
    ('free', 'idle', 'tokens', 'size'),
    [
        (20 << 30, 4 << 30, 576, 256),  # nothing is gained by more
        (2 << 30, 2 << 30, 576, 75),  # a quarter of 4 GiB, 24 KiB a token
        (1 << 20, 0, 576, 1),
    ],
)
def test_automatic_size_on_a_gpu(monkeypatch, free, idle, tokens, size):
    """A quarter of what is free, to the driver or within what PyTorch has reserved."""
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (free, 80 << 30))
    monkeypatch.setattr(torch.cuda, 'memory_reserved', lambda device: idle + 1000)
    monkeypatch.setattr(torch.cuda, 'memory_allocated', lambda device: 1000)
    chunks = ClassChunks.create('auto', num_tokens=tokens, device=torch.device('cuda'))
    assert chunks.size == size


@pytest.mark.parametrize('size', [1, 2, 3, 5, 8])
@pytest.mark.parametrize('gradient', [True, False])
def test_split_and_collect(size, gradient):
    """Every class once and in its place, with as many in a chunk as fit."""
    x = torch.arange(2.0 * 5 * 3).view(2, 5, 3)
    chunks = ClassChunks(size)
    parts = chunks.split(x, dim=1)
    sizes = [part.shape[1] for part in parts]
    assert sum(sizes) == 5
    assert set(sizes[:-1]) <= {size}
    with torch.set_grad_enabled(gradient):
        assert chunks.collect(iter(parts), 5).equal(x)
    assert torch.cat(chunks.split(x[0], dim=0)).equal(x[0])


@torch.no_grad()
def test_collect_overwrites_without_gradient():
    """Chunk by chunk: a chunk is still there when it is asked for, and gone when the next is."""
    x = torch.arange(2.0 * 5).view(2, 5, 1)
    original, chunks = x.clone(), ClassChunks(2)

    def parts():
        for index, part in enumerate(chunks.split(x, dim=1)):
            assert part.equal(original[:, 2 * index : 2 * index + 2])
            assert x[:, : 2 * index].equal(original[:, : 2 * index] + 10)
            yield part + 10

    result = chunks.collect(parts(), 5, out=x)
    assert result is x
    assert x.equal(original + 10)


def test_collect_does_not_overwrite_with_gradient():
    x = torch.zeros(2, 5, 1, requires_grad=True)
    chunks = ClassChunks(2)
    result = chunks.collect((part + 1 for part in chunks.split(x, dim=1)), 5, out=x)
    assert result.equal(torch.ones(2, 5, 1))
    assert not x.any()
    result.sum().backward()
    assert x.grad.equal(torch.ones(2, 5, 1))


@pytest.mark.parametrize('recompute', [True, False])
def test_recompute(recompute):
    """The function runs again in the backward pass, if that is asked for; the gradient is equal."""
    layer, x, calls = nn.Linear(3, 3), torch.randn(4, 3, requires_grad=True), []
    chunks = ClassChunks(2, recompute)

    def function(some, factor):
        calls.append(len(some))
        return layer(some).tanh() * factor

    parts = [chunks.run(function, some, 2) for some in chunks.split(x, dim=0)]
    assert calls == [2, 2]
    torch.cat(parts).sum().backward()
    assert calls == [2, 2, 2, 2][: 4 if recompute else 2]
    found = [x.grad, layer.weight.grad, layer.bias.grad]
    expected = torch.autograd.grad((layer(x).tanh() * 2).sum(), [x, layer.weight, layer.bias])
    torch.testing.assert_close(found, list(expected))


@torch.no_grad()
def test_nothing_is_recomputed_without_gradient():
    calls = []
    assert ClassChunks(2, True).run(lambda x: calls.append(x) or x, 3) == 3
    assert calls == [3]
