# The paper's ablation, in our setting: no SAM block; a 1x1 convolution of F_v guides the fusion
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(sam_block=None, sam_pretrained=None))
