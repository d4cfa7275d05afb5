# CLIP ViT-L/14 alone, with the 16 x 16 patches of 14 pixels that it was trained with
_base_ = './clip_vitb16_readout.py'

model = dict(backbone=dict(model_name='ViT-L-14', stride=14))
