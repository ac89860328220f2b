"""The machine below a process: device, data types, threads, kernels and memory.

No other file of the product changes settings of the whole process. A command calls `start` once; library code runs
`with cpu_kernels(device):` and leaves the process as it found it.
"""

import ctypes
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env

from data.console import UserError

DEVICES = ("auto", "cpu", "cuda", "mps")
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""
GLIBC_MMAP_LIMIT = 32 * 2**20
"""Bytes up to which glibc raises the second threshold by itself; the first is then twice that."""

Method = TypeVar("Method", bound=Callable[..., Any])


# ---- device, data type and random numbers ----


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name`; auto is cuda where there is one, else cpu. UserError for one that is not there."""
    if name not in DEVICES:
        raise UserError(f"device is {name!r}: choose one of {', '.join(DEVICES)}")
    cuda = torch.cuda.is_available()
    if name == "auto":
        # `accelerate launch --cpu` sets the flag.
        return torch.device("cuda" if cuda and not parse_flag_from_env("ACCELERATE_USE_CPU") else "cpu")
    if (name == "cuda" and not cuda) or (name == "mps" and not torch.backends.mps.is_available()):
        raise UserError(f"device is {name}, which torch does not find on this machine: choose auto or cpu")
    return torch.device(name)


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Random numbers for any whole number, modulo 2^64: what is derived from a large seed may be larger."""
    return torch.Generator(device).manual_seed(seed % 2**64)


def short_seed(seed: int) -> int:
    """A seed for what takes 32 bits only, as NumPy and transformers do; one below 2^31 stays as it is."""
    return seed if 0 <= seed < 2**31 else random.Random(seed).getrandbits(31)


def process_state(device: torch.device) -> PartialState:
    """accelerate's view of the processes of this launch, on `device` (on one GPU each where that is cuda)."""
    if device.type == "mps" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("mps serves one process: launch one, or choose device cpu")
    if device.type == "cuda":
        # cuDNN plans attention anew for every shape, 30 ms each; a batch that shrinks as replies stop has hundreds.
        torch.backends.cuda.enable_cudnn_sdp(False)
    # Told to stay on the CPU, processes that were launched together find each other there; untold, each would work
    # for itself, all on the same files.
    state = PartialState(cpu=device.type == "cpu")
    if state.device.type != device.type:
        raise UserError(
            f"this process already runs on {state.device.type} (an Accelerator or a Trainer was made in it): "
            f"choose device {state.device.type}, or use a process of its own for {device.type}"
        )
    return state


class OwnPrecision(Accelerator):
    """An Accelerator on a device, whose precision is its own: float32, or bfloat16 autocast with `bf16`.

    accelerate keeps one precision per process, set by whoever comes first; a Trainer of transformers or trl may have
    set another one.
    """

    def __init__(self, device: torch.device, bf16: bool = False, **options: Any) -> None:
        process_state(device)
        self.bf16 = bf16
        super().__init__(cpu=device.type == "cpu", **options)
        self.native_amp, self.scaler = False, None  # models are not wrapped in the process's precision

    @property
    def mixed_precision(self) -> str:
        return "bf16" if self.bf16 else "no"

    def autocast(self, *unused: Any, cache: bool = True) -> torch.autocast:
        """Context in which products are bfloat16 with `bf16`, and nothing changes without.

        cache: whether a weight's copy in bfloat16 is kept for its next use.
        """
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=cache)


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The activations' dtype: float32, or bfloat16 where asked for or where the processor gains by it."""
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported") if device.type == "cpu" else ()
    probes = [getattr(torch.cpu, name, None) for name in names]
    return torch.bfloat16 if any(probe is not None and probe() for probe in probes) else torch.float32


# ---- threads, kernels and memory ----


def start(threads: int | None = None) -> None:
    """Settings of a command's process, for its whole life: freed memory is kept; torch gets `threads`, if given."""
    _keep_freed_memory(+1)
    if threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def cpu_kernels(device: torch.device) -> Iterator[None]:
    """On a CPU: float32 products by oneDNN (precision "medium") and freed memory kept, while this lasts.

    oneDNN's kernels are faster, and as exact on processors without AMX; those with it multiply in bfloat16.
    On other devices nothing changes.
    """
    if device.type != "cpu":
        yield
        return
    precision = torch.get_float32_matmul_precision()
    _keep_freed_memory(+1)
    try:
        torch.set_float32_matmul_precision("medium")
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        _keep_freed_memory(-1)


def with_cpu_kernels(method: Method) -> Method:
    """Run a method within `cpu_kernels` of its object's device."""

    @wraps(method)
    def within(self: Any, *args: Any, **kwargs: Any) -> Any:
        with cpu_kernels(self.device):
            return method(self, *args, **kwargs)

    return cast(Method, within)


@contextmanager
def full_precision_matmul() -> Iterator[None]:
    """float32 products by torch's own kernels while this lasts: for sampling on a CPU.

    The kernels of precision "medium" are made and kept for every shape, and a batch that shrinks with every stop
    has very many. The setting is torch's, for all threads.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


@contextmanager
def one_thread_each(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch has threads, with one thread each; a single one where a GPU does the work.

    Sampling is many small operations: several batches side by side keep all cores busy, one batch on all
    cores does not.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        with ThreadPoolExecutor(1) as workers:
            yield workers
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as workers:
            yield workers
    finally:
        torch.set_num_threads(threads)


_keepers = 0
"""How many callers want freed memory kept at present; `start` is one that never leaves."""


def _keep_freed_memory(callers: int) -> None:
    """Let glibc keep what tensors free: a step on a CPU otherwise gets its memory from the system, page by page.

    `callers`, +1 or -1, is one that comes or goes; the last that goes puts back what the environment says, or else
    what glibc's own rule ends at.
    """
    global _keepers
    before, _keepers = _keepers, _keepers + callers
    if not before:
        _set_malloc(mmap=1 << 30, trim=(1 << 31) - 1)
    elif not _keepers:
        mmap = int(os.environ.get("MALLOC_MMAP_THRESHOLD_", GLIBC_MMAP_LIMIT))
        _set_malloc(mmap=mmap, trim=int(os.environ.get("MALLOC_TRIM_THRESHOLD_", 2 * mmap)))


def _set_malloc(mmap: int, trim: int) -> None:
    """Bytes from which malloc takes memory of its own from the system, and free bytes it keeps. Without glibc: none."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    libc.mallopt(MMAP_THRESHOLD, mmap)
    libc.mallopt(TRIM_THRESHOLD, trim)
