from .. import compat  # noqa: F401  before mmseg
from .augmented_testing import OpenVocabTTAModel
from .checkpoints import latest_whole_checkpoint
from .fsdp_strategy import ESCNetFSDPStrategy
from .hooks import (
    AtomicCheckpointHook,
    FiniteHook,
    InterruptHook,
    MainProcessLoggerHook,
    VocabularyHook,
)
from .processes import in_turns, join_processes

__all__ = [
    'AtomicCheckpointHook',
    'ESCNetFSDPStrategy',
    'FiniteHook',
    'InterruptHook',
    'MainProcessLoggerHook',
    'OpenVocabTTAModel',
    'VocabularyHook',
    'in_turns',
    'join_processes',
    'latest_whole_checkpoint',
]
