"""What the options of tools/test.py change in a config, and the runner that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import Dataset

from ..engine.processes import join_processes
from ..errors import ESCNetError
from .saved_predictions import check_prediction_names


def draw_results(
    cfg: Config, *, show: bool = False, show_dir: str | None = None, wait_time: float = 0
) -> None:
    """Paint every image: label map and prediction side by side.

    Args:
        cfg: The config, changed in place.
        show: In a window.
        show_dir: Into this folder.
        wait_time: Seconds a window stays.

    Raises:
        ESCNetError: If both are asked for, of which MMSegmentation would leave out the folder, or
            the config has nothing to draw with.
    """
    if show and show_dir is not None:
        raise ESCNetError(
            '--show and --show-dir exclude each other, because MMSegmentation stores nothing while '
            'it shows: leave one out.'
        )
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None or cfg.get('visualizer') is None:
        raise ESCNetError(
            '--show and --show-dir need default_hooks.visualization and visualizer in the config: '
            "inherit configs/_base_/runtime.py, and set visualization=dict(type='"
            "SegVisualizationHook')."
        )
    hook.update(draw=True, interval=1)
    if show:
        hook.update(show=True, wait_time=wait_time)
    else:
        cfg.visualizer.save_dir = show_dir


def save_predictions(
    cfg: Config, dataset: Dataset, folder: str, dataset_name: str | None = None
) -> None:
    """Let the metric write its predictions, and make sure that every image gets a file.

    Args:
        cfg: The config, changed in place.
        dataset: The data set under test, built.
        folder: Where to.
        dataset_name: What to call the data set; the name of its class by default.

    Raises:
        ESCNetError: If there are several metrics, two images would share a file, or the folder
            is a file.
    """
    if not isinstance(cfg.test_evaluator, dict):
        raise ESCNetError(
            '--out needs a config with a single test_evaluator: set output_dir of one in a '
            'list with --cfg-options.'
        )
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ESCNetError(f'--out {folder} is a file: give a folder.')
    image_dir = image_dir_of(dataset)
    check_prediction_names(image_paths(dataset), image_dir)
    cfg.test_evaluator.update(output_dir=folder, keep_results=True)
    if cfg.test_evaluator.type == 'OpenVocabIoUMetric':
        cfg.test_evaluator.update(
            image_dir=image_dir, dataset_name=dataset_name or type(dataset).__name__
        )


def image_dir_of(dataset: Dataset) -> str | None:
    """Folder of a data set's images, None if it does not say."""
    return (getattr(dataset, 'data_prefix', None) or {}).get('img_path')


def image_paths(dataset: Dataset) -> list[str]:
    """Paths of the images of a data set, in order."""
    return [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]


def use_tta(cfg: Config) -> None:
    """Test-time augmentation: the config's own, or every image also mirrored.

    ``tta_pipeline`` and ``tta_model`` of the config are used as MMSegmentation uses them. Without
    them, the test pipeline is run on the image and on its mirror image, so that the protocol of the
    config (size, windows, global view) stays, and probabilities are averaged. A ``tta_model`` that
    is not ours gets the scores of all classes, at the size of the image, by ``keep_scores``.

    Args:
        cfg: The config, changed in place.

    Raises:
        ESCNetError: If the test pipeline cannot be mirrored.
    """
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = cfg.get('tta_pipeline') or _mirrored(dataset.get('pipeline') or ())
    model, merging = cfg.model, cfg.get('tta_model') or dict(type='OpenVocabTTAModel')
    if merging['type'] != 'OpenVocabTTAModel':
        model.test_cfg = dict(model.get('test_cfg') or {}, keep_scores=True)
    cfg.model = dict(merging, module=model)


def _mirrored(pipeline: Sequence[dict]) -> list[dict]:
    types = [step.type for step in pipeline]
    load = next((i for i, name in enumerate(types) if name.startswith('LoadImage')), None)
    if load is None or any(name.startswith(('LoadAnn', 'LoadLabel')) for name in types[:load]):
        raise ESCNetError(
            'This test pipeline has no step that loads the image, with labels loaded after it, so '
            '--tta does not know where to mirror: give tta_pipeline in the config.'
        )
    # before the labels are loaded: predictions are turned back, labels stay as they are
    flips = [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)]
    rest = [[step] for step in pipeline[load + 1 :]]
    return [
        *pipeline[: load + 1],
        dict(type='TestTimeAug', transforms=[flips, *rest]),
    ]


def build_test_runner(cfg: Config) -> Runner:
    """A runner that only tests: it never looks for the training data.

    Args:
        cfg: A whole config; its ``launcher`` as in :func:`join_processes`.

    Raises:
        ESCNetError: If the launcher did not start this process.
    """
    join_processes(cfg)
    runner = Runner.from_cfg(cfg)
    # SegVisualizationHook asks for runner.iter, which builds the training data set to count in
    runner._train_loop = None
    return runner
