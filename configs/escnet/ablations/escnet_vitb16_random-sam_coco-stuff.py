# The paper's ablation: the SAM block starts at random, its prompt encoder too; all else is the same
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(sam_pretrained=None))
