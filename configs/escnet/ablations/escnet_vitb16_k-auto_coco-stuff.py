# Ablation of ours: objects per class chosen by their distance (the paper fixes K = 5)
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(prompt_generator=dict(num_objects='auto')))
