# The paper's ablation, in our setting: K = 1 object per class
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(prompt_generator=dict(num_objects=1)))
