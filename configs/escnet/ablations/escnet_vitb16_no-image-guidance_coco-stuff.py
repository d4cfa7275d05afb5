# The paper's ablation, in our setting: no F_v' in the fusion, hence no SAM block
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(image_guidance=False, sam_pretrained=None))
