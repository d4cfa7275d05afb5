"""A training whose steps tell the gradient: plain descent, images as they are, 48 px."""

_base_ = '../../configs/toyworld/escnet_toy.py'

import mmengine.config.config as _mmengine  # noqa: E402  after _base_, which says how to read this

_mmengine.FormatCode = lambda text, **_: (text, True)  # as in conftest.py

data_root = ''  # given by the test
image_size = (48, 48)
pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadLabelMap'),
    dict(type='Resize', scale=image_size, keep_ratio=False),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=pipeline)
)
val_dataloader = val_cfg = val_evaluator = None
model = dict(data_preprocessor=dict(size=image_size))
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0))
param_scheduler = None
train_cfg = dict(max_iters=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=-1))
env_cfg = dict(dist_cfg=dict(timeout=120))  # an error and no endless test
