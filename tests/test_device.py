"""On what a model runs, and how fast its memory is: decided from what the machine says, here from stand-ins for it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.checkpoints import memory
from core.engine import bandwidth, device
from core.engine.device import Placement, deterministic_cuda, figures_device, place
from core.engine.step import AttentionKernels
from core.settings import Settings
from tests import tiny
from tests.pretend_gpu import settings_kept


@pytest.fixture
def machine(monkeypatch):
    """A function that says what this machine has."""

    def has(cuda: int = 0, mps: bool = False, bfloat16: bool = False, capability: tuple[int, int] = (9, 0)) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
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
    found = place(Settings(), index)
    assert (found.device, found.dtype) == (torch.device(device), dtype)
    assert found.cards == ((torch.device("cuda:0"), torch.device("cuda:1")) if there == {"cuda": 2} else ())


def test_the_first_model_is_the_one_that_is_placed_where_none_is_named(machine):
    machine(cuda=2)
    assert place(Settings()).device == torch.device("cuda:0")


def test_what_was_asked_for_is_taken_where_it_is_there(machine):
    machine(cuda=1, bfloat16=True)
    assert place(Settings(device="cpu")).device == torch.device("cpu")
    assert place(Settings(device="cpu", dtype="float16")).dtype == torch.float16
    assert place(Settings(dtype="float32")) == Placement(torch.device("cuda:0"), torch.float32)


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((10, 0), torch.bfloat16)]
)
def test_a_gpu_from_before_bfloat16_computes_in_float16_unless_another_is_asked_for(machine, capability, dtype):
    machine(cuda=1, capability=capability)
    assert place(Settings()).dtype == dtype
    assert place(Settings(dtype="bfloat16")).dtype == torch.bfloat16


def test_a_machine_whose_gpu_torch_cannot_use_says_so_once(machine, monkeypatch, tmp_path, caplog):
    driver = tmp_path / "version"
    monkeypatch.setattr(device, "NVIDIA_DRIVER", driver)
    device._say_that_the_gpu_is_not_used.cache_clear()
    machine()
    place(Settings())
    assert caplog.text == "", "there is none"
    driver.touch()
    place(Settings(device="cpu"))
    assert caplog.text == "", "it was asked for"
    place(Settings(), 0)
    place(Settings(), 1)
    assert caplog.text.count("models run on the processor: this machine has an NVIDIA driver, but torch") == 1
    assert "or say --device cpu" in caplog.text
    machine(cuda=1)
    assert place(Settings()).device.type == "cuda"


def parameters(*places: torch.device) -> Any:
    """What is seen of a model with a parameter in each of these places."""
    return SimpleNamespace(parameters=lambda: [SimpleNamespace(device=each, numel=lambda: 2000) for each in places])


def test_the_fingerprint_of_a_gpu_names_the_card_its_software_and_the_attention_kernel(machine, monkeypatch):
    machine(cuda=1, capability=(8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L40S")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    card = torch.device("cuda", 0)
    name = "NVIDIA L40S, compute capability 8.9"
    assert device.described(parameters(card, card)) == name
    spread = f"spread over {name} (4,000 parameters) and {name} (2,000 parameters)"
    assert device.described(parameters(card, card, torch.device("cuda", 1))) == spread
    software = {"CUDA": "13.0", "cuDNN": "91000"}
    assert device.software(card, ["efficient", "math"]) == {**software, "attention kernel": "efficient, math"}
    assert device.software(card, []) == software, "eager attention has no kernel of its own"
    assert device.software(torch.device("cpu"), ["flash"]) == {}, "there torch's version says it"


def test_the_kernels_that_torch_chooses_for_attention_are_seen():
    query, mask = torch.zeros(2, 4, 1, 8), torch.ones(2, 1, 1, 16, dtype=torch.bool)
    keys = torch.zeros(2, 4, 16, 8)
    with AttentionKernels() as kernels:
        torch.nn.functional.scaled_dot_product_attention(query, keys, keys, attn_mask=mask)
        with sdpa_kernel(SDPBackend.MATH):
            torch.nn.functional.scaled_dot_product_attention(query, keys, keys, attn_mask=mask)
    assert kernels.names == {"flash", "math"}


def test_what_the_allocator_of_a_gpu_holds_for_nobody_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    assert memory.free_bytes(torch.device("cuda", 0)) == 10 + 50 - 30


@pytest.mark.parametrize("used", [True, False])
def test_an_unused_gpu_is_not_started_to_give_memory_back(monkeypatch, used):
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    device.give_back()
    assert emptied == [True] * used


def test_figures_are_computed_where_float64_is():
    for kind, where in (("cpu", "cpu"), ("cuda", "cuda"), ("mps", "cpu")):
        assert figures_device(torch.device(kind)) == torch.device(where)


def test_a_gpu_is_asked_to_repeat_its_bits():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with settings_kept():
        cudnn.benchmark = True
        deterministic_cuda()
        assert not torch.are_deterministic_algorithms_enabled(), "under it caches are copied to be written"
        assert not matmul.allow_bf16_reduced_precision_reduction
        assert not matmul.allow_fp16_reduced_precision_reduction
        assert cudnn.deterministic and not cudnn.benchmark
        assert not torch.backends.cuda.cudnn_sdp_enabled()


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
