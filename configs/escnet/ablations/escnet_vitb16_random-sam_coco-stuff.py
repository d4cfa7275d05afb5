# The paper's ablation, in our setting: random SAM block, trained as a whole
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(sam_block=dict(trainable='all'), sam_pretrained=None))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'sam_block.layers': dict(lr_mult=1.0)}))
