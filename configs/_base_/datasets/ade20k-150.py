# ADE20K, 150 classes, 2000 images.
# Evaluation only, at 640x640; windows and the global view are set in the model's test_cfg.
dataset_type = 'ADE20K150Dataset'
data_root = 'data/ade/ADEChallengeData2016/'
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
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='OpenVocabIoUMetric', iou_metrics=['mIoU'], seen='coco_stuff171')
test_evaluator = val_evaluator
