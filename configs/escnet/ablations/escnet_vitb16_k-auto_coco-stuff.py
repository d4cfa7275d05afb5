# Our ablation: the number of objects follows from their distances (the paper fixes K = 5)
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(prompt_generator=dict(num_objects='auto')))
