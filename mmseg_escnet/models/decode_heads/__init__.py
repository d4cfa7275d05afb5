from .open_vocabulary_head import OpenVocabularyHead

__all__ = ['OpenVocabularyHead']
