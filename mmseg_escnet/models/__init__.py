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
from .segmentors import ESCNet
from .text_encoders import OpenCLIPTextEncoder

__all__ = [
    'ESCBlock',
    'ESCNeck',
    'ESCNet',
    'OpenCLIPBackbone',
    'OpenCLIPTextEncoder',
    'OpenVocabularyHead',
    'PseudoPromptGenerator',
    'SAMBlock',
    'SAMPromptEncoder',
    'VisionLanguageFusion',
]
