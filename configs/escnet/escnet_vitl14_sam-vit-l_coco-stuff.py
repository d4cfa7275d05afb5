# ESC-Net with CLIP ViT-L/14 and the decoder of SAM ViT-L on COCO-Stuff164k, 171 classes
_base_ = './escnet_vitl14_coco-stuff.py'

# the same shapes as ViT-B's decoder
model = dict(neck=dict(sam_pretrained='data/weights/sam_vit_l_0b3195.pth'))
