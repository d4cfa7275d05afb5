"""Checks of a config's inputs before anything expensive."""

from __future__ import annotations

import copy
import os
import zipfile
from collections.abc import Mapping

import open_clip
from mmengine.config import Config, ConfigDict
from mmseg.registry import DATASETS, MODELS
from open_clip.model import CLIPTextCfg
from torch.utils.data import Dataset

from .compat import can_restrict_checkpoints
from .consistency import check_consistency
from .errors import ESCNetError, Problems
from .models.clip_weights import find_clip
from .models.sam_weights import find_sam
from .models.weights import read_checkpoint
from .vocabulary import Vocabulary


def check_datasets(cfg: Config, *phases: str) -> dict[str, Dataset]:
    """Check the settings of some phases, build their data sets, and load a few images and labels.

    Args:
        cfg: A complete config.
        *phases: Of 'train', 'val' and 'test'.

    Returns:
        The data sets by phase.

    Raises:
        ESCNetError: With what is missing and the command that creates it, or the invalid file; if
            mIoU is to be computed without labels; if the model cannot read the words or tell them
            apart; or as :func:`.check_consistency`.
    """
    from mmengine.registry import init_default_scope

    init_default_scope(cfg.get('default_scope', 'mmseg'))
    check_consistency(cfg, *phases)
    datasets = {}
    for phase in phases:
        dataloader = cfg.get(f'{phase}_dataloader')
        if dataloader is not None:
            # a copy, since some transforms change their config
            dataset = DATASETS.build(copy.deepcopy(dataloader.dataset))
            _check_words(cfg.get('model') or {}, dataset.metainfo)
            for index in {0, len(dataset) // 2, len(dataset) - 1}:
                item = dataset[index]
            if _needs_labels(cfg.get(f'{phase}_evaluator')) and not _has_labels(item):
                raise unlabelled(f'The data set of {phase}_dataloader')
            datasets[phase] = dataset
    return datasets


def _check_words(model: Mapping, metainfo: Mapping) -> None:
    """Check the words of a data set as the model, whose config is given, would once it is built."""
    model = model.get('module', model)  # inside test-time augmentation
    if 'text_encoder' not in model or 'classes' not in metainfo:
        return
    backbone = model['backbone']
    clip = backbone.get('model_cfg') or open_clip.get_model_config(backbone.get('model_name')) or {}
    length = clip.get('text_cfg', {}).get('context_length', CLIPTextCfg.context_length)
    words = metainfo['classes'], metainfo.get('palette'), metainfo.get('phrases')
    MODELS.build(model['text_encoder']).check(Vocabulary.create(*words), length)


def unlabelled(where: str) -> ESCNetError:
    """The error for images without label maps where mIoU is to be computed."""
    return ESCNetError(
        f'{where} has no label maps, which mIoU needs: give data_prefix.seg_map_path, and load '
        'labels in the pipeline; or, to save predictions alone, set test_evaluator.format_only=True'
        ' and test_evaluator.output_dir, or use mmseg-escnet infer.'
    )


def _needs_labels(evaluator: dict | list[dict] | None) -> bool:
    metrics = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator or {}]
    return any(
        str(metric.get('type')).endswith('IoUMetric') and not metric.get('format_only')
        for metric in metrics
    )


def _has_labels(item: dict) -> bool:
    samples = item.get('data_samples')  # a list with test-time augmentation
    return any('gt_sem_seg' in one for one in (samples if isinstance(samples, list) else [samples]))


def find_weights(model: ConfigDict, *, allow_download: bool = True) -> None:
    """Find the pretrained weights of a model.

    Args:
        model: Its config.
        allow_download: Download what is missing, if possible.

    Raises:
        ESCNetError: With all that is missing and the commands that download it.
    """
    problems = Problems()
    sam = model.get('neck', {}).get('sam_pretrained')
    if sam is not None:
        with problems:
            find_sam(str(sam), verify=False, allow_download=allow_download)
    clip = model.backbone.get('pretrained')
    if clip is not None:
        with problems:  # a large download is of no use if something else is missing
            allow_download = allow_download and not problems.sentences
            find_clip(model.backbone.get('model_name'), str(clip), allow_download=allow_download)
    problems.raise_all()


def check_checkpoint(path: str) -> dict | None:
    """Read a checkpoint file, without executing anything in it.

    Returns:
        Its ``meta``; None if this torch would execute what is in it, so that it was not read.

    Raises:
        ESCNetError: If it does not exist, is an address, is damaged, or contains more than tensors
            and plain data.
    """
    return read_checkpoint(os.fspath(path))[1] if is_checkable(path) else None


def is_checkable(path: str | os.PathLike) -> bool:
    """Whether this torch can read a checkpoint without executing anything in it.

    Archives with older versions of torch are left to MMEngine's loader.
    """
    return can_restrict_checkpoints() or not zipfile.is_zipfile(path)
