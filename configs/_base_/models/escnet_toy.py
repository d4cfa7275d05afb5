# A small ESC-Net: 96 px, 12 x 12 patches of 8 px; its CLIP was pretrained at 48 px
_base_ = './escnet_vitb16.py'

weights_dir = '{{ fileDirname }}/../../../data/toyworld'  # in the repository and in the wheel
vision_cfg = dict(
    image_size=48, patch_size=8, width=128, head_width=32, layers=4, pos_embed_type='sin_cos_2d'
)
text_cfg = dict(context_length=24, vocab_size=49408, width=128, heads=4, layers=2)
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    backbone=dict(
        type='ToyCLIPBackbone',
        model_name=None,
        model_cfg=dict(embed_dim=128, quick_gelu=True, vision_cfg=vision_cfg, text_cfg=text_cfg),
        pretrained=f'{weights_dir}/clip.pth',
        activation='quick_gelu',
        stride=8,
        stem_channels=(32, 64, 128),
    ),
    neck=dict(
        num_blocks=2,
        prompt_encoder=dict(embed_dims=64),
        sam_block=dict(embed_dims=64, num_heads=4, mlp_dims=256),
        fusion=dict(embed_dims=32, window_size=6),
        sam_pretrained=f'{weights_dir}/sam.pth',
        with_cp=False,
    ),
    decode_head=dict(stage_channels=(32, 16), skip_channels=(16, 8), residual=True),
    test_cfg=dict(_delete_=True, mode='whole'),
)
