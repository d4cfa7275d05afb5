# The miniature ESC-Net of the toy world, fine-tuned on drawings or photographs of your own
_base_ = [
    '../_base_/models/escnet_toy.py',
    '../_base_/datasets/folder.py',
    '../_base_/schedules/schedule_few-shot.py',
    '../_base_/runtime.py',
]
# CLIP and SAM are frozen; ESC-Net's own layers are trained
model = dict(backbone=dict(trainable='none'), neck=dict(sam_block=dict(trainable='none')))
load_from = '{{ fileDirname }}/../../data/toyworld/escnet.pth'
crop_size = (96, 96)
resize = dict(type='Resize', scale=crop_size, keep_ratio=False)
load = [dict(type='LoadImage'), dict(type='LoadLabelMap')]
augment = [dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')]
train_dataloader = dict(dataset=dict(pipeline=[*load, resize, *augment]))
val_dataloader = dict(dataset=dict(pipeline=[load[0], resize, load[1], dict(type='PackSegInputs')]))
test_dataloader = val_dataloader
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
