# ESC-Net on the toy world, with miniature CLIP and SAM
_base_ = [
    '../_base_/models/escnet_toy.py',
    '../_base_/datasets/toyworld.py',
    '../_base_/schedules/schedule_toy.py',
    '../_base_/runtime.py',
]
