from .open_clip_text import OpenCLIPTextEncoder
from .text_cache import TextCache

__all__ = ['OpenCLIPTextEncoder', 'TextCache']
