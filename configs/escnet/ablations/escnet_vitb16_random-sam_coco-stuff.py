# The paper's ablation: SAM block and prompt encoder are randomly initialised; nothing else changes
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(sam_pretrained=None))
