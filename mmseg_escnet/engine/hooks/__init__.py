from .checkpoint_hook import AtomicCheckpointHook
from .interrupt_hook import InterruptHook
from .vocabulary_hook import VocabularyHook

__all__ = ['AtomicCheckpointHook', 'InterruptHook', 'VocabularyHook']
