# ESC-Net with CLIP ViT-B/16 on COCO-Stuff164k, 171 classes
_base_ = [
    '../_base_/models/escnet_vitb16.py',
    '../_base_/datasets/coco-stuff164k.py',
    '../_base_/schedules/schedule_80k.py',
    '../_base_/runtime.py',
]
