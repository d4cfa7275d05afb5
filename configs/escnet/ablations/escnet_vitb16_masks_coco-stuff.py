# The paper's ablation, in our setting: mask prompts only
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(prompt_encoder=dict(prompts=('masks',))))
