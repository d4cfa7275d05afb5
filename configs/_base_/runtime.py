# MMSegmentation's default runtime, written out: with onedl-mmengine, `mmseg::` does not find it
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False

custom_imports = dict(imports=['mmseg_escnet.components'])
visualizer = dict(type='OpenVocabVisualizer', vis_backends=vis_backends, name='visualizer')
custom_hooks = [
    dict(type='VocabularyHook'),
    dict(type='FiniteHook'),
    dict(type='ClassReportHook'),
]
randomness = dict(seed=0)
