"""The engine at its portable level: what it promises, what it says of itself, and what a replay makes of it."""

import threading
from dataclasses import replace
from queue import SimpleQueue
from time import monotonic, sleep
from types import SimpleNamespace

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM

from core import receipts, replay, scoring, wording
from core.checkpoints import budget, memory
from core.checkpoints.fingerprint import weights_sha256
from core.engine import device, exact, portable, reading, sampling
from core.engine.device import Placement, place
from core.engine.engine import HUNG, STORE_BYTES, Shape
from core.engine.operations import current
from core.engine.reading import Rereading
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.pairs import Pair
from core.pool import Pool
from core.receipts import engine_changes
from core.run import Run, compare, write
from core.settings import Settings
from core.steps import Stop, finish
from core.types import SIDES, Dial, EngineInfo, Failure, Finish, Receipt, Result
from tests import tiny
from tests.engines import VOCABULARY, answer, bits, random_model, request, running, tokens
from tests.test_replay import asked, resealed, settings_for

PROMPT = tuple(range(1, 40))


def asked_of(model, *, crowd: int = 0, **how) -> tuple[list[tuple], EngineInfo]:
    requests = [request(range(2 + i, 20 + 3 * i), seed=i) for i in range(crowd)]
    with running(model, portable.NAME, **how) as engine:
        return bits(answer(engine, *requests, request(PROMPT, temperature=0.9, top_p=0.9))[-1]), engine.info()


def test_a_reply_and_what_is_compared_of_the_engine_are_the_same_however_it_runs():
    wanted, info = asked_of(random_model())
    assert len(wanted) == 12
    found, other = asked_of(random_model(), slots=2, chunk=8, sizes=(256,), crowd=3)
    assert found == wanted
    assert info.same_bits(other) and other.same_bits(info)
    assert engine_changes({"base": info, "post": info}, {"base": other, "post": other}), "shown, though not compared"


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


@pytest.mark.slow
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


def test_what_was_written_is_kept_for_the_next_turn_and_no_bit_changes():
    with running(random_model(), portable.NAME, chunk=8, sizes=(64, 128)) as engine:
        first = answer(engine, request(PROMPT, max_new_tokens=20, temperature=0.9))[0]
        then = request([*PROMPT, *tokens(first), 5, 6, 7], max_new_tokens=6)
        again = answer(engine, then)[0]
        assert again[-1].usage.reused_tokens == 56, "39 were asked and 20 written, of which the last was not read"
        fresh = answer(engine, then.model_copy(update={"reuse": False}))[0]
        assert fresh[-1].usage.reused_tokens == 0 and bits(fresh) == bits(again)
    with running(random_model(), chunk=8, sizes=(128,)) as engine:
        answer(engine, request(PROMPT, max_new_tokens=20, temperature=0.9))
        assert answer(engine, then)[0][-1].usage.reused_tokens == 32, "not what was written, where its bits may differ"


@pytest.mark.slow
def test_lanes_are_recorded_while_they_serve_and_no_bit_changes():
    wanted, _ = asked_of(random_model())
    with running(random_model(), portable.NAME, sizes=(64, 128)) as engine:
        deadline = monotonic() + 60
        while not engine._lanes[64].step(1).recorded and monotonic() < deadline:
            sleep(0.02)
        assert engine._lanes[64].step(1).recorded
        assert not engine._lanes[128].step(1).asked, "nobody has used it yet"
        assert bits(answer(engine, request(PROMPT, temperature=0.9, top_p=0.9))[0]) == wanted


def test_closing_does_not_wait_for_a_recording(monkeypatch):
    recording = threading.Event()

    def for_ever(self, given_up):
        recording.set()
        while not given_up():
            sleep(0.01)

    monkeypatch.setattr("core.engine.step.DecodeStep.record_beside", for_ever)
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


@pytest.mark.slow
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
    device._other_answers.cache_clear()


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
        assert placement.cache_dtype == torch.float32, "24 bits hold them"


def test_a_machine_with_other_answers_says_so_and_runs_fast(monkeypatch, caplog):
    monkeypatch.setattr(exact, "log", torch.log)
    device._other_answers.cache_clear()
    placement = place(Settings(device="cpu"), 0, "portable")
    assert (placement.portable, placement.lacks) == (False, ("log",))
    assert not place(Settings(device="cpu"), 0, "fast").lacks, "nobody asked for it"
    assert "no portable arithmetic here: log of this machine's gives other answers" in caplog.text


def test_a_gpu_without_float64_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match="needs float64, which this GPU has not; use --device cpu"):
        place(Settings(device="mps", arithmetic="portable"))
    assert not place(Settings(device="mps"), 0, "portable").portable, "a row is for processors"


def test_the_memory_that_it_takes_is_counted():
    config, cpu = tiny.model().config, torch.device("cpu")

    def shape(placement: Placement, free: int) -> Shape:
        needs = memory.need(config, placement)
        needs = replace(needs, vocabulary=0, footprint=needs.footprint._replace(weights=0))
        return budget.plan([needs], {cpu: free}, Settings(context=256)).shape

    per_token = memory.footprint(config, Placement(cpu, torch.float32)).cache.position
    free = STORE_BYTES + budget.SPARE_BYTES + per_token * 256 * 6 - 1
    assert shape(Placement(cpu, torch.bfloat16), free).sizes[-1] == 256
    with pytest.raises(UserError, match="free"):
        shape(Placement(cpu, torch.bfloat16, portable=True), free)


def test_the_arithmetic_is_in_the_flags_that_another_process_is_given():
    assert "--arithmetic=portable" in Settings(arithmetic="portable").model_flags()
    assert Pair(id="a", title="a", base="b", post="c").arithmetic == "fast"


# --- a replay -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "pair"
    folder.mkdir()
    tiny.save_pair(folder)
    return folder


@pytest.fixture(scope="module")
def pool(folder):
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


# --- checked by reading -------------------------------------------------------------------------------------------


def test_reading_says_what_writing_again_says(pool, original):
    read, written = (finish(replay.replay(pool, original, again=again)) for again in (False, True))
    assert read == written and read.outcome == "identical" and read.portable


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"repetition_penalty": 1.3, "top_k": 20},
        {"temperature": 0.0},
        {"max_new_tokens": 1},
        {"more": {"prefill_base": (40, 41), "prefill_post": (42,)}},
        {"more": {"dial": Dial(amount=0.5)}},
    ],
    ids=str,
)
def test_every_setting_is_read_as_it_was_written(pool, more):
    with pool.wait(pool.default.id) as lease:
        receipt = receipts.answer(compare(lease, asked(pool, **more))).receipt
    verdict = finish(replay.replay(pool, receipt))
    assert (verdict.outcome, verdict.base.drift, verdict.post.drift) == ("identical", 0, 0)


def test_the_entropies_that_reading_finds_are_those_of_what_writing_drew_from(pool, monkeypatch):
    drew, draw = list[float](), sampling.draw

    def watched(logits, seen, settings, steps):
        drew.extend(scoring.entropy(sampling.warp(logits, seen, settings)).tolist())
        return draw(logits, seen, settings, steps)

    monkeypatch.setattr(sampling, "draw", watched)
    with pool.wait(pool.default.id) as lease:
        written = write(lease, asked(pool), "post", Stop())
        assert len(drew) == len(written.token_ids) > 5
        assert lease.entropies(asked(pool), "post", written) == tuple(drew)


@pytest.mark.parametrize("more", [{}, {"repetition_penalty": 1.3}, {"temperature": 0.0}])
def test_what_is_known_of_a_reply_is_read_in_passes_of_many_and_the_rest_is_written_behind_it(more):
    asked = request(PROMPT, **{"temperature": 0.9, "max_new_tokens": 60, **more})
    with running(random_model(), portable.NAME, chunk=16, sizes=(128,)) as engine:
        (whole,) = answer(engine, asked)
        for known in (1, 20, 59, 60):
            resumed = asked.model_copy(update={"expected": tuple(tokens(whole)[:known]), "reading": "on"})
            said: SimpleQueue = SimpleQueue()
            reading.submit(engine, resumed, said.put)
            events = [said.get(timeout=60)]
            while not isinstance(events[-1], Finish):
                events.append(said.get(timeout=60))
            assert bits(events) == bits(whole)
            usage = events[-1].usage
            assert (usage.prompt_tokens, usage.output_tokens) == (len(PROMPT), 60)
            assert usage.decode_passes <= 60 - known, "what is known is written again"


def test_nothing_is_written_when_it_is_read(pool, original, monkeypatch):
    monkeypatch.setattr("core.engine.lane.Lane.write", lambda *given: pytest.fail("a decode pass"))
    assert finish(replay.replay(pool, original)).outcome == "identical"


def test_a_reply_that_goes_on_where_the_receipt_ends_or_ends_before_is_told(pool, original):
    side = original.base
    shorter = resealed(original, token_ids=side.token_ids[:-2], margins=side.margins[:-2])
    found = finish(replay.replay(pool, shorter)).base.divergence
    assert (found.step, found.recorded.id, found.replayed.id) == (len(side.token_ids) - 2, None, side.token_ids[-2])
    longer = resealed(original, token_ids=(*side.token_ids, 7), margins=(*side.margins, 1.0))
    found = finish(replay.replay(pool, longer)).base.divergence
    assert (found.step, found.recorded.id, found.replayed.id) == (len(side.token_ids), 7, None)


def test_an_id_that_no_vocabulary_has_is_where_it_departs(pool, original):
    ids = (*original.base.token_ids[:4], 10**6, *original.base.token_ids[5:])
    found = finish(replay.replay(pool, resealed(original, token_ids=ids))).base.divergence
    assert (found.step, found.recorded.id, found.replayed.id) == (4, 10**6, original.base.token_ids[4])
    assert finish(replay.replay(pool, original)).outcome == "identical"


def changed(folder, name, change):
    """The pair with other numbers in its base."""
    model = AutoModelForCausalLM.from_pretrained(folder / "tiny-base", dtype=torch.bfloat16)
    change(model)
    tiny.save_pair(folder.parent / name)
    model.save_pretrained(folder.parent / name / "tiny-base")
    return settings_for(folder.parent / name, arithmetic="portable")


def one_weight(model):
    model.model.layers[0].mlp.up_proj.weight.data[3, 3] += 0.05


def eight_bits(model):
    for weight in model.parameters():
        if weight.dim() == 2:
            unit = weight.data.float().abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
            weight.data.copy_((weight.data.float() / unit).round() * unit)


FORGERIES = {
    "another dtype": lambda folder: settings_for(folder, arithmetic="fast", dtype="float32"),
    "one weight changed": lambda folder: changed(folder, "one-weight", one_weight),
    "quantised to 8 bits": lambda folder: changed(folder, "eight-bits", eight_bits),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGERIES)
def test_a_receipt_of_other_numbers_that_claims_to_be_of_these_is_caught_at_its_first_token(
    name, folder, pool, original
):
    with Pool(FORGERIES[name](folder), HuggingFaceHub()) as other, other.wait(other.default.id) as lease:
        found = receipts.answer(compare(lease, asked(other))).receipt.base
    own = {field: getattr(original.base, field) for field in ("engine", "weights_sha256", "checkpoint")}
    forged = resealed(original, **{**dict(found), **own})
    divergence = finish(replay.replay(pool, forged)).base.divergence
    assert divergence.step == 0 and divergence.allowance == 0 and not divergence.within_drift


def test_another_temperature_is_caught_at_its_first_token(pool, original):
    with pool.wait(pool.default.id) as lease:
        found = receipts.answer(compare(lease, asked(pool, temperature=1.01))).receipt.base
    forged = resealed(original, **{**dict(found), "sampling": original.base.sampling})
    divergence = finish(replay.replay(pool, forged)).base.divergence
    assert divergence.step == 0
    words = wording.side_sentences("base", finish(replay.replay(pool, forged)).base)
    if divergence.recorded.id == divergence.replayed.id:
        assert "the same token was drawn by another margin" in words[0]


def test_a_reading_that_is_closed_frees_the_engine(pool, original):
    replaying = replay.replay(pool, original)
    next(replaying)
    replaying.close()
    assert finish(replay.replay(pool, original)).outcome == "identical"


def test_a_pass_that_fails_while_a_reply_is_read_is_the_engines_own_sentence(caplog):
    """It has been logged where it failed, and is no fault of whoever reads."""

    def score(ids, first, take):
        take(Failure(message=HUNG))
        return SimpleNamespace(more=lambda: None, cancel=lambda: None)

    said: SimpleQueue = SimpleQueue()
    failing = SimpleNamespace(vocabulary=VOCABULARY, context=64, score=score)
    Rereading(failing, request([1, 2]).model_copy(update={"expected": (3, 4)}), said.put)
    assert said.get(timeout=60) == Failure(message=HUNG) and not caplog.records


# --- what was shared -----------------------------------------------------------------------------------------------


def checked(pool, shared: dict) -> Result:
    with pool.wait(pool.default.id) as lease:
        run = Run(lease, asked(pool), shared=shared)
        for _ in run.snapshots(lambda: 0.01):
            pass
        return run.result()


def test_shared_replies_are_read_and_what_differs_is_written(pool, original):
    with pool.wait(pool.default.id) as lease:
        own = compare(lease, asked(pool))
    shared = {side: own.side(side).token_ids for side in SIDES}
    read = checked(pool, shared)
    for side in SIDES:
        found, wanted = read.side(side), own.side(side)
        assert (found.token_ids, found.logprobs, found.margins) == (wanted.token_ids, wanted.logprobs, wanted.margins)
        assert (found.finish_reason, found.text) == (wanted.finish_reason, wanted.text)
        assert found.usage.decode_passes == 0
    ids = list(own.base.token_ids)
    ids[5] = (ids[5] + 1) % tiny.VOCABULARY
    for altered in (tuple(ids), tuple(ids[:4]), (*own.base.token_ids, 9)):
        found = checked(pool, {**shared, "base": altered}).base
        assert (found.token_ids, found.margins) == (own.base.token_ids, own.base.margins)
