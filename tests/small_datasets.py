"""Small data sets, written for a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ('cat', 'dog', 'red [car]', 'tree')


def write_pair(root: Path, stem: str, ids, size: tuple[int, int] | None = None) -> None:
    """Write a label map and a JPEG, of the same size unless another (width, height) is given."""
    ids = np.asarray(ids)
    ids = ids if ids.dtype == np.uint16 else ids.astype(np.uint8)
    for folder in ('images', 'labels'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(root / 'labels' / f'{stem}.png')
    Image.new('RGB', size or ids.shape[::-1], (90, 120, 60)).save(root / 'images' / f'{stem}.jpg')


def dataset_cfg(root: Path, classes: tuple[str, ...] = CLASSES, **kwargs) -> dict:
    """Its config: classes, and everything else that a ``BaseSegDataset`` takes."""
    return dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=classes),
        pipeline=[dict(type='LoadImage'), dict(type='LoadLabelMap')],
        **kwargs,
    )
