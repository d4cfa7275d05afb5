from .clip_readout import CLIPReadout
from .escnet import ESCNet
from .open_vocab_segmentor import OpenVocabSegmentor

__all__ = ['CLIPReadout', 'ESCNet', 'OpenVocabSegmentor']
