from .class_attention import ClassAttentionBlock

__all__ = ['ClassAttentionBlock']
