from .. import compat  # noqa: F401  before mmseg
from .backbones import OpenCLIPBackbone
from .decode_heads import OpenVocabularyHead
from .necks import (
    ESCBlock,
    ESCNeck,
    PseudoPromptGenerator,
    SAMBlock,
    SAMPromptEncoder,
    VisionLanguageFusion,
)
from .segmentors import CLIPReadout, ESCNet, OpenVocabSegmentor
from .text_encoders import OpenCLIPTextEncoder

__all__ = [
    'CLIPReadout',
    'ESCBlock',
    'ESCNeck',
    'ESCNet',
    'OpenCLIPBackbone',
    'OpenCLIPTextEncoder',
    'OpenVocabSegmentor',
    'OpenVocabularyHead',
    'PseudoPromptGenerator',
    'SAMBlock',
    'SAMPromptEncoder',
    'VisionLanguageFusion',
]
