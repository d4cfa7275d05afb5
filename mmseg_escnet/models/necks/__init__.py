from .esc_neck import ESCBlock, ESCFeatures, ESCNeck
from .pseudo_prompt_generator import PseudoPromptGenerator, PseudoPrompts
from .sam_block import SAMBlock
from .sam_prompt_encoder import SAMPromptEncoder
from .vision_language_fusion import VisionLanguageFusion

__all__ = [
    'ESCBlock',
    'ESCFeatures',
    'ESCNeck',
    'PseudoPromptGenerator',
    'PseudoPrompts',
    'SAMBlock',
    'SAMPromptEncoder',
    'VisionLanguageFusion',
]
