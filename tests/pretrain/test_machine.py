"""What may be set for the whole process, and that it is put back."""

import ctypes
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from data.console import UserError
from data.run.options import StageOptions, settings
from pretrain import machine
from pretrain.machine import (
    OwnPrecision,
    choose_device,
    compute_dtype,
    cpu_kernels,
    full_precision_matmul,
    one_thread_each,
    process_state,
    seeded,
    short_seed,
)

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SETTINGS = re.compile(
    r"set_float32_matmul_precision|set_num_threads|mallopt|matplotlib\.use|(cuda|mps)\.is_available|is_bf16_supported"
)


def there_is(monkeypatch: pytest.MonkeyPatch, *devices: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in devices)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in devices)


def test_no_other_file_of_the_product_touches_the_process() -> None:
    found = {
        f"{path.relative_to(REPOSITORY)}: {line.strip()}"
        for package in ("data", "pretrain", "sft", "reward", "rlhf")
        for path in (REPOSITORY / package).rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if SETTINGS.search(line) and path != REPOSITORY / "pretrain/machine.py"
    }
    assert found == set()


def test_auto_is_cuda_or_the_cpu_and_mps_comes_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    there_is(monkeypatch, "cuda")
    assert choose_device().type == "cuda"
    assert choose_device("cpu").type == "cpu"
    there_is(monkeypatch, "mps")
    assert choose_device("auto").type == "cpu"
    assert choose_device("mps").type == "mps"
    there_is(monkeypatch, "cuda")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # as `accelerate launch --cpu` does
    assert choose_device().type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there_is(monkeypatch)
    with pytest.raises(UserError, match=rf"device is {name}.*choose auto or cpu"):
        choose_device(name)


def test_a_device_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(UserError, match="device is 'gpu': choose one of auto, cpu, cuda, mps"):
        choose_device("gpu")


def test_a_process_that_runs_elsewhere_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_state(CPU).device == CPU
    monkeypatch.setitem(PartialState._shared_state, "device", torch.device("mps"))
    with pytest.raises(UserError, match=r"already runs on mps.*choose device mps"):
        OwnPrecision(CPU)


def test_mps_serves_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="mps serves one process"):
        process_state(torch.device("mps"))


def test_bfloat16_is_never_chosen_by_the_cpu_for_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    assert compute_dtype("auto", CPU) == torch.bfloat16
    assert compute_dtype("auto", torch.device("mps")) == torch.float32
    assert compute_dtype("fp32", CPU) == torch.float32


def test_an_accelerator_has_the_precision_it_was_given_whatever_the_process_has() -> None:
    """accelerate's own refuses the second; a model that it wraps computes in the process's precision."""
    for bf16 in (True, False):
        accelerator = OwnPrecision(CPU, bf16)
        linear = accelerator.prepare(torch.nn.Linear(4, 4))
        with accelerator.autocast():
            assert linear(torch.ones(1, 4)).dtype == (torch.bfloat16 if bf16 else torch.float32)
        assert linear(torch.ones(1, 4)).dtype == torch.float32


def test_kernels_last_as_long_as_their_context_even_where_it_fails() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with cpu_kernels(CPU):
            assert torch.get_float32_matmul_precision() == "medium"
            with full_precision_matmul():
                assert torch.get_float32_matmul_precision() == "highest"
            with cpu_kernels(CPU):
                pass
            assert torch.get_float32_matmul_precision() == "medium"
        with pytest.raises(ZeroDivisionError), cpu_kernels(CPU):
            raise ZeroDivisionError
        assert torch.get_float32_matmul_precision() == "high"
        with cpu_kernels(torch.device("cuda")):
            assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_threads_are_shared_out_and_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread_each(CPU) as workers:
            assert set(workers.map(lambda _: torch.get_num_threads(), range(6))) == {1}
            assert workers._max_workers == 3
        assert torch.get_num_threads() == 3
        with one_thread_each(torch.device("cuda")) as workers:
            assert workers._max_workers == 1
    finally:
        torch.set_num_threads(before)


def test_the_allocator_is_put_back_when_the_last_caller_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(machine, "_set_malloc", lambda mmap, trim: set_to.append((mmap, trim)))
    monkeypatch.setattr(machine, "_keepers", 0)
    with cpu_kernels(CPU):
        with cpu_kernels(CPU):
            pass
        assert len(set_to) == 1
    assert len(set_to) == 2
    assert set_to[1] == (32 * 2**20, 64 * 2**20)
    machine.start()
    with cpu_kernels(CPU):
        pass
    assert len(set_to) == 3  # a command's setting stays


FREED_MEMORY = """
import ctypes, torch
from pretrain.machine import cpu_kernels
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def kept():
    "MiB that stay with the process of 256 MiB it has freed."
    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20
    before, size = resident(), 256 * 2**20
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
    return resident() - before

first = kept()
with cpu_kernels(torch.device("cpu")):
    within = kept()
libc.free(libc.malloc(2**20))  # the next free gives back what was kept
print(first, within, kept())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_kept_within_and_given_back_after() -> None:
    try:
        ctypes.CDLL("libc.so.6")
    except OSError:
        pytest.skip("no glibc")
    done = subprocess.run([sys.executable, "-c", FREED_MEMORY], cwd=REPOSITORY, capture_output=True, text=True)
    first, within, after = map(int, done.stdout.split())
    assert first < 16
    assert within > 200
    assert after < 16, done.stdout


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "rlhf"])
def test_every_stage_takes_a_device_and_says_where_it_is_not_there(
    stage: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    said = refused(stage, "smoke", "--device", "mps", "--run", tmp_path / "run")
    assert said == "error: device is mps, which torch does not find on this machine: choose auto or cpu"
    assert not (tmp_path / "run").exists()


def test_the_device_is_no_setting_that_resume_compares() -> None:
    assert settings(StageOptions(device="cuda")) == settings(StageOptions(device="cpu"))


def test_any_whole_number_seeds_and_small_ones_as_torch_does() -> None:
    def drawn(seed: int) -> float:
        return torch.rand((), generator=seeded(seed)).item()

    for seed in (0, 1, 2**40, 2**64 - 1):
        assert drawn(seed) == torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
    assert len({drawn(seed) for seed in (1, 2**64 - 1, 1_000_003 * (2**64 - 1) + 5, 1_000_003 * 2**63)}) == 4
    assert [short_seed(seed) for seed in (0, 1, 2**31 - 1)] == [0, 1, 2**31 - 1]
    large = [1764104400123456789, 1764104400123456790, 2**31, 2**32, 2**63, 2**64 - 1, 2**64 + 7]
    short = [short_seed(seed) for seed in large]
    assert len(set(short)) == len(large)
    assert all(0 <= seed < 2**31 for seed in short)
