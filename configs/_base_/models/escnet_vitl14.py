_base_ = './escnet_vitb16.py'

# ViT-L/14 at 336 px: images are resized so that 16 pixels become a patch of 14
model = dict(backbone=dict(model_name='ViT-L-14-336', with_cp=True))
