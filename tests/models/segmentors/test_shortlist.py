"""The shortlist: who is kept, who represents the others, and what it does to the result."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import toy_model_cfg
from mmengine.config import ConfigDict
from mmseg.registry import MODELS

from mmseg_escnet import ESCNetError
from mmseg_escnet.models.backbones import DenseFeatures
from mmseg_escnet.models.segmentors.shortlist import HOPELESS, Shortlist

WORDS = ['cat', 'dog', 'sky', 'wet road', 'taxi', 'tree', 'house', 'sea']
SCALE = torch.tensor(10.0)


def build(**test_cfg):
    model = MODELS.build(toy_model_cfg(test_cfg=dict(mode='whole', **test_cfg))).eval()
    for block in model.neck.blocks[:-1]:
        nn.init.normal_(block.correlation_update.weight, std=0.1)
    model.set_vocabulary(WORDS)
    return model


def correlation_with(chances) -> torch.Tensor:
    """(N, 2, 2), the same at every patch."""
    return torch.tensor(chances)[:, None, None].expand(-1, 2, 2)


def test_the_best_are_kept_in_their_order():
    chosen = Shortlist(top_k=3, representatives=0).choose(
        correlation_with([0.1, 0.5, 0.0, 0.3, 0.2]), SCALE
    )
    assert chosen.ids.tolist() == [1, 3, 4]
    assert chosen.counts.tolist() == [1, 1, 1]
    assert chosen.num_kept == 3


def test_a_class_that_is_best_at_one_patch_alone_is_kept():
    correlation = torch.full((6, 4, 4), 0.0)
    correlation[0] = 0.5
    correlation[2] = 0.3  # likelier at all others, and on average
    correlation[4, 3, 2] = 0.6
    chosen = Shortlist(top_k=2, representatives=0).choose(correlation, SCALE)
    assert chosen.ids.tolist() == [0, 4]


def test_threshold_is_a_probability():
    correlation = correlation_with([0.1, 0.5, 0.0, 0.3, 0.2])
    probability = (correlation * SCALE).softmax(0).amax((1, 2))
    for threshold in (0.0, 0.05, 0.2, 0.9, 1.0, *probability.tolist()):
        chosen = Shortlist(threshold=threshold, representatives=0).choose(correlation, SCALE)
        expected = [i for i, p in enumerate(probability.tolist()) if p >= threshold] or [1]
        assert chosen.ids.tolist() == expected


def test_the_dropped_are_represented_by_as_many_as_they_are():
    chances = [0.01 * n for n in range(20)]
    chosen = Shortlist(top_k=4, representatives=3).choose(correlation_with(chances), SCALE)
    assert chosen.ids[:4].tolist() == [16, 17, 18, 19]
    assert chosen.ids[4:].tolist() == [13, 7, 2]  # in the middle of each third of 15 ... 0
    assert chosen.counts[4:].tolist() == pytest.approx([16 / 3] * 3)
    assert chosen.counts.sum() == pytest.approx(20)


def test_fewer_classes_than_the_limit():
    chosen = Shortlist(top_k=32).choose(correlation_with([0.2, 0.1]), SCALE)
    assert chosen.ids.tolist() == [0, 1]
    assert chosen.counts.tolist() == [1, 1]


@torch.no_grad()
def test_exact_if_all_that_are_dropped_represent_themselves():
    model = build(shortlist=dict(top_k=3, representatives=len(WORDS)))
    images = torch.randn(2, 3, 64, 80)
    exact, short = model._forward(images), model._logits_of_shortlist(images, model.text_features())
    kept = (short > HOPELESS).all(-1).all(-1)
    assert kept.sum(1).tolist() == [3, 3]
    torch.testing.assert_close(short[kept], exact[kept], rtol=1e-4, atol=1e-4)
    assert (short[~kept] == HOPELESS).all()


@torch.no_grad()
@pytest.mark.parametrize('class_fusion', ['mean', 'presence'])
def test_a_class_that_counts_twice_is_a_class_that_is_there_twice(class_fusion):
    cfg = toy_model_cfg()
    cfg['neck']['sam_block']['class_fusion'] = class_fusion
    neck = MODELS.build(cfg['neck'], default_args=dict(image_dims=32)).eval()
    nn.init.normal_(neck.blocks[0].correlation_update.weight, std=0.1)
    image = torch.randn(1, 32, 5, 6)
    text = F.normalize(torch.randn(4, 32), dim=-1)
    features = DenseFeatures(image=image, skips=())
    correlation = torch.einsum('bdhw,nd->bnhw', F.normalize(image, dim=1), text)
    twice = [0, 1, 2, 2, 3]
    expected = neck(features, correlation[:, twice], text[twice], SCALE).embedding
    counts = torch.tensor([1.0, 1, 2, 1])
    found = neck(
        features, correlation, text, SCALE, counts=counts, vocabulary=text[twice]
    ).embedding
    torch.testing.assert_close(found, expected[:, [0, 1, 2, 4]], rtol=1e-4, atol=1e-5)
    without = neck(features, correlation, text, SCALE, vocabulary=text[twice]).embedding
    assert (found - without).abs().max() > 1e-3


@torch.no_grad()
def test_the_classes_kept_attend_to_all_words():
    model, seen = build(shortlist=dict(top_k=2, representatives=2)), []
    model.neck.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs['vocabulary']), with_kwargs=True
    )
    model._logits_of_shortlist(torch.randn(2, 3, 64, 64), model.text_features())
    assert len(seen) == 2
    assert all(words.equal(model.text_features()) for words in seen)


@torch.no_grad()
def test_every_image_has_its_own():
    model = build(shortlist=dict(top_k=2, representatives=2))
    images = torch.randn(3, 3, 64, 64)
    together = model._logits_of_shortlist(images, model.text_features())
    for index in range(3):
        alone = model._logits_of_shortlist(images[index : index + 1], model.text_features())[0]
        torch.testing.assert_close(together[index], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    'mode', [dict(mode='whole'), dict(mode='windows', crop_size=(48, 48), stride=(32, 32))]
)
def test_labels_are_on_the_list_and_probabilities_finite(mode):
    model = build()
    model.test_cfg = ConfigDict(shortlist=dict(top_k=2, representatives=2), **mode)
    images = torch.randn(1, 3, 64, 64)
    scores = model.inference(images, [{}])
    assert scores.isfinite().all()
    if mode['mode'] == 'windows':
        torch.testing.assert_close(scores.sum(1), torch.ones(1, 64, 64), rtol=1e-4, atol=1e-4)
    else:
        assert len(scores.argmax(1).unique()) <= 2


@pytest.mark.parametrize(
    ('shortlist', 'message'),
    [
        (dict(top_k=0), 'top_k=0 must be an integer of at least 1'),
        (dict(top_k=2.5), 'top_k=2.5 must be'),
        (dict(threshold=1.5), r'threshold=1.5 must lie in \[0, 1\]'),
        (dict(representatives=-1), 'representatives=-1 must be'),
        (dict(topk=3), "must be a dict with keys from .'representatives', 'threshold', 'top_k'"),
        (32, 'shortlist=32 must be a dict'),
    ],
)
def test_refused(shortlist, message):
    with pytest.raises(ESCNetError, match=message):
        build(shortlist=shortlist)


def test_not_with_slide():
    with pytest.raises(ESCNetError, match="cannot be used with mode='slide'"):
        MODELS.build(
            toy_model_cfg(
                test_cfg=dict(
                    mode='slide', crop_size=(32, 32), stride=(16, 16), shortlist=dict(top_k=2)
                )
            )
        )
