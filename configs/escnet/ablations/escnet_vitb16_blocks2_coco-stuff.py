# The paper's ablation, in our setting: 2 ESC blocks
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(num_blocks=2))
