"""Properties that hold for whatever Hypothesis thinks of: words, images, label maps, weights."""

import io
import json
import sys
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from conftest import toy_model_cfg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from mmcv.transforms import LoadImageFromFile
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from damage import outcome

from mmseg_escnet.apis.images import ImageReader
from mmseg_escnet.class_files import class_line, read_classes, read_colored_classes
from mmseg_escnet.files import decode_label_map, encode_label_map
from mmseg_escnet.models.segmentors.windows import check_test_cfg
from mmseg_escnet.models.weights import load_strict
from mmseg_escnet.vocabulary import Vocabulary, normalise_classes

settings.register_profile('same every time', derandomize=True, deadline=None, database=None)
settings.load_profile('same every time')

WORDS = st.lists(
    st.text(max_size=12) | st.sampled_from(['cat', 'Cat ', 'cat|dog', '', '|', '\x00'])
)


@given(WORDS)
@settings(max_examples=300)
def test_vocabulary(names):
    """Either refused in one sentence, or as many different, visible classes as there are names."""
    vocabulary, message = outcome(lambda: Vocabulary.create(names))
    if message is not None:
        return
    assert len(vocabulary) == len(names) > 0
    seen = set()
    for words in vocabulary.synonyms:
        assert words
        for word in words:
            assert word.strip()
            assert not any(unicodedata.category(c) == 'Cc' for c in word)
        # cleaned otherwise than we do it: compatible forms, case, spaces
        key = tuple(' '.join(unicodedata.normalize('NFKC', w).casefold().split()) for w in words)
        assert key not in seen
        seen.add(key)
    assert len(vocabulary.dataset_meta['palette']) == len(names)
    again = Vocabulary.create(vocabulary.names, vocabulary.dataset_meta['palette'])
    assert again == vocabulary


@given(
    st.lists(
        st.text(max_size=12)
        | st.text('#":|,\\\\ \u2028\ufeffa1é[{', max_size=8)
        | st.sampled_from(
            ['cat', '#1 pencil', 'sign: stop', 'door, open', '"a": b', 'a;', 'a 1 2 3']
        )
    )
)
@settings(max_examples=500)
def test_names_are_read_back_as_written(names):
    """Those that a vocabulary accepts, in any order; also with a colour behind them."""
    vocabulary, message = outcome(
        lambda: Vocabulary.create(names, phrases=[[name] for name in names])
    )
    if message is not None:
        return
    text = ''.join(f'{class_line(name)}\n' for name in vocabulary.names)
    colors = {(i % 256, i // 256, 9): class_line(name) for i, name in enumerate(vocabulary.names)}
    forms = ('{} #{:02x}{:02x}{:02x}', '{}: {} {} {}', '{},{},{},{}::')
    colored = (forms[i % 3].format(colors[color], *color) for i, color in enumerate(colors))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'names.txt'
        path.write_bytes(text.encode())
        found = read_classes(path)
        path.write_bytes('\n'.join(colored).encode())
        assert read_colored_classes(path) == colors
    assert tuple(found) == vocabulary.names
    assert Vocabulary.create(list(found), phrases=found) == vocabulary


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(JSON)
@settings(max_examples=300)
def test_classes_of_any_form(content):
    classes, message = outcome(lambda: normalise_classes(content))
    if message is None:
        assert classes
        json.dumps(classes)


@given(
    arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.int64, np.float32, bool]),
        array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
    )
)
@settings(max_examples=300)
def test_arrays_as_images(image):
    """RGB in, BGR out, 16 bits by their upper 8, and nothing but pictures."""
    reader = ImageReader(LoadImageFromFile(imdecode_backend='cv2'))
    found, message = outcome(lambda: reader.read(image, 'Image 0'))
    if message is not None:
        assert message.startswith('Image 0 ')
        return
    assert image.dtype in (np.uint8, np.uint16)
    height, width = image.shape[:2]
    assert found.shape == (height, width, 3)
    for row in range(height):
        for column in range(width):
            pixel = np.atleast_1d(image[row, column]).tolist()
            red, green, blue = (pixel * 3)[:3] if len(pixel) == 1 else pixel[:3]
            expected = [blue, green, red]
            if image.dtype == np.uint16:
                expected = [value // 256 for value in expected]
            assert found[row, column].tolist() == expected


@given(
    st.sampled_from(['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'I;16', 'I', 'F']),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(['png', 'jpeg', 'tiff', 'webp', 'bmp', 'gif']),
    st.floats(0, 1),
)
@settings(max_examples=200)
def test_files_as_images(mode, width, height, suffix, kept):
    """Whatever the mode and however much of the file is there."""
    buffer = io.BytesIO()
    try:
        Image.new(mode, (width, height), 1).save(buffer, suffix)
    except (OSError, ValueError, KeyError):
        return  # the format has no such mode
    content = buffer.getvalue()
    content = content[: int(len(content) * kept)] if kept < 0.9 else content
    reader = ImageReader(LoadImageFromFile(imdecode_backend='cv2'))
    found, message = outcome(lambda: reader.read(content, 'Image 0'))
    if message is None:
        assert found.shape == (height, width, 3)
        assert found.dtype == np.uint8


@given(
    arrays(
        st.sampled_from([np.uint8, np.uint16]),
        array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    )
)
def test_label_maps(ids):
    """No id changes on its way through a file."""
    np.testing.assert_array_equal(decode_label_map(encode_label_map(ids), 'a.png'), ids)


@given(
    st.sampled_from(['weight', 'bias', 'gone', 'weight.0', '']),
    arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.complex64]),
        array_shapes(min_dims=0, max_dims=3, max_side=3),
        elements=dict(allow_nan=False, allow_infinity=False),
    ),
)
@settings(max_examples=200)
def test_weights(key, value):
    """They fit, or are refused with the key's name; then nothing was loaded."""
    module = nn.Linear(2, 3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    given_ = dict(before) | {key: torch.from_numpy(np.array(value))}
    _, message = outcome(lambda: load_strict(module, given_, source='a.pth'))
    if message is not None:
        assert 'a.pth' in message
        assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    else:
        assert key in before
        assert value.shape == tuple(before[key].shape)
        assert value.dtype.kind == 'f'


@pytest.fixture(scope='module')
def model():
    model = MODELS.build(toy_model_cfg()).eval()
    model.set_vocabulary(['sky', 'tree', 'road'])
    return model


ANYTHING = st.none() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=3) | st.just([1])


@given(
    st.sampled_from(['mode', 'crop_size', 'stride', 'autocast', 'shortlist', 'keep_scores']),
    ANYTHING | st.tuples(ANYTHING, ANYTHING),
)
@settings(max_examples=150)
def test_test_cfg(model, key, value):
    """It is refused with its name, or the model predicts with it."""
    test_cfg = dict(mode='windows', crop_size=(64, 64), stride=(64, 64)) | {key: value}
    _, message = outcome(lambda: check_test_cfg(ConfigDict(test_cfg)))
    if message is not None:
        assert key in message
        return
    model.test_cfg = ConfigDict(test_cfg)
    (sample,) = model.predict(torch.zeros(1, 3, 64, 64))
    assert sample.pred_sem_seg.data.shape[-2:] == (64, 64)
