# PC-459: PASCAL-Context, 459 classes, 5105 images.
# Evaluation only, at 640x640; windows and the global view are set in the model's test_cfg.
dataset_type = 'PascalContext459Dataset'
data_root = 'data/VOCdevkit/VOC2010/'
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
        ann_file='ImageSets/SegmentationContext/val.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassContext459'),
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
