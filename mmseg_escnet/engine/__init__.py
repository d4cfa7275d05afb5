from .. import compat  # noqa: F401  before mmseg
from .checkpoints import AtomicCheckpointHook, latest_whole_checkpoint
from .fsdp_strategy import ESCNetFSDPStrategy
from .hooks import FiniteHook, InterruptHook, MainProcessLoggerHook, VocabularyHook
from .processes import in_turns, join_processes
from .tta import OpenVocabTTAModel

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
