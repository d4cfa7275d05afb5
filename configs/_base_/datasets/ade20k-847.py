# ADE20K-full, 847 classes, 2000 images.
# Evaluation only, at 640x640; windows and the global view are set in the model's test_cfg.
dataset_type = 'ADE20K847Dataset'
data_root = 'data/ADE20K_2021_17_01/'
test_pipeline = [
    dict(type='LoadImage'),
    dict(type='Resize', scale=(640, 640), keep_ratio=False),
    dict(type='LoadLabelMap'),  # after Resize: metrics are computed at the original size
    dict(type='PackSegInputs'),
]
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations_847/validation.txt',
        data_prefix=dict(
            img_path='images_847/validation',
            seg_map_path='annotations_847/validation',
        ),
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='OpenVocabIoUMetric',
    iou_metrics=['mIoU'],
    seen='coco_stuff171',
    ignore_index=65535,
)
test_evaluator = val_evaluator
