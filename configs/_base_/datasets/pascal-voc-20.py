# PAS-20: PASCAL VOC 2012, 20 objects, 1449 images; the background is ignored.
# Evaluation only, at 640x640; windows and the global view are set in the model's test_cfg.
dataset_type = 'PascalVOC20Dataset'
data_root = 'data/VOCdevkit/VOC2012/'
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
        ann_file='ImageSets/Segmentation20/val.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass20'),
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='OpenVocabIoUMetric', iou_metrics=['mIoU'], seen='coco_stuff171')
test_evaluator = val_evaluator
