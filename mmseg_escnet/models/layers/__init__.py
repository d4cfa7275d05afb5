from .class_attention import ClassAttention
from .class_chunks import ClassChunks
from .swin_block import SwinBlock
from .text_attention import TextAttention
from .two_way_attention import two_way_attention

__all__ = ['ClassAttention', 'ClassChunks', 'SwinBlock', 'TextAttention', 'two_way_attention']
