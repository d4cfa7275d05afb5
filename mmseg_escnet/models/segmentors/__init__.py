from .escnet import ESCNet

__all__ = ['ESCNet']
