# CLIP ViT-B/16 alone: nothing to train, on COCO-Stuff164k unless benchmarks are named
_base_ = [
    '../_base_/models/clip_readout.py',
    '../_base_/datasets/coco-stuff164k.py',
    '../_base_/runtime.py',
]

test_dataloader = dict(dataset=dict(pipeline=_base_.readout_pipeline))
test_cfg = dict(type='TestLoop')
train_dataloader = val_dataloader = val_evaluator = None
