# ESC-Net with CLIP ViT-L/14 on COCO-Stuff164k, sharded across processes by FSDP
_base_ = './escnet_vitl14_coco-stuff.py'

runner_type = 'FlexibleRunner'
strategy = dict(type='ESCNetFSDPStrategy', state_dict_cfg='full')
