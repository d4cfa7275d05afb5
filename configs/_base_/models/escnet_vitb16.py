# CLIP's normalisation, for RGB values from 0 to 255
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.3231630],
    bgr_to_rgb=True,
    size=(384, 384),
    pad_val=0,
    seg_pad_val=255,
)
model = dict(
    type='ESCNet',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='OpenCLIPBackbone',
        model_name='ViT-B-16',
        pretrained='openai',
        stride=16,  # 384 px -> 24 patches, for any CLIP
        trainable='attention',
    ),
    text_encoder=dict(type='OpenCLIPTextEncoder', templates='scene'),
    neck=dict(
        type='ESCNeck',
        num_blocks=4,
        prompt_generator=dict(type='PseudoPromptGenerator', threshold=0.5, num_objects=5),
        prompt_encoder=dict(type='SAMPromptEncoder', prompts=('points', 'masks')),
        sam_block=dict(type='SAMBlock', class_fusion='mean', trainable='attention'),
        fusion=dict(type='VisionLanguageFusion', embed_dims=128, num_heads=4, window_size=12),
        sam_pretrained='data/weights/sam_vit_b_01ec64.pth',
        with_cp=True,
    ),
    decode_head=dict(
        type='OpenVocabularyHead',
        stage_channels=(64, 32),
        skip_channels=(32, 16),
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    train_cfg=dict(),
    # 640x640 images (data set config): 2 x 2 windows with one third overlap and a global view
    test_cfg=dict(mode='windows', crop_size=(384, 384), stride=(256, 256), window_batch_size=1),
)
