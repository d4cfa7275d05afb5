"""OpenCLIPTextEncoder against open_clip's own zero-shot classifier."""

from collections import Counter

import open_clip
import pytest
import torch
from conftest import toy_clip_cfg

from mmseg_escnet import ESCNetError
from mmseg_escnet.datasets import vocabulary_names
from mmseg_escnet.models import OpenCLIPTextEncoder
from mmseg_escnet.models.text_encoders import open_clip_text
from mmseg_escnet.vocabulary import Vocabulary

NAMES = ['cat', 'wet road', 'traffic light', 'a very long name of a thing that is seldom seen']
SCENE = 'A photo of a {} in the scene'
CONTEXT = 40


@pytest.fixture
def clip():
    clip = open_clip.CustomTextCLIP(**toy_clip_cfg()).eval()
    for parameter in clip.text.parameters():  # biases and norms are zeros and ones as built
        parameter.data += 0.1 * torch.randn_like(parameter)
    return clip


def reference(clip, names, templates):
    """Unit text embeddings (N, D) as open_clip makes them, padding and all."""
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
    return open_clip.build_zero_shot_classifier(clip, tokenizer, names, templates).T


@pytest.mark.parametrize(
    ('templates', 'theirs'),
    [
        ('scene', [SCENE]),
        ('imagenet', open_clip.OPENAI_IMAGENET_TEMPLATES),
        (['{}', 'a photo of many {}.'], ['{}', 'a photo of many {}.']),
    ],
)
@pytest.mark.parametrize('names', [NAMES, NAMES[:1]])
@torch.no_grad()
def test_equals_open_clips_zero_shot_classifier(clip, templates, theirs, names):
    text = OpenCLIPTextEncoder(templates=templates)(clip, Vocabulary.create(names))
    expected = reference(clip, names, theirs)
    assert text.shape == (len(names), 32)
    torch.testing.assert_close(text, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(text.norm(dim=1), torch.ones(len(names)))
    if len(names) > 1:  # the tolerance tells names apart
        assert (expected[0] - expected[1]).abs().max() > 1e-2


def test_number_of_imagenet_templates():
    assert len(OpenCLIPTextEncoder(templates='imagenet').templates) == 80
    assert OpenCLIPTextEncoder().templates == (SCENE,)


@torch.no_grad()
def test_padding_is_cut(clip, monkeypatch):
    """Behind the longest text of every batch, into which texts come by their length."""
    lengths = []
    encode_text = open_clip_text.encode_text

    def watched(clip, tokens):
        lengths.append(tokens.shape)
        return encode_text(clip, tokens)

    monkeypatch.setattr(open_clip_text, 'encode_text', watched)
    OpenCLIPTextEncoder(templates=['{}'], batch_size=2)(clip, Vocabulary.create(NAMES[::-1]))
    # start and end of text and the words of the longer name
    assert lengths == [(2, 2 + 2), (2, 2 + len(NAMES[-1].split()))]


@torch.no_grad()
def test_batches_do_not_matter(clip):
    vocabulary = Vocabulary.create(NAMES)
    whole = OpenCLIPTextEncoder(templates='imagenet', batch_size=1000)(clip, vocabulary)
    for batch_size in (1, 7, 80):
        encoder = OpenCLIPTextEncoder(templates='imagenet', batch_size=batch_size)
        torch.testing.assert_close(encoder(clip, vocabulary), whole, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_synonyms(clip):
    vocabulary = Vocabulary.create(['sofa, couch, settee', 'cat', 'wet road | street'])
    templates = ['a {}', 'the {} there']
    first = OpenCLIPTextEncoder(templates=templates)(clip, vocabulary)
    expected = reference(clip, ['sofa', 'cat', 'wet road'], templates)
    torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-5)

    mean = OpenCLIPTextEncoder(templates=templates, synonyms='mean')(clip, vocabulary)
    words = reference(
        clip, ['sofa', 'couch', 'settee', 'cat', 'wet road', 'street'], templates
    ).double()
    by_hand = []
    for members in ([0, 1, 2], [3], [4, 5]):
        average = sum(words[index] for index in members) / len(members)
        by_hand.append(average / average.square().sum().sqrt())
    torch.testing.assert_close(mean.double(), torch.stack(by_hand), rtol=1e-5, atol=1e-5)
    assert (mean[0] - first[0]).abs().max() > 1e-2
    torch.testing.assert_close(mean[1], first[1])


@pytest.mark.parametrize(
    ('names', 'phrases', 'synonyms'),
    [
        (['door, open', 'floor', 'door, closed'], None, 'first'),
        (['car | damaged', 'Car'], None, 'first'),
        (['tree', 'shrub'], [['a  tree'], ['A tree', 'bush']], 'first'),
        (['sofa', 'seat'], [['sofa', 'couch'], ['Couch', 'sofa']], 'mean'),
        (['caf\u00e9', 'caf&eacute; | bar'], None, 'first'),
        (['sofa', 'seat'], [['sofa', 'couch'], ['couch', 'sofa']], 'max'),
    ],
)
def test_classes_of_one_text(clip, names, phrases, synonyms):
    """What is refused has equal embeddings."""
    encoder = OpenCLIPTextEncoder(synonyms=synonyms)
    vocabulary = Vocabulary.create(names, phrases=phrases)
    with pytest.raises(
        ESCNetError, match=r'are both encoded as .*cannot tell them apart'
    ) as caught:
        encoder.check(vocabulary, CONTEXT)
    assert repr(names[0]) in str(caught.value)
    assert repr(names[-1]) in str(caught.value)
    with torch.no_grad():
        text = encoder(clip, vocabulary)
    if synonyms != 'max':  # one row per class
        torch.testing.assert_close(text[0], text[-1])


@pytest.mark.parametrize(
    ('names', 'phrases', 'synonyms'),
    [
        (['door, open |', 'door, closed |'], None, 'first'),
        (['door, open', 'door, closed'], [['door, open'], ['door, closed']], 'first'),
        (['door, open', 'door, closed'], None, 'mean'),
        (['sofa, couch', 'couch, sofa'], None, 'first'),
    ],
)
def test_classes_that_differ(clip, names, phrases, synonyms):
    encoder = OpenCLIPTextEncoder(synonyms=synonyms)
    vocabulary = Vocabulary.create(names, phrases=phrases)
    encoder.check(vocabulary, CONTEXT)
    with torch.no_grad():
        first, last = encoder(clip, vocabulary)
    assert (first - last).abs().max() > 1e-2


@pytest.mark.parametrize('name', ['ade150', 'ade847', 'pc59', 'pc459', 'voc20', 'coco_stuff171'])
def test_published_lists_are_accepted(name):
    vocabulary = Vocabulary.create(vocabulary_names(name))
    OpenCLIPTextEncoder().check(vocabulary, 77)
    firsts = Counter(words[0] for words in vocabulary.synonyms)
    shared = {
        frozenset(
            own
            for own, words in zip(vocabulary.names, vocabulary.synonyms, strict=True)
            if words[0] == first
        )
        for first, count in firsts.items()
        if count > 1
    }
    assert shared == (set(open_clip_text._SAME_IN_A847) if name == 'ade847' else set())


@torch.no_grad()
def test_equivariant_in_the_order_of_the_names(clip):
    encoder = OpenCLIPTextEncoder(synonyms='mean')
    names = ['sofa, couch', 'cat', 'wet road', 'street | way | road']
    forward = encoder(clip, Vocabulary.create(names))
    backward = encoder(clip, Vocabulary.create(names[::-1]))
    torch.testing.assert_close(forward, backward.flip(0), rtol=1e-5, atol=1e-6)


def test_gradient_reaches_the_text_tower(clip):
    text = OpenCLIPTextEncoder()(clip, Vocabulary.create(NAMES))
    (text * torch.randn_like(text)).sum().backward()
    for name, parameter in clip.text.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in clip.visual.parameters())


def test_name_longer_than_the_context_is_refused():
    words = ' '.join(['word'] * 30)
    vocabulary = Vocabulary.create(['cat', words, 'taxi'])
    encoder = OpenCLIPTextEncoder(templates=['{}'])
    encoder.check(vocabulary, context_length=32)
    with pytest.raises(ESCNetError, match='takes 32 tokens in the template') as caught:
        encoder.check(vocabulary, context_length=31)
    assert "'word word" in str(caught.value)
    assert len(str(caught.value)) < 200


def test_every_template_and_synonym_counts_for_the_length():
    vocabulary = Vocabulary.create(['cat', 'sofa, ' + ' '.join(['word'] * 8)])
    templates = ['{}', 'a rather long text around a {} here', 'a {}']
    short = OpenCLIPTextEncoder(templates=['{}', 'a {}'], synonyms='mean')
    short.check(vocabulary, context_length=12)
    OpenCLIPTextEncoder(templates=templates).check(vocabulary, context_length=12)  # first synonym
    with pytest.raises(ESCNetError, match=r"name 'sofa, .* takes 17 .* 'a rather long"):
        OpenCLIPTextEncoder(templates=templates, synonyms='mean').check(vocabulary, 12)


def test_punctuation_and_rare_words_are_counted_in_tokens():
    name = 'Schwarzwälder-Kirschtorte (1915)'
    encoder = OpenCLIPTextEncoder(templates=['{}'])
    length = len(open_clip.SimpleTokenizer().encode(name)) + 2
    assert length > 6
    encoder.check(Vocabulary.create([name]), length)
    with pytest.raises(ESCNetError, match=f'takes {length} tokens'):
        encoder.check(Vocabulary.create([name]), length - 1)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(templates='a photo of a {}'), "'a photo of a {}' are unknown: use one of"),
        (dict(templates=['a photo']), "'a photo' must be a string with exactly one"),
        (dict(templates=['{}', '{} and {}']), "'{} and {}' must be"),
        (dict(templates=[lambda name: name]), 'must be a string'),
        (dict(templates=[]), 'empty'),
        (dict(synonyms='all'), "synonyms='all'"),
    ],
)
def test_refusals(kwargs, message):
    with pytest.raises(ESCNetError, match=message):
        OpenCLIPTextEncoder(**kwargs)


def test_another_encoder_with_other_options(clip):
    encoder, vocabulary = OpenCLIPTextEncoder(), Vocabulary.create(['sofa, couch', 'cat'])
    before = encoder(clip, vocabulary)
    other = encoder.with_options(templates='imagenet')
    expected = OpenCLIPTextEncoder(templates='imagenet')(clip, vocabulary)
    assert other(clip, vocabulary).equal(expected)
    other = other.with_options(synonyms='mean')
    expected = OpenCLIPTextEncoder(templates='imagenet', synonyms='mean')(clip, vocabulary)
    assert other(clip, vocabulary).equal(expected)
    assert encoder(clip, vocabulary).equal(before)
    for options in (dict(templates=['{}'], synonyms='all'), dict(templates=['a'])):
        with pytest.raises(ESCNetError):
            encoder.with_options(**options)


@pytest.mark.parametrize('template', ['a photo', '{} and {}', '{} {name}', 'a {'])
def test_templates_without_one_place_for_the_name(template):
    with pytest.raises(ESCNetError, match='must be a string with exactly one'):
        OpenCLIPTextEncoder(templates=[template])
