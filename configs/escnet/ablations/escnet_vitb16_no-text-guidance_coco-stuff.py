# The paper's ablation, in our setting: no attention to the text in the fusion
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(fusion=dict(text_guidance=None)))
