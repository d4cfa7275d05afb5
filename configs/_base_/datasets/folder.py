# Your own images, label maps and names (docs/own_data.md). Set their folder in a leaf config:
#   train_dataloader = dict(dataset=dict(data_root='data/mine/')), and likewise for val and test.
# Sizes and augmentation as for COCO-Stuff.
_base_ = './coco-stuff164k.py'

dataset_type = 'FolderDataset'
data_root = 'data/mine/'
train_dataloader = dict(
    num_workers=2,
    dataset=dict(
        type=dataset_type,
        names='names.txt',
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
    ),
)
val_dataloader = dict(
    num_workers=2,
    dataset=dict(
        type=dataset_type,
        names='names.txt',
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(seen=None)
test_evaluator = val_evaluator
