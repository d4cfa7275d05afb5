# COCO-Stuff 164k, 171 classes: the training set of ESC-Net.
# Augmentation is CAT-Seg's published recipe (arXiv 2303.11797), whose training ESC-Net shares:
# shortest edge 384 (longest at most 2560), random crop of 384x384 whatever its content, flip, SSD's
# photometric distortion; a total batch size of 4, so 4 / (number of GPUs) per process.
# Testing: at 640x640; windows and the global view are set in the model's test_cfg.
dataset_type = 'COCOStuff171Dataset'
data_root = 'data/coco_stuff164k/'
crop_size = (384, 384)
train_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadLabelMap'),
    dict(type='Resize', scale=(2560, 384), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImage'),
    dict(type='Resize', scale=(640, 640), keep_ratio=False),
    dict(type='LoadLabelMap'),  # after Resize: metrics are computed at the original size
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='OpenVocabIoUMetric', iou_metrics=['mIoU'], seen='coco_stuff171')
test_evaluator = val_evaluator
