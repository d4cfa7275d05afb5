"""TextCache: nothing stale is ever used, and nothing is encoded twice."""

import open_clip
import pytest
import torch
from conftest import toy_clip_cfg, toy_model_cfg
from mmseg.registry import MODELS

from mmseg_escnet import Vocabulary
from mmseg_escnet.models import OpenCLIPTextEncoder
from mmseg_escnet.models.clip_weights import set_activation
from mmseg_escnet.models.text_encoders import TextCache, text_cache

WORDS = ['cat', 'wet road', 'traffic light', 'sofa, couch']
TEMPLATES = ('a photo of a {}.', 'many {}', '{}')


def make_clip(seed=0, **text):
    torch.manual_seed(seed)
    cfg = toy_clip_cfg()
    cfg['text_cfg'] = cfg['text_cfg'] | dict(vocab_size=49408) | text
    clip = open_clip.CustomTextCLIP(**cfg).eval()
    set_activation(clip, False)
    for parameter in clip.text.parameters():  # random weights as built tell no two words apart
        parameter.data += 0.1 * torch.randn_like(parameter)
    return clip


@pytest.fixture(scope='module')
def clip():
    return make_clip()


class Use:
    """A new cache; ``encoded`` are the phrases that it encoded."""

    def __init__(self, clip, words=WORDS, **options):
        self.cache, self.clip, self.encoded = TextCache(), clip, []
        self.encoder = OpenCLIPTextEncoder(**(dict(templates=TEMPLATES) | options))
        encode = self.encoder.encode

        def watched(clip, phrases, **kwargs):
            self.encoded += phrases
            return encode(clip, phrases, **kwargs)

        self.encoder.encode = watched
        self.features = self(words)

    def __call__(self, words):
        vocabulary = Vocabulary.create(words)
        features = self.cache.text_features(self.encoder, self.clip, vocabulary)
        with torch.no_grad():
            options = dict(templates=self.encoder.templates, synonyms=self.encoder.synonyms)
            expected = OpenCLIPTextEncoder(**options)(self.clip, vocabulary)
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
        return features


def test_another_word_costs_that_word(clip):
    use = Use(clip)
    assert use.encoded == ['cat', 'wet road', 'traffic light', 'sofa']
    assert not use.features.requires_grad
    use.encoded.clear()
    use(['taxi', *WORDS[::-1]])
    assert use.encoded == ['taxi']
    use(['taxi'])
    assert use.encoded == ['taxi']
    before = use(WORDS)
    use.encoder = use.encoder.with_options(synonyms='mean')
    assert not use(WORDS)[3].equal(before[3])


def test_the_same_phrases_combined_otherwise(clip):
    """A vocabulary that was asked for before, with other ``synonyms``; nothing is encoded again."""
    use = Use(clip, synonyms='mean')
    use.encoded.clear()
    for synonyms, rows in (('max', 5), ('mean', 4)):
        use.encoder.synonyms = synonyms
        assert len(use(WORDS)) == rows
    assert not use.encoded


def test_a_phrase_of_two_classes_is_encoded_once(clip):
    use = Use(clip, ['sofa, couch', 'sofa, settee', 'cat'])
    assert use.encoded == ['sofa', 'cat']
    assert use.features[0].equal(use.features[1])


def test_parts_and_a_full_memory(clip, monkeypatch):
    """Texts are encoded some at a time; what no longer fits is encoded anew, and right."""
    monkeypatch.setattr(text_cache, '_TEXTS_AT_A_TIME', 6)
    monkeypatch.setattr(text_cache, 'MAX_PHRASES', 5)
    use = Use(clip)
    use(['taxi', 'sky'])
    assert use.encoded == ['cat', 'wet road', 'traffic light', 'sofa', 'taxi', 'sky']
    assert len(use.cache._embeddings) == 2
    use([*WORDS, 'taxi', 'sky', 'sand'])
    assert len(use.cache._embeddings) <= 5


# -- what the embeddings depend on -------------------------------------------------------------


def in_place(clip):
    clip.text.transformer.resblocks[0].ln_1.bias.add_(0.1)


def last_bit(clip):
    weight = clip.text.token_embedding.weight
    weight[7, 3] = torch.nextafter(weight[7, 3], torch.tensor(9.0))


def loaded(clip):
    clip.load_state_dict(make_clip(seed=1).state_dict())


def averaged(clip):
    for parameter in clip.parameters():
        parameter.data.copy_(parameter.data + 0.1 * torch.randn_like(parameter))


def quick_gelu(clip):
    set_activation(clip, True)


def half(clip):
    clip.text.bfloat16()


@pytest.mark.parametrize('change', [in_place, last_bit, loaded, averaged, quick_gelu, half])
@torch.no_grad()
def test_other_weights(change):
    clip = make_clip()
    use = Use(clip)
    before = use.features
    change(clip)
    use.encoded.clear()
    after = use(WORDS)
    assert len(use.encoded) == 4
    if change is not last_bit:
        assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(templates='scene'), {}),
        (dict(templates=TEMPLATES[::-1]), {}),
        (dict(templates=[*TEMPLATES[:2], '{} ']), {}),
        ({}, dict(heads=4)),  # which no weight tells
        ({}, dict(context_length=50)),
    ],
)
def test_other_settings(clip, options, text):
    """With the weights taken for the same."""
    settings = text_cache._settings(Use(clip).encoder, clip)
    other = make_clip(**text)
    assert text_cache._settings(Use(other, **options).encoder, other) != settings


@pytest.mark.parametrize('precision', ['medium', 'high'])
def test_another_tokenizer_device_or_precision(clip, precision):
    use = Use(clip)
    settings = text_cache._settings(use.encoder, clip)
    use.encoder.tokenizer.vocab_size += 1
    assert text_cache._settings(use.encoder, clip) != settings
    use.encoder.tokenizer.vocab_size -= 1
    assert text_cache._settings(use.encoder, clip) == settings
    torch.set_float32_matmul_precision(precision)
    try:
        assert text_cache._settings(use.encoder, clip) != settings
    finally:
        torch.set_float32_matmul_precision('highest')
    assert text_cache._settings(use.encoder, make_clip().to('meta')) != settings


# -- in a model --------------------------------------------------------------------------------


def make_model(**backbone):
    torch.manual_seed(0)
    cfg = toy_model_cfg()
    cfg['backbone'].update(backbone)
    model = MODELS.build(cfg)
    model.set_vocabulary(WORDS)
    return model.eval()


def test_it_is_seen_by_the_profiler():
    model = make_model()
    with torch.profiler.profile() as profile, torch.no_grad():
        model.text_features()
    assert 'escnet/text' in {event.key for event in profile.key_averages()}
