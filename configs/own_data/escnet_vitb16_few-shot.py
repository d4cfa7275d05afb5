# A trained ESC-Net, fine-tuned on a few labelled images of your own: docs/own_data.md
_base_ = [
    '../_base_/models/escnet_vitb16.py',
    '../_base_/datasets/folder.py',
    '../_base_/schedules/schedule_few-shot.py',
    '../_base_/runtime.py',
]
# CLIP and SAM are frozen; ESC-Net's own layers are trained
model = dict(backbone=dict(trainable='none'), neck=dict(sam_block=dict(trainable='none')))
load_from = 'work_dirs/escnet_vitb16_coco-stuff/iter_80000.pth'
