# The paper's ablation, in our setting: box prompts
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(prompt_encoder=dict(prompts=('boxes',))))
