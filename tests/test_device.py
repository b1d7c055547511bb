"""On what a model runs, and how fast its memory is: decided from what the machine says, here from stand-ins for it."""

import pytest
import torch

from core.engine import bandwidth
from core.engine.device import Placement, deterministic_cuda, figures_device, place
from core.settings import Settings
from tests import tiny


@pytest.fixture
def machine(monkeypatch):
    """A function that says what this machine has."""

    def has(cuda: int = 0, mps: bool = False, bfloat16: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)

    return has


@pytest.mark.parametrize(
    ("there", "index", "device", "dtype"),
    [
        ({}, 0, "cpu", torch.float32),
        ({"bfloat16": True}, 1, "cpu", torch.bfloat16),
        ({"mps": True}, 0, "mps", torch.bfloat16),
        ({"mps": True}, 1, "mps", torch.bfloat16),
        ({"cuda": 1, "mps": True}, 1, "cuda:0", torch.bfloat16),
        ({"cuda": 2}, 0, "cuda:0", torch.bfloat16),
        ({"cuda": 2}, 1, "cuda:1", torch.bfloat16),
    ],
)
def test_a_model_runs_on_the_best_device_there_is_and_the_second_on_a_second_gpu(machine, there, index, device, dtype):
    machine(**there)
    assert place(Settings(), index) == Placement(torch.device(device), dtype)


def test_the_first_model_is_the_one_that_is_placed_where_none_is_named(machine):
    machine(cuda=2)
    assert place(Settings()).device == torch.device("cuda:0")


def test_what_was_asked_for_is_taken_where_it_is_there(machine):
    machine(cuda=1, bfloat16=True)
    assert place(Settings(device="cpu")).device == torch.device("cpu")
    assert place(Settings(device="cpu", dtype="float16")).dtype == torch.float16
    assert place(Settings(dtype="float32")) == Placement(torch.device("cuda:0"), torch.float32)


def test_figures_are_computed_where_float64_is():
    for kind, where in (("cpu", "cpu"), ("cuda", "cuda"), ("mps", "cpu")):
        assert figures_device(torch.device(kind)) == torch.device(where)


def test_a_gpu_is_asked_to_repeat_its_bits():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction,
        cudnn.benchmark,
    )
    try:
        cudnn.benchmark = True
        deterministic_cuda()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        assert not matmul.allow_bf16_reduced_precision_reduction
        assert not matmul.allow_fp16_reduced_precision_reduction
        assert not cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]  # type: ignore[attr-defined]
        matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction = before[2:4]
        cudnn.benchmark = before[4]


# --- memory -------------------------------------------------------------------------------------------


def test_a_pass_reads_every_weight_but_an_input_embedding_that_is_no_output_too():
    tied, untied = tiny.model(), tiny.model(tie_word_embeddings=False)
    weights = {id(parameter): parameter.nbytes for parameter in tied.parameters()}
    assert bandwidth.bytes_per_pass(tied) == sum(weights.values())
    assert bandwidth.bytes_per_pass(untied) == sum(weights.values()), "another matrix is read, and one is not"


def test_the_bandwidth_is_of_the_fastest_copy_and_counts_what_is_read_and_what_is_written(monkeypatch):
    """The clock says how long each copy takes; it is read when the device has finished what was asked before."""
    ticks = iter([0.0, 4.0, 10.0, 12.0, 20.0, 28.0])
    order: list[str] = []
    monkeypatch.setattr(bandwidth, "CPU_BUFFER_BYTES", 1000)
    monkeypatch.setattr(bandwidth, "perf_counter", lambda: (order.append("clock"), next(ticks))[1])
    monkeypatch.setattr(bandwidth, "_synchronize", lambda device: order.append(device.type))
    assert bandwidth.copy_bandwidth(torch.device("cpu"), rounds=3) == 2 * 1000 / 2.0
    assert order == ["cpu", "clock", "cpu", "clock"] * 3


def test_what_is_copied_is_there_and_two_of_it_fit_into_any_gpu():
    assert bandwidth.copy_bandwidth(torch.device("cpu"), rounds=1) > 0
    assert bandwidth.CPU_BUFFER_BYTES < bandwidth.GPU_BUFFER_BYTES <= 2 * 2**30


def test_a_copy_copies():
    source, target = torch.arange(9), torch.zeros(9, dtype=torch.long)
    assert bandwidth._seconds(source, target) >= 0
    assert torch.equal(source, target)


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_whoever_measures_waits_for_the_device_that_computes(monkeypatch, kind):
    waited: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(device.type))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    bandwidth._synchronize(torch.device(kind))
    assert waited == ([] if kind == "cpu" else [kind])
