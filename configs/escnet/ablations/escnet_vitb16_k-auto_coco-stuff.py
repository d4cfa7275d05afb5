# Ablation of the paper: objects per class chosen by their distance (ours; the paper fixes K)
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(prompt_generator=dict(num_objects='auto')))
