"""tools/deployment: the exported network against the model, changing words, no PyTorch."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import ROOT
from PIL import Image
from tool_processes import run_tool, tool_of

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import OpenVocabInferencer
from mmseg_escnet.export import protocol
from mmseg_escnet.label_folder import LabelReader
from mmseg_escnet.toyworld.model import toy_model
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.version import __version__

PAGE = (ROOT / 'docs/export.md').read_text()
WORDS = ['red circle', 'wood', 'water', 'cyan ring', 'grass']
# what an example for others may import; the rest it must do without
BLOCKED = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmseg', 'open_clip', 'mmseg_escnet', 'PIL')
WINDOWS = ['--cfg-options', 'model.test_cfg.mode=windows']
WINDOWS += ['model.test_cfg.crop_size=64,64', 'model.test_cfg.stride=40,40']


def load_tool(name):
    path = ROOT / f'tools/deployment/{name}.py'
    spec = importlib.util.spec_from_file_location(f'{name}_tool', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def windows():
    """The toy model in the protocol of the full models, with views that are not square."""
    config, checkpoint = toy_model()
    config.test_dataloader.dataset.pipeline[1]['scale'] = (150, 100)
    test_cfg = dict(mode='windows', crop_size=(64, 96), stride=(40, 64), window_batch_size=1)
    return OpenVocabInferencer(config, checkpoint, 'cpu', cfg_options={'model.test_cfg': test_cfg})


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """The same, exported by the tool, and words."""
    folder = tmp_path_factory.mktemp('onnx')
    files = folder / 'new/model.onnx', folder / 'words.npz'
    load_tool('export').main(
        [f'--out={files[0]}', f'--words={files[1]}', f'--classes={", ".join(WORDS)}']
        + ['--size', '64', '96', *WINDOWS, 'model.test_cfg.stride=40,64']
        + ['test_dataloader.dataset.pipeline.1.scale=150,100']
    )
    assert os.listdir(folder / 'new') == ['model.onnx']  # nothing is left behind
    return files


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    """The folder in which the commands of docs/export.md were run, and what they printed."""
    folder = tmp_path_factory.mktemp('page')
    (folder / 'tools').symlink_to(ROOT / 'tools')
    printed = ''
    for block in re.findall(r'^```bash\n(.*?)^```', PAGE, re.DOTALL | re.MULTILINE):
        for command in block.splitlines():
            done = run_tool(*tool_of(command), cwd=folder)
            assert done.returncode == 0, (command, done.stderr)
            printed += done.stdout
    return folder, printed


def expected_scores(segmenter, image, text) -> np.ndarray:
    """The model's own (1, N, H, W) of an RGB image (1, 3, H, W), without its text encoder."""
    model = segmenter.model
    model.set_vocabulary([f'word {index}' for index in range(len(text))])
    data = model.data_preprocessor(dict(inputs=[image[0].flip(0).byte()]), False)  # BGR
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(model, 'text_features', lambda: text)
        return model.encode_decode(data['inputs'], [{}])


def run_example(files, image, out) -> np.ndarray:
    """In a process that has no PyTorch; the label map."""
    code = (
        'import runpy, sys\n'
        f'sys.modules.update(dict.fromkeys({BLOCKED}))\n'
        'sys.argv = sys.argv[1:]\n'
        'runpy.run_path(sys.argv[0], run_name="__main__")'
    )
    example = ROOT / 'tools/deployment/onnx_example.py'
    done = subprocess.run(
        [sys.executable, '-c', code, example, image, *files, '--out-dir', out],
        capture_output=True,
        text=True,
        cwd=out.parent,
    )
    assert done.returncode == 0, done.stderr
    label = Image.open(out / f'labels/{image.name}.png')
    assert Image.open(out / f'overlays/{image.name}.png').size == label.size
    return np.asarray(label)


@pytest.mark.parametrize('number', [1, 2, 70])
def test_scores_are_those_of_the_model(number, windows, files):
    """Any number of words, without another export."""
    session = onnxruntime.InferenceSession(files[0])
    assert session.get_inputs()[0].shape == [1, 3, 64, 96]
    image = torch.randint(256, (1, 3, 64, 96)).float()
    text = torch.nn.functional.normalize(torch.randn(number, 128), dim=1)
    (found,) = session.run(None, dict(image=image.numpy(), text_features=text.numpy()))
    expected = expected_scores(windows, image, text).softmax(dim=1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_another_order_of_words_is_another_order_of_scores(files):
    session = onnxruntime.InferenceSession(files[0])
    image = np.ascontiguousarray(scene(0, 3)[0][:64].transpose(2, 0, 1)[None], np.float32)
    text = np.load(files[1])['text_features']
    order = [3, 0, 4, 1, 2]
    (before,) = session.run(None, dict(image=image, text_features=text))
    (after,) = session.run(None, dict(image=image, text_features=text[order]))
    np.testing.assert_allclose(after, before[:, order], atol=1e-5)
    assert abs(after - before).max() > 0.5


def test_example_on_photographs(windows, files, real_samples, tmp_path):
    """Photographs of several sizes; the label maps of the model but for ties."""
    images = sorted((real_samples / 'photos').glob('*.jpg'))
    images += sorted((real_samples / 'VOCdevkit/VOC2012/JPEGImages').glob('*.jpg'))
    assert len({Image.open(image).size for image in images}) >= 3
    several = 0
    for index, image in enumerate(images):
        labels = run_example(files, image, tmp_path / str(index))
        expected = windows(image, WORDS).labels
        assert labels.shape == expected.shape
        assert (labels == expected).mean() > 0.999
        several += len(np.unique(expected)) > 1
    assert several >= 2


def test_example_on_a_drawing(windows, files, tmp_path):
    Image.fromarray(scene(0, 3, 130)[0]).save(tmp_path / 'scene.png')
    labels = run_example(files, tmp_path / 'scene.png', tmp_path / 'out')
    assert (labels == windows(tmp_path / 'scene.png', WORDS).labels).mean() > 0.999
    reader = LabelReader(tmp_path / 'out')
    assert reader.names.names == WORDS
    np.testing.assert_array_equal(reader.read('scene.png'), labels)


def test_the_page(page, monkeypatch):
    """Its commands have run (see above), the network is that of the model, its code runs."""
    folder, printed = page
    rows = re.findall(r'^\| +(\d+) \| +(\S+) \| +\S+ \| +\S+ \|$', printed, re.MULTILINE)
    assert [int(number) for number, _ in rows] == 2 * [1, 20, 150]
    assert all(float(difference) < 1e-3 for _, difference in rows)
    assert list((folder / 'results/overlays').glob('*.png'))
    monkeypatch.chdir(folder)
    (code,) = re.findall(r'^```python\n(.*?)^```', PAGE, re.DOTALL | re.MULTILINE)
    exec(code, {})


def test_example_with_other_words_and_one_view(page, tmp_path):
    """Words with a background, by a model without windows, whose scores are logits."""
    folder, _ = page
    content = np.load(folder / 'others.npz', allow_pickle=False)
    assert content['names'].tolist() == ['grass', 'yellow heart | heart', 'other']
    assert content['label_of_word'].tolist() == [0, 1, 2, 2]
    image = folder / 'scenes/images/val/000000.png'
    labels = run_example((folder / 'model.onnx', folder / 'others.npz'), image, tmp_path / 'out')
    whole = OpenVocabInferencer(*toy_model(), 'cpu')
    classes = ['grass', 'yellow heart | heart']
    expected = whole(image, classes, background=['sand', 'cyan circle']).labels
    assert len(np.unique(expected)) > 1
    assert (labels == expected).mean() > 0.999


def test_torch_program(page):
    """Of the toy model as it is: the image is one view, scores are logits."""
    extra = {'mmseg_escnet.json': ''}
    program = torch.export.load(page[0] / 'model.pt2', extra_files=extra).module()
    assert json.loads(extra['mmseg_escnet.json'])['view'] == [96, 96]
    whole = OpenVocabInferencer(*toy_model(), 'cpu')
    image = torch.from_numpy(scene(0, 3)[0]).permute(2, 0, 1)[None].float()
    for number in (1, 7):
        text = torch.nn.functional.normalize(torch.randn(number, 128), dim=1)
        torch.testing.assert_close(program(image, text), expected_scores(whole, image, text))


def test_comparison_with_the_model(windows, files, monkeypatch):
    """What --check prints; a file of other weights is noticed."""
    compare = load_tool('export').compare
    (one, _, *_), (several, difference, *times) = compare(windows, files[0], numbers=(1, 30))
    assert (one, several) == (1, 30)
    assert difference < 1e-4
    assert min(times) > 1e-3
    weight = windows.model.decode_head.predict_logits.weight
    monkeypatch.setattr(weight, 'data', weight.data * 2)
    ((_, difference, *_),) = compare(windows, files[0], numbers=(30,))
    assert difference > 0.01


def test_settings_in_the_file(files):
    session = onnxruntime.InferenceSession(files[0])
    settings = json.loads(session.get_modelmeta().custom_metadata_map['mmseg_escnet'])
    assert settings == dict(
        view=[64, 96],
        resize=[100, 150],
        stride=[40, 64],
        global_view=True,
        activation='softmax',
        embed_dims=128,
        clip=None,  # the miniature one
        templates=['A photo of a {} in the scene'],
        version=__version__,
    )


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--out=model.zip'], r'model\.zip must end in \.onnx or \.pt2'),
        (['--words=words.txt'], r'words\.txt must end in \.npz'),
        (['--out=model.onnx', '--size', '0', '96'], r'The size of a view is \(0, 96\)'),
        (['--words=w.npz', '--classes=wood', '--background=0.3'], 'cannot hold a score threshold'),
        (['--out=model.onnx', '--size', '30', '96', *WINDOWS], 'would leave gaps'),
        (['--out=model.onnx', '--size', '64', '97', *WINDOWS], 'larger than the images'),
    ],
)
def test_bad_input(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ESCNetError, match=message):
        load_tool('export').main(arguments)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ('arguments', 'message'), [([], 'nothing to write'), (['--words=w.npz', '--check'], 'to check')]
)
def test_nothing_to_do(arguments, message, capsys):
    with pytest.raises(SystemExit):
        load_tool('export').main(arguments)
    assert message in capsys.readouterr().err


def test_a_missing_library_is_reported_before_tracing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ESCNetError, match='onnxruntime is missing: pip install'):
        load_tool('export').main([f'--out={tmp_path / "m.onnx"}', '--check'])
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize('how', [dict(keep_ratio=True), dict(interpolation='nearest')])
def test_a_pipeline_that_cannot_be_exported_is_refused(how):
    config, checkpoint = toy_model()
    config.test_dataloader.dataset.pipeline[1].update(how)
    segmenter = OpenVocabInferencer(config, checkpoint, 'cpu')
    with pytest.raises(ESCNetError, match='does more than a Resize'):
        protocol(segmenter)


def test_a_view_without_a_size_is_refused():
    config, checkpoint = toy_model()
    pipeline = config.test_dataloader.dataset.pipeline
    pipeline[:2] = [dict(type='LoadImageFromFile')]  # MMSegmentation's own, and no Resize
    segmenter = OpenVocabInferencer(config, checkpoint, 'cpu')
    with pytest.raises(ESCNetError, match=r'view is None: give \(height, width\)'):
        protocol(segmenter)
    assert protocol(segmenter, (48, 64))['resize'] == [48, 64]
