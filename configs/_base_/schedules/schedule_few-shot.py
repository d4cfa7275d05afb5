# Fine-tuning a trained checkpoint on a few labelled images: 500 iterations with warm-up (ours: the
# paper does not fine-tune)
_base_ = './schedule_80k.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=20, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0, begin=20, end=500, T_max=480, by_epoch=False),
]
train_cfg = dict(max_iters=500, val_interval=100)
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=100, max_keep_ckpts=2, save_best='mIoU')
)
