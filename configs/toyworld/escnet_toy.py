# A toy ESC-Net on a corner of the toy world: 4 colours x 4 shapes, of which 5 names have no mask
# in training, on 6 grounds
_base_ = [
    '../_base_/models/escnet_toy.py',
    '../_base_/datasets/toyworld.py',
    '../_base_/schedules/schedule_toy.py',
    '../_base_/runtime.py',
]
unseen = ['red triangle', 'green square', 'blue circle', 'blue star', 'yellow triangle']
seen = ['red circle', 'red square', 'red star', 'green circle', 'green triangle', 'green star']
seen += ['blue square', 'blue triangle', 'yellow circle', 'yellow square', 'yellow star']
seen += ['brick', 'grass', 'sand', 'water', 'wood', 'stone']
root = 'data/toyworld_corner/'
train_dataloader = dict(batch_size=8, dataset=dict(data_root=root, metainfo=dict(classes=seen)))
val_dataloader = dict(
    dataset=dict(data_root=root, metainfo=dict(classes=seen + unseen), indices=100)
)
test_dataloader = val_dataloader
