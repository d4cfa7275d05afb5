from .checkpoint_hook import AtomicCheckpointHook
from .finite_hook import FiniteHook
from .interrupt_hook import InterruptHook
from .logger_hook import MainProcessLoggerHook
from .vocabulary_hook import VocabularyHook

__all__ = [
    'AtomicCheckpointHook',
    'FiniteHook',
    'InterruptHook',
    'MainProcessLoggerHook',
    'VocabularyHook',
]
