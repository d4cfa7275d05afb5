from .. import compat  # noqa: F401  before mmseg
from .autocast_wrapper import CPUAutocastOptimWrapper
from .checkpoints import (
    AtomicCheckpointHook,
    check_test_weights,
    choose_checkpoint,
    latest_whole_checkpoint,
)
from .fsdp_strategy import ESCNetFSDPStrategy
from .hooks import FiniteHook, InterruptHook, MainProcessLoggerHook
from .processes import build_test_runner, in_turns, join_processes
from .training_log import build_runner, quiet_log, say
from .tta import OpenVocabTTAModel, use_tta
from .vocabulary_hook import VocabularyHook

__all__ = [
    'AtomicCheckpointHook',
    'CPUAutocastOptimWrapper',
    'ESCNetFSDPStrategy',
    'FiniteHook',
    'InterruptHook',
    'MainProcessLoggerHook',
    'OpenVocabTTAModel',
    'VocabularyHook',
    'build_runner',
    'build_test_runner',
    'check_test_weights',
    'choose_checkpoint',
    'in_turns',
    'join_processes',
    'latest_whole_checkpoint',
    'quiet_log',
    'say',
    'use_tta',
]
