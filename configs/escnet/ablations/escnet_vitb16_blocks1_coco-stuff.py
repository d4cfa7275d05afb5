# The paper's ablation, in our setting: 1 ESC block
_base_ = '../escnet_vitb16_coco-stuff.py'

model = dict(neck=dict(num_blocks=1))
