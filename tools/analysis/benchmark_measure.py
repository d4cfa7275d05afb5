"""Time, parts, memory and arithmetic of one function, on the CPU or on a GPU."""

from __future__ import annotations

import gc
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
LABEL = 'escnet/'  # of the ranges that the model marks with torch.profiler.record_function
OTHER = 'other'  # what lies in no range
_YARDSTICKS = 3  # forwards of the yardstick beside every repeat
_LEAST_SECONDS = 1.0  # a function that is faster is repeated until then
_MATMUL_SIZES = {'cpu': (1024, 2048, 3072), 'cuda': (4096, 8192)}


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, to the end of what it started on a GPU."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; nothing on a CPU."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def time_calls(
    function: Callable[[], object],
    *,
    device: torch.device,
    repeats: int,
    seconds: float,
    yardstick: Callable[[], object] | None = None,
) -> dict:
    """Time a function that has been called before, with a yardstick beside every call.

    A machine that slows down between two measurements slows both, so their ratio is taken call by
    call and its median returned.

    Args:
        function: What is timed.
        device: Where it runs.
        repeats: Calls at least, more if they take less than a second in all.
        seconds: No further call once that much time is spent, however few there were.
        yardstick: What it is compared with.

    Returns:
        ``seconds`` (median), ``all_seconds``, ``others_busy`` (processor cores that other
        processes used meanwhile, None where the system does not tell), and with a yardstick
        ``clip_seconds`` and ``ratio`` (medians).
    """
    times, scale = [], []
    watch = OthersBusy()
    if yardstick is not None:
        yardstick()
    while not times or (
        sum(times) < seconds and (len(times) < repeats or sum(times) < _LEAST_SECONDS)
    ):
        times.append(seconds_of(function, device))
        if yardstick is not None:
            beside = [seconds_of(yardstick, device) for _ in range(_YARDSTICKS)]
            scale.append(statistics.median(beside))
    found = dict(
        seconds=statistics.median(times), all_seconds=times, others_busy=watch.cores_since()
    )
    if scale:
        ratios = [own / clip for own, clip in zip(times, scale, strict=True)]
        found |= dict(clip_seconds=statistics.median(scale), ratio=statistics.median(ratios))
    return found


class OthersBusy:
    """How many processor cores other processes use from now on.

    Whoever measures on a machine that others work on measures them too.
    """

    def __init__(self) -> None:
        self._start = self._read()

    def cores_since(self) -> float | None:
        """Cores, on average since the start; None where the system does not tell."""
        if self._start is None:
            return None
        wall, busy, own = (now - then for now, then in zip(self._read(), self._start, strict=True))
        return round(max(busy - own, 0.0) / max(wall, 1e-3), 2)

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Wall time, processor time of all processes and of this one, in seconds."""
        try:
            fields = Path('/proc/stat').read_text().split('\n', 1)[0].split()[1:9]
        except OSError:  # not Linux
            return None
        user, nice, system, _, _, irq, softirq, steal = map(int, fields)
        busy = user + nice + system + irq + softirq + steal
        return time.perf_counter(), busy / os.sysconf('SC_CLK_TCK'), time.process_time()


class PeakMemory:
    """The highest memory within a ``with`` block.

    On a CPU that is the resident memory of this process, libraries and weights included; on a GPU
    what PyTorch has allocated there.

    Attributes:
        before: Bytes at the start.
        peak: Bytes at the highest.
        since: 'block', or 'process' where the system keeps only the highest since the process
            started (anything but Linux).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = self.peak = 0
        self.since = 'block'

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
            return self
        try:
            Path('/proc/self/clear_refs').write_text('5')  # sets the peak back to the present
            self.before = _status('VmRSS')
        except OSError:
            self.since = 'process'
            self.before = _most_resident()
        return self

    def __exit__(self, *exception) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self.peak = _status('VmHWM') if self.since == 'block' else _most_resident()


def _status(key: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith(f'{key}:'))
    return int(kibibytes) * 1024


def _most_resident() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def time_parts(function: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds in each range that the model marks, from one call under the profiler.

    Ranges do not lie in one another. On a CPU their wall time; on a GPU the time of the kernels
    that they started. Profiling costs time, so take shares rather than seconds.

    Returns:
        Part -> seconds, with :data:`OTHER` for the rest of the wall time: what lies in no range,
        and on a GPU its idle time too.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == 'cuda':
        activities.append(ProfilerActivity.CUDA)
    synchronize(device)
    with profile(activities=activities) as profiler:
        elapsed = seconds_of(function, device)
    parts: dict[str, float] = {}
    for event in profiler.events():
        # a GPU's profile holds every range a second time, as it passed there
        if event.name.startswith(LABEL) and event.device_type == DeviceType.CPU:
            part = event.name[len(LABEL) :]
            parts[part] = parts.get(part, 0.0) + _microseconds(event, device) / 1e6
    return parts | {OTHER: max(elapsed - sum(parts.values()), 0.0)}


def _microseconds(event, device: torch.device) -> float:
    if device.type == 'cpu':
        return event.cpu_time_total
    # its name before PyTorch 2.6
    return event.device_time_total if hasattr(event, 'device_time_total') else event.cuda_time_total


def count_flops(function: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one call.

    A multiplication and an addition are two. PyTorch's counter has no formula for attention as a
    CPU runs it; it is given ours.
    """
    with FlopCounterMode(display=False, custom_mapping=_attention_formulas()) as counter:
        function()
    return counter.get_total_flops()


def _attention_formulas() -> dict:
    formulas = {
        '_native_multi_head_attention': _native_attention_flops,
        '_scaled_dot_product_flash_attention_for_cpu': _attention_flops,
        '_scaled_dot_product_flash_attention_for_cpu_backward': _attention_backward_flops,
    }
    for formula in formulas.values():
        formula._get_raw = True  # tensors, not their shapes
    aten = torch.ops.aten
    return {getattr(aten, name): f for name, f in formulas.items() if hasattr(aten, name)}


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *args, **kwargs) -> int:
    # scores and their product with the values; tensors are (B, heads, tokens, width)
    batch, heads, queries, width = query.shape
    return 2 * batch * heads * queries * key.shape[-2] * (width + value.shape[-1])


def _attention_backward_flops(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *args, **kwargs
) -> int:
    # the scores once more, then two products for each of the two of the forward pass
    scores = 2 * query.shape[:-1].numel() * key.shape[-2] * query.shape[-1]
    return scores + 2 * _attention_flops(query, key, value)


def _native_attention_flops(
    query: Tensor, key: Tensor, value: Tensor, embed_dim: int, num_heads: int, *args, **kwargs
) -> int:
    # four projections and the attention; tensors are (B, tokens, width)
    batch, queries, _ = query.shape
    projected = 2 * queries + key.shape[1] + value.shape[1]
    attention = 2 * queries * key.shape[1]
    return 2 * batch * embed_dim * (projected * embed_dim + attention)


@torch.no_grad()
def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Floating-point operations per second of the fastest square matrix product found.

    Args:
        device: Where.
        dtype: Of what.
        seconds: Spent on each size.
    """
    best = 0.0
    for size in _MATMUL_SIZES[device.type]:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        multiply = partial(torch.mm, a, b, out=torch.empty_like(a))
        multiply()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            best = max(best, 2 * size**3 / seconds_of(multiply, device))
    return best
