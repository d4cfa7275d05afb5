# ESC-Net with smaller numbers: 96 px, 8 x 8 patches, nothing pretrained, so all of it is trained
_base_ = './escnet_vitb16.py'

vision_cfg = dict(image_size=96, patch_size=12, width=128, head_width=32, layers=4)
text_cfg = dict(context_length=24, vocab_size=49408, width=128, heads=4, layers=2)
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    backbone=dict(
        model_name=None,
        model_cfg=dict(embed_dim=128, vision_cfg=vision_cfg, text_cfg=text_cfg),
        pretrained=None,
        stride=12,
        trainable='all',
    ),
    text_encoder=dict(templates=['{}']),
    neck=dict(
        num_blocks=2,
        prompt_encoder=dict(embed_dims=64, mask_channels=8),
        sam_block=dict(embed_dims=64, num_heads=4, mlp_dims=128, trainable='all'),
        fusion=dict(embed_dims=32, window_size=4),
        sam_pretrained=None,
        with_cp=False,
    ),
    decode_head=dict(stage_channels=(32, 16), skip_channels=(16, 8), residual=True),
    test_cfg=dict(_delete_=True, mode='whole'),
)
