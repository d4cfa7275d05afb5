from .open_clip import DenseFeatures, OpenCLIPBackbone

__all__ = ['DenseFeatures', 'OpenCLIPBackbone']
