# The paper's ablation, in our setting: fusion that does not see F_v', hence without a SAM block
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(image_guidance=False, sam_pretrained=None))
