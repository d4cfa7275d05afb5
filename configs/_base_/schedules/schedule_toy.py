# Three to four minutes on two cores: few steps at higher learning rates, with warm-up
_base_ = './schedule_80k.py'

optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=20, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0, begin=20, end=360, T_max=340, by_epoch=False),
]
train_cfg = dict(max_iters=360, val_interval=360)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=120, max_keep_ckpts=1))
