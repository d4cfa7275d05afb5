# The toy world (tools/toyworld/make_scenes.py): trained on masks of the 42 seen names, evaluated
# on all 72. Scenes are 96x96, so nothing is resized.
dataset_type = 'ToyWorldDataset'
data_root = 'data/toyworld_scenes/'
crop_size = (96, 96)
train_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadLabelMap'),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion', hue_delta=4),  # colours are part of the names: keep hues
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadLabelMap'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        vocabulary='seen',
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        vocabulary='all',
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='OpenVocabIoUMetric',
    iou_metrics=['mIoU'],
    seen='toyworld_seen',
    groups=dict(
        seen_things='toyworld_seen_things',
        seen_stuff='toyworld_seen_stuff',
        unseen_combination='toyworld_unseen_combination',
        unseen_attribute='toyworld_unseen_attribute',
    ),
)
test_evaluator = val_evaluator
