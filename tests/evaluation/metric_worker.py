"""One of several processes that evaluate together: python metric_worker.py RANK WORLD FOLDER"""

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from mmengine.dataset import DefaultSampler, pseudo_collate
from torch.utils.data import DataLoader, DistributedSampler

from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.evaluation import OpenVocabIoUMetric

NUM_CLASSES = 300
IGNORE_INDEX = 65535
# sampler -> its arguments
SAMPLERS = {
    'filled up': (DefaultSampler, dict(shuffle=False)),
    'as it is': (DefaultSampler, dict(shuffle=False, round_up=False)),
    'shuffled': (DefaultSampler, dict(shuffle=True, seed=3)),
    "PyTorch's": (DistributedSampler, dict(shuffle=False)),
}
COUNTS = (1, 2, 3, 4, 5, 7)
CASES = [
    (sampler, count, batch_size)
    for sampler in SAMPLERS
    for count in COUNTS
    for batch_size in (1, 2)
]


def image(number: int) -> dict:
    """Prediction and label map of an image, different for each."""
    rng = np.random.default_rng(number)
    label = rng.integers(0, NUM_CLASSES, (30, 40))
    right = rng.random(label.shape) < 0.2 + 0.1 * number
    prediction = np.where(right, label, rng.integers(0, NUM_CLASSES, label.shape))
    label[rng.random(label.shape) < 0.1] = IGNORE_INDEX
    return dict(
        pred_sem_seg=dict(data=torch.from_numpy(prediction)[None]),
        gt_sem_seg=dict(data=torch.from_numpy(label)[None]),
    )


def build() -> OpenVocabIoUMetric:
    """The metric of all cases."""
    metric = OpenVocabIoUMetric(
        ignore_index=IGNORE_INDEX, seen=[f'class {i}' for i in range(0, NUM_CLASSES, 3)]
    )
    metric.dataset_meta = dict(classes=[f'class {i}' for i in range(NUM_CLASSES)])
    return metric


def run(sampler: str, count: int, batch_size: int) -> dict[str, float]:
    """Evaluate this process's share of the images, as MMEngine's loop does."""
    images = [image(number) for number in range(count)]
    kind, arguments = SAMPLERS[sampler]
    loader = DataLoader(
        images, batch_size, sampler=kind(images, **arguments), collate_fn=lambda batch: batch
    )
    metric = build()
    for batch in loader:
        metric.process(pseudo_collate(batch), batch)
        assert len(metric.results) <= 2
    return metric.evaluate(count)


def main() -> None:
    """Run all cases; the first process writes the figures down."""
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder / "meeting"}', rank=rank, world_size=world_size
    )
    figures = []
    with contextlib.redirect_stdout(io.StringIO()):
        for case in CASES:
            figures.append([*case, run(*case)])
        images = [image(number) for number in range(2 * world_size + 1)]
        sampler = DistributedSampler(images, shuffle=False, drop_last=True)
        metric = build()
        metric.process({}, [images[number] for number in sampler])
        try:
            metric.evaluate(len(images))
        except ESCNetError as error:
            refused = str(error)
    (folder / f'{rank}.json').write_text(json.dumps(dict(figures=figures, refused=refused)))
    # All end when all are done, since who closes its connections earlier breaks the last exchange
    # of the others; and at once: gloo's threads abort an interpreter that ends without
    # destroy_process_group(), which in PyTorch 2.1 hangs from time to time.
    while len([*folder.glob('*.json')]) < world_size:
        time.sleep(0.01)
    os._exit(0)


if __name__ == '__main__':
    main()
