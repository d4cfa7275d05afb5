_base_ = 'mmseg::_base_/default_runtime.py'

custom_imports = dict(imports=['mmseg_escnet.components'])
visualizer = dict(type='OpenVocabVisualizer')
custom_hooks = [
    dict(type='VocabularyHook'),
    dict(type='FiniteHook'),
    dict(type='ClassReportHook'),
]
randomness = dict(seed=0)
tta_model = None
