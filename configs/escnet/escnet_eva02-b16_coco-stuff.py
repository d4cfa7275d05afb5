# ESC-Net with EVA-02-CLIP B/16 on COCO-Stuff164k, 171 classes (ours, not in the paper)
_base_ = './escnet_vitb16_coco-stuff.py'

# 384 px -> 24 x 24 patches; open_clip uses OpenAI's mean and std here too
model = dict(backbone=dict(model_name='EVA02-B-16', pretrained='merged2b_s8b_b131k'))
# the norms inside its attention are trained like the attention, without weight decay
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'.attn.norm.': dict(lr_mult=0.01, decay_mult=0.0)})
)
