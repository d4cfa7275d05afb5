# The paper: AdamW at 2e-4, and 2e-6 for the attention layers of CLIP and of the SAM blocks
# (`trainable` in the model selects them). CAT-Seg's recipe: everything else, with no weight decay
# on norms and relative position biases and a total batch size of 4: 80k * 4 = 320k crops of
# COCO-Stuff, 2.7 epochs.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            'backbone': dict(lr_mult=0.01),
            'sam_block.layers': dict(lr_mult=0.01),
            'relative_position_bias_table': dict(decay_mult=0.0),
            # SAM's LayerNorm2d, which MMEngine does not recognise as a norm
            'sam_block.image_proj.1.': dict(decay_mult=0.0),
        },
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=0, begin=0, end=80000, T_max=80000, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='MainProcessLoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=4000, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
