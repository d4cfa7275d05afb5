# escnet_vitb16_coco-stuff.py on one GPU with room for one image, with the recipe's batch of 4
_base_ = [
    '../_base_/models/escnet_vitb16.py',
    '../_base_/datasets/coco-stuff164k.py',
    '../_base_/schedules/schedule_80k_accumulate.py',
    '../_base_/runtime.py',
]
train_dataloader = dict(batch_size=1)
