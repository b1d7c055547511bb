"""The engine at its portable level: what it promises, what it says of itself, and what a replay makes of it."""

import threading
from time import monotonic, sleep

import pytest
import torch
from transformers import AttentionInterface

from core import receipts, replay, wording
from core.checkpoints import memory
from core.checkpoints.fingerprint import weights_sha256
from core.compare import compare
from core.engine import device, exact, portable
from core.engine.device import Placement, place
from core.engine.engine import STORE_BYTES
from core.engine.operations import current
from core.engine.slots import kv_bytes_per_token
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.pairs import Pair
from core.pool import Pool
from core.receipts import engine_changes
from core.settings import Settings
from core.steps import finish
from core.types import EngineInfo, Receipt
from tests import tiny
from tests.engines import answer, bits, random_model, request, running
from tests.test_replay import asked, resealed, settings_for

PROMPT = tuple(range(1, 40))


def asked_of(model, *, crowd: int = 0, **how) -> tuple[list[tuple], EngineInfo]:
    requests = [request(range(2 + i, 20 + 3 * i), seed=i) for i in range(crowd)]
    with running(model, portable.NAME, **how) as engine:
        return bits(answer(engine, *requests, request(PROMPT, temperature=0.9, top_p=0.9))[-1]), engine.info()


def test_a_reply_and_what_is_compared_of_the_engine_are_the_same_however_it_runs():
    wanted, info = asked_of(random_model())
    assert len(wanted) == 12
    ways = {"slots": 2, "crowd": 5}, {"chunk": 8}, {"sizes": (256,), "crowd": 3}
    for way in ways:
        found, other = asked_of(random_model(), **way)
        assert found == wanted, way
        assert info.same_bits(other) and other.same_bits(info)
        assert engine_changes({"base": info, "post": info}, {"base": other, "post": other})


def test_it_says_what_it_is_and_other_numbers_are_another():
    _, info = asked_of(random_model())
    assert (info.arithmetic, info.draw, info.is_portable, info.certified) == ("portable-1", "exact", True, True)
    assert info.certification == "portable arithmetic, 1 thread"
    model = random_model()
    model.lm_head.weight.data[5, 5] += 0.01
    assert not asked_of(model)[1].same_bits(info)
    assert not info.model_copy(update={"arithmetic": "portable-2"}).same_bits(info)
    with running(random_model()) as fast:
        assert fast.info().arithmetic == "fast" and fast.info().draw == "exact"
        assert not fast.info().same_bits(info) and not info.same_bits(fast.info())


def test_the_dtype_in_which_the_same_numbers_are_stored_is_not_compared():
    narrow, wide = random_model(dtype=torch.bfloat16), random_model(dtype=torch.bfloat16).float()
    (one, info), (other, stored_wider) = asked_of(narrow), asked_of(wide)
    assert one == other and info.same_bits(stored_wider)


def test_weights_keep_their_fingerprint_and_a_value_that_changed_is_seen_whether_it_was_rounded_or_not():
    model = random_model()
    before = weights_sha256(model)
    asked_of(model)
    rounded = [p for p in model.parameters() if hasattr(p, portable._ROUNDED)]
    assert rounded, "nothing was rounded, so nothing is shown"
    assert weights_sha256(model) == before
    asked_of(model)
    assert weights_sha256(model) == before, "a second engine over the same weights"
    place = getattr(rounded[0], portable._ROUNDED)[0][0]
    flat = rounded[0].data.view(-1)
    for index in (int(place), (int(place) + 1) % flat.numel()):
        kept = flat[index].clone()
        flat[index] += 0.5
        assert weights_sha256(model) != before
        flat[index] = kept
    assert weights_sha256(model) == before


def test_lanes_are_recorded_while_they_serve_and_no_bit_changes():
    wanted, _ = asked_of(random_model())
    with running(random_model(), portable.NAME, sizes=(64, 128)) as engine:
        deadline = monotonic() + 60
        while not isinstance(engine._lanes[64]._forward, torch.jit.ScriptModule) and monotonic() < deadline:
            sleep(0.02)
        assert isinstance(engine._lanes[64]._forward, torch.jit.ScriptModule)
        assert not engine._lanes[128].recorded, "nobody has used it yet"
        assert bits(answer(engine, request(PROMPT, temperature=0.9, top_p=0.9))[0]) == wanted


def test_closing_does_not_wait_for_a_recording(monkeypatch):
    recording = threading.Event()

    def for_ever(self, given_up):
        recording.set()
        while not given_up():
            sleep(0.01)

    monkeypatch.setattr("core.engine.lane.Lane.record_beside", for_ever)
    with running(random_model(), portable.NAME):
        assert recording.wait(60)


def test_a_recording_that_is_not_wanted_any_more_ends_at_its_next_operation():
    model = portable.Portable(random_model())
    with torch.no_grad(), pytest.raises(portable.GivenUp):
        model.beside(lambda: True)(torch.tensor([[1, 2]]), use_cache=False)


def test_a_model_with_an_operation_that_has_no_form_is_refused_when_it_is_loaded(monkeypatch):
    model = random_model()
    model.lm_head.forward = lambda x: torch.nn.functional.linear(torch.lgamma(x), model.lm_head.weight)
    with pytest.raises(UserError, match=r"has no form for aten.lgamma.default; use --arithmetic fast\."):
        asked_of(model)


def test_a_planted_fault_is_far_outside_what_portable_arithmetic_may_be_off(monkeypatch):
    own = portable.attention
    with running(random_model(dtype=torch.bfloat16), portable.NAME) as engine:
        deviation = engine.info().deviation
        assert deviation.bound == 1e-2 and deviation.nats < 1e-3

    def scaled(*args, **options):
        mixed, weights = own(*args, **options)
        return mixed * (1.25 if current() else 1.0), weights

    monkeypatch.setitem(AttentionInterface._global_mapping, portable.NAME, scaled)
    with pytest.raises(UserError, match="computes other log-probabilities than the model itself"):
        asked_of(random_model(dtype=torch.bfloat16))


# --- where it is offered ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def asked_anew():
    yield
    device._is_ieee.cache_clear()


@pytest.mark.parametrize(
    "flag, row, portable_here", [(None, "fast", False), (None, "portable", True), ("fast", "portable", False), ("portable", "fast", True)]
)  # fmt: skip
def test_the_flag_wins_over_the_pairs_row(flag, row, portable_here):
    placement = place(Settings(device="cpu", arithmetic=flag), 0, row)
    assert placement.portable is portable_here
    if portable_here:
        assert placement.dtype == torch.bfloat16, (
            "whatever this processor is fast in: the numbers are the same everywhere"
        )
        assert placement.cache_dtype == torch.float64


def test_a_machine_with_other_answers_says_so_and_runs_fast(monkeypatch, caplog):
    monkeypatch.setattr(exact, "log", torch.log)
    device._is_ieee.cache_clear()
    assert not place(Settings(device="cpu"), 0, "portable").portable
    assert "no portable arithmetic here: log of this machine's gives other answers" in caplog.text


def test_a_gpu_without_float64_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match="needs float64, which this GPU has not; use --device cpu"):
        place(Settings(device="mps", arithmetic="portable"))
    assert not place(Settings(device="mps"), 0, "portable").portable, "a row is for processors"


def test_the_memory_that_it_takes_is_counted():
    config = tiny.model().config
    shape = lambda placement, free: memory.choose_shape(config, placement, Settings(context=256), 0, free)  # noqa: E731
    cpu = torch.device("cpu")
    per_token = kv_bytes_per_token(config, torch.float64)
    free = STORE_BYTES + memory.SPARE_BYTES + per_token * 256 * 6 - 1
    assert shape(Placement(cpu, torch.bfloat16), free).sizes[-1] == 256
    with pytest.raises(UserError, match="free"):
        shape(Placement(cpu, torch.bfloat16, portable=True), free)


def test_the_arithmetic_is_in_the_flags_that_another_process_is_given():
    assert "--arithmetic=portable" in Settings(arithmetic="portable").model_flags()
    assert Pair(id="a", title="a", base="b", post="c").arithmetic == "fast"


# --- a replay -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    tiny.save_pair(folder)
    with Pool(settings_for(folder, arithmetic="portable"), HuggingFaceHub()) as pool:
        yield pool


@pytest.fixture(scope="module")
def original(pool) -> Receipt:
    with pool.wait(pool.default.id) as lease:
        return receipts.answer(compare(lease, asked(pool))).receipt


def elsewhere(engine: EngineInfo) -> EngineInfo:
    return engine.model_copy(update={"device": "a toaster", "threads": 7, "slots": 2, "versions": {"torch": "1.0"}})


def test_a_receipt_of_any_machine_is_identical_here_and_nothing_is_warned_of(pool, original):
    receipt = resealed(original, engine=elsewhere(original.base.engine))
    verdict = finish(replay.replay(pool, receipt))
    assert (verdict.outcome, verdict.warnings, verdict.portable) == ("identical", (), True)
    assert wording.headline(verdict) == "Identical, bit for bit: in portable arithmetic any machine gives these bits."


def test_a_receipt_that_departs_names_versions_that_differ_and_allows_no_rounding(pool, original):
    ids = list(original.base.token_ids)
    ids[3] = (ids[3] + 1) % tiny.VOCABULARY
    receipt = resealed(original, token_ids=tuple(ids), engine=elsewhere(original.base.engine))
    verdict = finish(replay.replay(pool, receipt))
    assert verdict.outcome == "diverged" and verdict.base.divergence.allowance == 0
    assert not verdict.base.divergence.within_drift
    text = " ".join(verdict.warnings)
    assert "torch was 1.0" in text and "toaster" not in text and "threads" not in text


def test_a_receipt_of_before_says_whose_logarithms_drew_it(pool, original):
    old = original.base.engine.model_copy(update={"draw": "libm", "arithmetic": "fast", "computed_sha256": None})
    verdict = finish(replay.replay(pool, resealed(original, engine=old)))
    assert not verdict.portable
    assert any("where a margin is below 1e-9 another token can be drawn here" in each for each in verdict.warnings)
    assert any("arithmetic was fast, here it is portable-1" in each for each in verdict.warnings)


def test_what_receipts_of_before_say_of_their_engine_is_what_they_said():
    fields = {"sampler": "v1", "dtype": "bfloat16", "attention": "sdpa", "slots": 4, "lane_sizes": [256], "chunk": 64, "threads": 1, "device": "cpu", "versions": {}, "certified": True, "certification": "so"}  # fmt: skip
    read = EngineInfo.model_validate(fields)
    assert (read.arithmetic, read.draw, read.computed_sha256) == ("fast", "libm", None)
    assert read.model_dump(mode="json") == fields
