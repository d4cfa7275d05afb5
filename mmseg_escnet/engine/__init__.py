from .. import compat  # noqa: F401  before mmseg
from .checkpoints import AtomicCheckpointHook, choose_checkpoint, latest_whole_checkpoint
from .fsdp_strategy import ESCNetFSDPStrategy
from .hooks import FiniteHook, InterruptHook, MainProcessLoggerHook
from .processes import build_test_runner, in_turns, join_processes
from .tta import OpenVocabTTAModel, use_tta
from .vocabulary_hook import VocabularyHook

__all__ = [
    'AtomicCheckpointHook',
    'ESCNetFSDPStrategy',
    'FiniteHook',
    'InterruptHook',
    'MainProcessLoggerHook',
    'OpenVocabTTAModel',
    'VocabularyHook',
    'build_test_runner',
    'choose_checkpoint',
    'in_turns',
    'join_processes',
    'latest_whole_checkpoint',
    'use_tta',
]
