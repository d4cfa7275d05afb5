# schedule_80k.py for a GPU with room for one image: the weights are updated after every 4 steps of
# one image each. MMEngine counts steps, so every count is four times that of schedule_80k.py.
_base_ = './schedule_80k.py'

optim_wrapper = dict(accumulative_counts=4)
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=0, begin=0, end=320000, T_max=320000, by_epoch=False)
]
train_cfg = dict(max_iters=320000, val_interval=32000)
default_hooks = dict(logger=dict(interval=200), checkpoint=dict(interval=16000))
