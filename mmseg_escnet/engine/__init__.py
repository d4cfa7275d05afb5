from .augmented_testing import OpenVocabTTAModel
from .checkpoints import latest_whole_checkpoint
from .hooks import AtomicCheckpointHook, FiniteHook, InterruptHook, VocabularyHook

__all__ = [
    'AtomicCheckpointHook',
    'FiniteHook',
    'InterruptHook',
    'OpenVocabTTAModel',
    'VocabularyHook',
    'latest_whole_checkpoint',
]
