"""OpenVocabVisualizer through the ways in which MMSegmentation and MMEngine draw."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmengine.visualization.vis_backend import BaseVisBackend
from mmseg.engine import SegVisualizationHook
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.colors import OPACITY
from mmseg_escnet.visualization.overlay import draw_comparison

WORDS = [f'word {i}' for i in range(847)]
PALETTE = [[i % 256, 200 - i // 256, 40 * (i % 5)] for i in range(847)]
HEIGHT, WIDTH = 60, 90


class Backend(BaseVisBackend):
    """Keeps the pictures, as TensorBoard's would."""

    def __init__(self) -> None:
        super().__init__('nowhere')
        self.pictures = []

    def _init_env(self) -> None:
        pass

    @property
    def experiment(self):
        return self

    def add_image(self, name, image, step=0, **kwargs) -> None:
        self.pictures.append((name, step, image))


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def visualizer(backend, request):
    cfg = dict(type='OpenVocabVisualizer', name=request.node.name, vis_backends=[backend])
    visualizer = VISUALIZERS.build(cfg)
    visualizer.dataset_meta = dict(classes=WORDS, palette=PALETTE)
    return visualizer


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def sample(truth=None, prediction=None, path='a/1.png') -> SegDataSample:
    found = SegDataSample(metainfo=dict(img_path=path))
    if truth is not None:
        found.gt_sem_seg = PixelData(data=torch.as_tensor(truth)[None])
    if prediction is not None:
        found.pred_sem_seg = PixelData(data=torch.as_tensor(prediction)[None])
    return found


def label_map(*ids: int, size=(HEIGHT, WIDTH), dtype=np.int64) -> np.ndarray:
    return np.array(ids, dtype).repeat(-(-size[1] // len(ids)))[None, : size[1]].repeat(size[0], 0)


def expected(image, maps, names=WORDS, palette=PALETTE, **kwargs) -> np.ndarray:
    kwargs = dict(opacity=OPACITY) | kwargs
    return np.array(draw_comparison(image, maps, names=names, palette=palette, **kwargs))


def test_ground_truth_and_prediction(visualizer, backend, image):
    """Ids beyond 255 in every integer type; ignored ids of 8 and 16 bits, and negative ones."""
    truth, prediction = label_map(846, 300, 65535), label_map(846, 255, 3)
    visualizer.add_datasample('x', image, sample(truth.astype(np.int32), prediction), step=5)
    negative = np.where(truth == 65535, -1, truth)
    visualizer.add_datasample('y', image, sample(negative, prediction))
    drawn = expected(image, {'ground truth': truth, 'prediction': prediction})
    assert [(name, step) for name, step, _ in backend.pictures] == [('x', 5), ('y', 0)]
    for _, _, picture in backend.pictures:
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, drawn)
    shown = visualizer.get_image()  # drawn once more by matplotlib, which moves some lines by one
    assert shown.shape == drawn.shape
    assert np.median(np.abs(shown.astype(int) - drawn)) == 0

    visualizer.dataset_meta = dict(classes=WORDS[:3], palette=PALETTE[:3])
    visualizer.add_datasample('z', image, sample(label_map(0, 255, dtype=np.uint8)))
    drawn = expected(image, {'ground truth': label_map(0, 255)}, WORDS[:3], PALETTE[:3])
    np.testing.assert_array_equal(backend.pictures[-1][2], drawn)


def test_what_is_drawn_can_be_chosen(visualizer, backend, image):
    both = sample(label_map(1), label_map(2))
    visualizer.add_datasample('x', image, both, draw_gt=False, with_labels=False)
    visualizer.alpha = 0.9
    visualizer.add_datasample('x', image, both, draw_pred=False)
    visualizer.add_datasample('x', image, None)
    wanted = [
        expected(image, dict(prediction=label_map(2)), tags=False),
        expected(image, {'ground truth': label_map(1)}, opacity=0.9),
        expected(image, {}),
    ]
    for (_, _, picture), drawn in zip(backend.pictures, wanted, strict=True):
        np.testing.assert_array_equal(picture, drawn)


def test_labels_of_another_size(visualizer, backend, image):
    small = label_map(7, 300, size=(20, 30))
    visualizer.add_datasample('x', image, sample(small))
    drawn = expected(image, {'ground truth': label_map(7, 300)})
    np.testing.assert_array_equal(backend.pictures[0][2], drawn)


def test_background_of_many_words(visualizer, backend, image):
    """As PAS-20b counts: the ground truth has one id for it, predictions have all."""
    meta = dict(classes=WORDS[:59], palette=PALETTE[:59], background_from=20)
    visualizer.dataset_meta = meta
    truth, prediction = label_map(3, 20, 255), label_map(3, 20, 58)
    visualizer.add_datasample('x', image, sample(truth, prediction))
    maps = {'ground truth': truth, 'prediction': label_map(3, 20, 20)}
    names, palette = [*WORDS[:20], 'background'], [*PALETTE[:20], (128, 128, 128)]
    np.testing.assert_array_equal(backend.pictures[0][2], expected(image, maps, names, palette))


def test_images_of_the_same_name(visualizer, backend, image):
    """The hook knows their names without folders: none replaces another."""
    for path in ('a/1.png', 'b/1.png', 'a/1.png'):
        visualizer.add_datasample('val_1.png', image, sample(label_map(1), path=path))
    names = [name for name, _, _ in backend.pictures]
    assert names == ['val_1.png', 'val_1.png_b', 'val_1.png']


def test_a_file(visualizer, backend, image, tmp_path):
    path = tmp_path / 'deep/x.png'
    visualizer.add_datasample('x', image, sample(label_map(1)), out_file=str(path))
    drawn = expected(image, {'ground truth': label_map(1)})
    np.testing.assert_array_equal(np.array(Image.open(path)), drawn)
    assert backend.pictures == []


def test_without_names(visualizer, image):
    visualizer.dataset_meta = {}
    with pytest.raises(ESCNetError, match='does not know the class names'):
        visualizer.add_datasample('x', image, sample(label_map(1)))


def test_the_hook_of_a_validation(visualizer, backend, image, tmp_path):
    """It reads the photograph itself; the step is that of the training."""
    Image.fromarray(image).save(tmp_path / '1.png')
    hook = SegVisualizationHook(draw=True, interval=2)
    hook._visualizer = visualizer
    outputs = [sample(label_map(1), label_map(500), path=str(tmp_path / '1.png'))]
    for number in range(3):
        hook.after_val_iter(SimpleNamespace(iter=40), number, {}, outputs)
    drawn = expected(image, {'ground truth': label_map(1), 'prediction': label_map(500)})
    ((name, step, picture),) = backend.pictures
    assert (name, step) == ('val_1.png', 40)
    np.testing.assert_array_equal(picture, drawn)
