# ESC-Net with CLIP ViT-L/14 at 336 px on COCO-Stuff164k, 171 classes
_base_ = [
    '../_base_/models/escnet_vitl14.py',
    '../_base_/datasets/coco-stuff164k.py',
    '../_base_/schedules/schedule_80k.py',
    '../_base_/runtime.py',
]
