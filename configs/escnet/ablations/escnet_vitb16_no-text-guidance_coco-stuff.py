# The paper's ablation, in our setting: class attention that does not see the text
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(fusion=dict(text_guidance=False)))
