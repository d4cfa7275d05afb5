"""Configs: where they are, reading one, and what inference takes from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ESCNetError

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict

INFERENCE_SUFFIX = '.safetensors'


def config_folder() -> Path:
    """Folder of the configs: that of the work tree, or the one that an installed wheel carries.

    Raises:
        ESCNetError: If there is neither.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / '.mim' / 'configs', package.parent / 'configs'):
        if (folder / '_base_').is_dir():
            return folder
    raise ESCNetError(
        f'The configs of mmseg_escnet are not in {package / ".mim"}, where its wheel puts them: '
        'install the package again.'
    )


def check_config_path(path: str | os.PathLike) -> None:
    """Refuse a config that does not exist, before anything is imported to read it.

    Raises:
        ESCNetError: If there is no such file.
    """
    if not Path(path).is_file():
        raise ESCNetError(
            f'The config {path} does not exist: give a path such as '
            'configs/escnet/escnet_vitb16_coco-stuff.py.'
        )


def is_inference_file(path: object) -> bool:
    """Whether a path is one of an inference file, which has its config in it, by its suffix."""
    return isinstance(path, (str, os.PathLike)) and Path(path).suffix.lower() == INFERENCE_SUFFIX


def read_config(
    config: str | os.PathLike | Config, options: Mapping[str, object] | None = None
) -> Config:
    """A config of one's own, from a file or from another.

    Args:
        config: Its path, or a config, which is left as it is.
        options: Settings to override, nested keys with dots.

    Raises:
        ESCNetError: If there is no such file.
    """
    from mmengine.config import Config

    if isinstance(config, Config):
        cfg = config.copy()
    else:
        check_config_path(config)
        cfg = Config.fromfile(config)
    if options is not None:
        cfg.merge_from_dict(dict(options))
    return cfg


def pipeline_steps(cfg: Config) -> list[dict]:
    """The configs of the transforms of a config's test data set, which ``tools/test.py`` uses.

    Raises:
        ESCNetError: If the config has no such pipeline.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and ('dataset' in dataset or dataset.get('datasets')):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    steps = dataset.get('pipeline') or cfg.get('test_pipeline')
    if steps is None:
        raise ESCNetError(
            'The config has neither test_dataloader.dataset.pipeline nor test_pipeline, which say '
            'how an image is prepared: add one of them.'
        )
    return steps


def run_config(
    path: str | os.PathLike,
    options: Mapping[str, object] | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """A config as MMEngine's runner takes it, with ``work_dir`` and ``launcher`` set.

    Args:
        path: The file of the config.
        options: Settings to override, nested keys with dots.
        work_dir: Folder of logs and checkpoints; by default the config's, or work_dirs/<its name>.
        launcher: Of processes: 'none', 'pytorch', 'slurm' or 'mpi'.

    Raises:
        ESCNetError: If there is no such file.
    """
    cfg = read_config(path, options)
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(path).stem)
    cfg.launcher = launcher
    return cfg


def forget_pretrained(model: ConfigDict) -> None:
    """Take the pretrained weights out of a model's config: a checkpoint has them all, or none."""
    model.backbone.pretrained = None
    if 'neck' in model:  # CLIP alone has none
        model.neck.sam_pretrained = None


def check_needs_no_checkpoint(cfg: Config) -> None:
    """Refuse to do without a checkpoint, unless the model is CLIP alone with CLIP's weights.

    Raises:
        ESCNetError: If it is another model, or one with random weights.
    """
    model = cfg.model.get('module', cfg.model)  # inside test-time augmentation
    if model.type != 'CLIPReadout':
        raise ESCNetError(
            f'{model.type} needs a checkpoint, or an inference file (*{INFERENCE_SUFFIX}), '
            'which has config and weights in it: give one. What can be used without training is '
            'CLIP alone, configs/clip.'
        )
    if model.backbone.get('pretrained') is None:
        raise ESCNetError(
            'model.backbone.pretrained is None, so that CLIP would be random: set it to a tag such '
            "as 'openai', or to a local file."
        )
