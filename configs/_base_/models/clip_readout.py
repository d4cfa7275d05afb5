# CLIP alone, by the protocol of the figures published for such read-outs (SCLIP, arXiv 2312.01597,
# section 4.1): shorter side 336, windows of 224 at a distance of 112 whose logits are averaged, the
# patch grid that CLIP was trained with, 80 templates, the best of several names of a class, and no
# post-processing.
data_preprocessor = dict(  # CLIP's own normalisation; on 0..255 and in RGB order
    type='SegDataPreProcessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.3231630],
    bgr_to_rgb=True,
)
model = dict(
    type='CLIPReadout',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='OpenCLIPBackbone',
        model_name='ViT-B-16',
        pretrained='openai',
        readout='correlative',  # 'value' is what ESC-Net starts from
        stride=16,
        trainable='none',
    ),
    text_encoder=dict(type='OpenCLIPTextEncoder', templates='imagenet', synonyms='max'),
    test_cfg=dict(mode='slide', crop_size=(224, 224), stride=(112, 112), window_batch_size=4),
)
readout_pipeline = [
    dict(type='LoadImage'),
    dict(type='Resize', scale=(2048, 336), keep_ratio=True),
    dict(type='LoadLabelMap'),
    dict(type='PackSegInputs'),
]
# SCLIP's words for names of PASCAL VOC and PASCAL-Context; its other names differ in spaces alone
_television = ['television monitor', 'tv monitor', 'monitor', 'television', 'screen']
_clothes = ['shirt', 'jeans', 'dress', 'sweater', 'skirt', 'jacket']
benchmark_phrases = {
    'PAS-20': {
        'boat': ['ship'],
        'diningtable': ['table'],
        'person': ['person', *[f'person in {garment}' for garment in _clothes]],
        'tvmonitor': _television,
    },
    'PC-59': {'diningtable': ['table']},
}
