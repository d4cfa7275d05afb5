from .class_attention import ClassAttentionBlock
from .class_chunks import ClassChunks
from .swin_block import SwinBlock
from .two_way_attention import two_way_attention

__all__ = ['ClassAttentionBlock', 'ClassChunks', 'SwinBlock', 'two_way_attention']
