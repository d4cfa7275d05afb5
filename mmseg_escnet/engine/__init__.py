from .augmented_testing import OpenVocabTTAModel
from .hooks import VocabularyHook

__all__ = ['OpenVocabTTAModel', 'VocabularyHook']
