"""A trained checkpoint as one file: the same answers, nothing executed, nothing fetched."""

import copy
import json
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import save_file

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import OpenVocabInferencer, encode_inference_file
from mmseg_escnet.apis.inference_file import read_inference_config, read_words
from mmseg_escnet.toyworld.model import toy_model
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.vocabulary import Vocabulary

WORDS = ['red circle', 'wood', 'water', 'cyan ring']


@pytest.fixture(scope='module')
def plain():
    return OpenVocabInferencer(*toy_model(), 'cpu')


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp('file') / 'toy.safetensors'
    words = Vocabulary.create(WORDS, phrases=[None, ['wood', 'planks'], None, None])
    path.write_bytes(encode_inference_file(*toy_model(), vocabulary=words))
    return path


@pytest.fixture(scope='module')
def content(file):
    with safe_open(file, 'pt') as opened:
        keys = opened.keys()  # it is no mapping
        return {key: opened.get_tensor(key) for key in keys}, opened.metadata()


@pytest.fixture
def changed(content, tmp_path):
    """Writes the file anew with another config."""

    def write(change) -> str:
        tensors, metadata = content
        config = json.loads(metadata['config'])
        change(config)
        path = tmp_path / 'changed.safetensors'
        save_file(tensors, path, metadata=metadata | dict(config=json.dumps(config)))
        return path

    return write


@pytest.fixture(scope='module')
def image():
    return scene(0, 3)[0]


def test_it_answers_as_config_and_checkpoint_do(plain, file, image):
    alone = OpenVocabInferencer(file, device='cpu')
    before, after = plain(image, WORDS), alone(image, WORDS)
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_array_equal(after.scores, before.scores)
    other = np.pad(image, ((0, 40), (0, 7), (0, 0)))  # resized as the pipeline says
    np.testing.assert_array_equal(alone(other, WORDS).scores, plain(other, WORDS).scores)


def test_its_words_are_looked_for_unless_others_are_named(plain, file, image):
    alone = OpenVocabInferencer(file, device='cpu')
    assert alone.vocabulary.names == tuple(WORDS)
    phrases = dict.fromkeys(WORDS) | {'wood': ['wood', 'planks']}
    np.testing.assert_allclose(alone(image).scores, plain(image, phrases).scores, atol=1e-5)
    assert abs(alone(image).scores - plain(image, WORDS).scores).max() > 1e-3
    assert alone(image).classes == tuple(WORDS)
    assert alone(image, ['gold', 'snow']).classes == ('gold', 'snow')


def test_words_are_those_of_the_checkpoint_unless_others_are_given(plain, tmp_path):
    path = tmp_path / 'toy.safetensors'
    path.write_bytes(encode_inference_file(*toy_model()))
    assert read_words(path).names == plain.vocabulary.names
    assert int.from_bytes(path.read_bytes()[:8], 'little') % 8 == 0, 'numbers are aligned'
    assert len(plain.vocabulary) > 30


def test_half_precision_is_half_the_size_and_close(file, plain, image, tmp_path):
    path = tmp_path / 'half.safetensors'
    path.write_bytes(encode_inference_file(*toy_model(), dtype=torch.float16))
    assert path.stat().st_size < 0.51 * file.stat().st_size
    half = OpenVocabInferencer(path, device='cpu')
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    before, after = plain(image, WORDS), half(image, WORDS)
    np.testing.assert_allclose(after.scores, before.scores, atol=0.02)
    assert (after.labels == before.labels).mean() > 0.99


def test_half_precision_refuses_what_it_cannot_hold(tmp_path):
    config, checkpoint = toy_model()
    loaded = torch.load(checkpoint, weights_only=True)
    name = 'decode_head.predict_logits.bias'
    loaded['state_dict'][name] = torch.full((1,), 1e6)
    torch.save(loaded, tmp_path / 'large.pth')
    with pytest.raises(ESCNetError, match=f'{name}.*float16'):
        encode_inference_file(config, tmp_path / 'large.pth', dtype=torch.float16)


def test_it_has_nothing_that_only_training_needs(content, plain):
    tensors, metadata = content
    assert set(tensors) == set(plain.model.state_dict())
    assert set(json.loads(metadata['config'])) == {'model', 'test_pipeline', 'default_scope'}
    assert str(ROOT) not in metadata['config']  # paths of the machine that made it


HOSTILE = {
    'a module that would be imported': lambda c: c['model']['neck'].update(type='planted.Thing'),
    'a pipeline step of a module': lambda c: c['test_pipeline'].append(dict(type='planted.run')),
    'another scope': lambda c: c.update(default_scope='planted'),
    'a scope in between': lambda c: c['model']['neck'].update(_scope_='planted'),
    'imports': lambda c: c.update(custom_imports=dict(imports=['planted'])),
    'weights to fetch': lambda c: c['model']['backbone'].update(pretrained='openai'),
    'weights of SAM': lambda c: c['model']['neck'].update(sam_pretrained='x.pth'),
    'an architecture from the hub': lambda c: c['model']['backbone'].update(
        model_cfg=None, model_name='hf-hub:someone/thing'
    ),
    'an image tower from the hub': lambda c: c['model']['backbone']['model_cfg'][
        'vision_cfg'
    ].update(timm_model_name='hf_hub:someone/thing'),
    'a text tower from the hub': lambda c: c['model']['backbone']['model_cfg']['text_cfg'].update(
        hf_model_name='someone/thing'
    ),
    'an initialisation': lambda c: c['model'].update(
        init_cfg=dict(type='Pretrained', checkpoint='x')
    ),
    'another model': lambda c: c['model'].update(type='EncoderDecoder'),
    'a type that is no text': lambda c: c['model']['neck'].update(type=['planted']),
}


@pytest.mark.parametrize('change', HOSTILE.values(), ids=HOSTILE)
def test_a_config_that_would_load_something_is_refused(change, changed, tmp_path, monkeypatch):
    (tmp_path / 'planted.py').write_text(f'open({str(tmp_path / "ran")!r}, "w")\n')
    monkeypatch.syspath_prepend(tmp_path)
    path = changed(change)
    with pytest.raises(ESCNetError, match=r'changed\.safetensors'):
        OpenVocabInferencer(path, device='cpu')
    assert not (tmp_path / 'ran').exists()
    assert 'planted' not in sys.modules


def test_the_unchanged_config_is_taken(changed):
    assert OpenVocabInferencer(changed(lambda config: None), device='cpu').vocabulary


@pytest.mark.parametrize(
    ('metadata', 'message'),
    [
        (None, 'no config in it'),
        (dict(config='{'), 'damaged'),
        (dict(config='[1]'), 'damaged'),
        (dict(config='{}'), 'not one of an ESCNet'),
        (dict(config='[' * 100_000), 'damaged'),
        (dict(config='"' + 'x' * (1 << 20) + '"'), 'more than'),
    ],
)
def test_files_of_another_kind(metadata, message, tmp_path):
    path = tmp_path / 'some.safetensors'
    save_file(dict(x=torch.zeros(1)), path, metadata=metadata)
    with pytest.raises(ESCNetError, match=message):
        OpenVocabInferencer(path)


def test_no_file_and_no_weights(tmp_path):
    with pytest.raises(ESCNetError, match='does not exist'):
        OpenVocabInferencer(tmp_path / 'none.safetensors')
    (tmp_path / 'cut.safetensors').write_bytes(b'\x80\x00')
    with pytest.raises(ESCNetError, match='cannot be read'):
        OpenVocabInferencer(tmp_path / 'cut.safetensors')
    with pytest.raises(ESCNetError, match='ESCNet needs a checkpoint, or an inference file'):
        OpenVocabInferencer(ROOT / 'configs/toyworld/escnet_toy.py')


def test_weights_of_another_model(file, content, tmp_path):
    tensors, metadata = content
    tensors = {key: value for key, value in tensors.items() if not key.startswith('neck.')}
    save_file(tensors, tmp_path / 'less.safetensors', metadata=metadata)
    with pytest.raises(ESCNetError, match='neck'):
        OpenVocabInferencer(tmp_path / 'less.safetensors', device='cpu')


def test_reading_leaves_the_config_of_the_caller_alone():
    config, checkpoint = toy_model()
    before = copy.deepcopy(config.to_dict())
    encode_inference_file(config, checkpoint)
    assert config.to_dict() == before


def test_the_config_alone(file):
    config = read_inference_config(file)
    assert config.model.backbone.pretrained is None
    assert [step['type'] for step in config.test_pipeline][:2] == ['LoadImage', 'Resize']
