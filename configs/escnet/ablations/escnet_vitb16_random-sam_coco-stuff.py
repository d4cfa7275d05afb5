# Ablation of the paper: random SAM block, all of its transformer trained at the base rate
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(sam_block=dict(trainable='all'), sam_pretrained=None))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'sam_block.layers': dict(lr_mult=1.0)}))
