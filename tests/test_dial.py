"""The dial between two siblings: both ends are the models themselves, and nobody else is disturbed."""

import threading
import time

import pytest
import torch

from core.engine import LogitsDial, WeightsDial
from core.engine.dial import mix, mixed_model
from core.errors import UserError
from core.run import Run, compare
from core.types import SIDES, Dial, Event, Failure, Finish, Queued, Token
from tests.engines import answer, bits, random_model, request, running, tokens
from tests.pairs import comparison, tiny_lease


@pytest.fixture(scope="module")
def lease():
    with tiny_lease() as lease:
        yield lease


ENDS = [("logits", torch.float32), ("weights", torch.float32), ("logits", torch.bfloat16), ("weights", torch.bfloat16)]


@pytest.mark.slow
@pytest.mark.parametrize(("space", "dtype"), ENDS)
def test_the_ends_of_the_dial_are_the_models_bit_for_bit(space, dtype):
    with tiny_lease(dtype) as lease:
        for settings in ({"temperature": 0.9, "repetition_penalty": 1.3}, {"temperature": 0}):
            chat = {**settings, "framing_base": "chat", "framing_post": "chat"}
            plain = compare(lease, comparison(**chat))
            for amount, expected in ((0.0, plain.base), (1.0, plain.post)):
                dialled = compare(lease, comparison(**chat, dial=Dial(amount=amount, space=space)))
                assert dialled.post.token_ids == expected.token_ids
                assert dialled.post.logprobs == expected.logprobs
                assert dialled.post.margins == expected.margins
                assert dialled.post.finish_reason == expected.finish_reason
                assert dialled.post.text == expected.text
                assert dialled.base == plain.base.model_copy(update={"usage": dialled.base.usage})


def test_between_the_ends_tokens_are_those_of_the_mix_by_definition(lease):
    """Against plain forward passes of both models over the whole sequence for every token."""
    from core.engine import sampling

    for amount in (0.4, 1.5):
        dialled = compare(lease, comparison(temperature=0.8, max_new_tokens=12, dial=Dial(amount=amount))).post
        ids = list(dialled.prompt_token_ids)
        for step, token in enumerate(dialled.token_ids):
            with torch.inference_mode():
                base, post = (
                    checkpoint.model(torch.tensor([ids]), use_cache=False).logits[:, -1].double()
                    for checkpoint in lease.loaded.values()
                )
            logits = base + amount * (post - base)
            drawn = sampling.draw(logits, torch.zeros_like(logits, dtype=torch.bool), [dialled.sampling], [step])[0]
            assert drawn.token == token
            assert drawn.logprob == pytest.approx(dialled.logprobs[step], abs=1e-4)
            ids.append(token)


def test_mixed_weights_are_the_mix_of_the_weights():
    base, post = random_model(seed=1), random_model(seed=2)
    model = mixed_model(base, post, 0.25)
    for (name, mine), a, b in zip(model.named_parameters(), base.parameters(), post.parameters(), strict=True):
        assert torch.allclose(mine, a + 0.25 * (b - a), atol=1e-6), name
    assert torch.equal(mix(torch.tensor(0.1), torch.tensor(0.3), 1.0), torch.tensor(0.3))
    with pytest.raises(UserError, match="different shapes"):
        mixed_model(base, random_model("GPT-2"), 0.5)


def test_a_dialled_reply_counts_the_passes_of_both_models(lease):
    usage = compare(lease, comparison(max_new_tokens=8, dial=Dial(amount=0.5))).post.usage
    assert (usage.output_tokens, usage.decode_passes) == (8, 14)
    assert usage.prefill_passes % 2 == 0


def test_dialled_replies_and_ordinary_ones_change_no_bit_of_each_other(lease):
    asked = request(range(20), max_new_tokens=30, temperature=0.9)
    dial = LogitsDial(lease.loaded["base"].engine, lease.loaded["post"].engine, 0.6)
    plain = bits(answer(lease.loaded["base"].engine, asked)[0])
    alone = bits(answer(dial, asked)[0])
    for _ in range(2):  # eight at once on three slots of each model
        together = answer(dial, *[asked] * 8)
        assert [bits(events) for events in together] == [alone] * 8
    outcome: list = []
    thread = threading.Thread(target=lambda: outcome.append(answer(lease.loaded["base"].engine, *[asked] * 4)))
    thread.start()
    together = answer(dial, *[asked] * 4)
    thread.join()
    assert [bits(events) for events in together] == [alone] * 4
    assert [bits(events) for events in outcome[0]] == [plain] * 4
    assert any(isinstance(event, Queued) for events in together for event in events), "more of them than slots"


def test_a_held_reply_leaves_its_engine_idle_and_its_neighbours_alone():
    with running(random_model(), slots=2) as engine:
        alone = bits(answer(engine, request(range(9), max_new_tokens=20))[0])
        heard: list = []
        steering = engine.steer(request(range(5), max_new_tokens=4), heard.append)
        assert bits(answer(engine, request(range(9), max_new_tokens=20))[0]) == alone
        waiting = [engine.submit(request(range(9), max_new_tokens=100), lambda event: None) for _ in range(3)]
        for ticket in waiting:
            ticket.cancel()
        time.sleep(0.3)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.2
        for token in (3, 4, 5, 6):
            before_it = len(heard)
            steering.give(token)
            deadline = time.monotonic() + 60
            while len(heard) == before_it:  # the next logits, or the end
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert isinstance(heard[-1], Finish)
        assert heard[-1].reason == "length"
        steering.give(7)
        steering.cancel()
        assert bits(answer(engine, request(range(9), max_new_tokens=20))[0]) == alone


def mixed(base, post, amount):
    return WeightsDial(base, post, amount, one_at_a_time=threading.Lock(), check_room=lambda: None)


@pytest.mark.parametrize("dial", [LogitsDial, mixed])
def test_cancelling_a_dialled_reply_frees_every_slot(lease, dial):
    writer = dial(lease.loaded["base"].engine, lease.loaded["post"].engine, 0.5)
    for wait_for_a_token in (True, False):
        ended, begun = threading.Event(), threading.Event()
        events: list[Event] = []

        def listen(event, events=events, begun=begun, ended=ended) -> None:
            events.append(event)
            if isinstance(event, Token):
                begun.set()
            if isinstance(event, Finish | Failure):
                ended.set()

        run = writer.submit(request(range(9), max_new_tokens=200), listen)
        if wait_for_a_token:
            assert begun.wait(60)
        run.cancel()
        assert ended.wait(60)
        assert events[-1].reason == "stopped"
    for engine in (lease.loaded["base"].engine, lease.loaded["post"].engine):
        assert answer(engine, *[request(range(9))] * 3)[2][-1].reason == "length"


def test_a_third_model_does_not_outlive_its_reply(lease):
    engines = sum(thread.name == "engine" for thread in threading.enumerate())
    run = Run(lease, comparison(dial=Dial(amount=0.5, space="weights"), max_new_tokens=5))
    for _ in run.snapshots():
        pass
    assert run.result().post.finish_reason == "length"
    deadline = time.monotonic() + 20
    while sum(thread.name == "engine" for thread in threading.enumerate()) > engines:
        assert time.monotonic() < deadline, "its engine is still there"
        time.sleep(0.05)


def test_weights_that_do_not_fit_are_refused_with_the_numbers(lease, monkeypatch):
    monkeypatch.setattr("core.checkpoints.memory.free_bytes", lambda device: 2**28)
    with pytest.raises(
        UserError, match=r"takes about .* GB more, and 0.2 GB is free; turn the dial in the space of logits"
    ):
        compare(lease, comparison(dial=Dial(amount=0.5, space="weights")))
    assert compare(lease, comparison(dial=Dial(amount=0.5), max_new_tokens=2)).post.token_ids


def test_a_failing_model_fails_the_dialled_reply_in_one_sentence():
    model = random_model()
    with running(model) as base, running(random_model(seed=1)) as post:
        post.close()
        with pytest.raises(UserError, match="unloaded"):
            LogitsDial(base, post, 0.5).submit(request(range(5)), lambda event: None)
        assert tokens(answer(base, request(range(5)))[0]), "the other one goes on"


def test_mixes_of_weights_take_turns_and_one_that_is_stopped_meanwhile_ends_empty(lease):
    asked = comparison(max_new_tokens=4, dial=Dial(amount=0.5, space="weights"))
    with lease.mixing:
        run = Run(lease, asked)
        time.sleep(0.3)
        assert run.snapshot().post.phase == "queued"
        run.stop("post")
        *_, last = run.snapshots(lambda: 0.05)
    assert (last.post.finish_reason, last.post.token_ids) == ("stopped", ())
    assert compare(lease, asked).post.token_ids


def test_a_mix_that_finds_no_room_is_one_sentence_and_gives_its_turn_back(lease, monkeypatch):
    def no_room(checkpoint):
        raise UserError("Mixing these weights takes more than is free.")

    monkeypatch.setattr("core.local.check_room_for_another", no_room)
    with pytest.raises(UserError, match="takes more than is free"):
        compare(lease, comparison(dial=Dial(amount=0.5, space="weights")))
    assert not lease.mixing.locked()


def test_a_mix_that_is_not_a_number_fails_and_both_models_go_on():
    model, broken = random_model(seed=1), random_model(seed=2)
    with running(model) as base, running(broken) as post:
        broken.lm_head.weight.data[5] = torch.nan  # now, since a model that is so when it is loaded is refused
        events = answer(LogitsDial(base, post, 0.5), request([1, 2]))[0]
        assert isinstance(events[-1], Failure) and "not a number" in events[-1].message
        assert answer(base, *[request([1, 2])] * 5)[0][-1].reason == "length", "every slot is free again"


def test_a_dialled_reply_is_certified_only_where_both_models_are(lease, monkeypatch):
    asked = comparison(max_new_tokens=2, dial=Dial(amount=0.5))
    for base, post in ((True, True), (True, False), (False, True)):
        for side, certified in (("base", base), ("post", post)):
            monkeypatch.setattr(lease.loaded[side].engine, "certified", certified)
        told = [lease.loaded[side].engine.info() for side in SIDES]
        said = told[0].certification if not base else told[1].certification
        expected = told[1].model_copy(update={"certified": base and post, "certification": said})
        run = Run(lease, asked)
        assert run.engine("post") == expected, "before anybody has looked at what is written"
        *_, _ = run.snapshots()
        assert run.result().post.engine == expected


def test_a_dialled_receipt_names_the_engine_that_wrote_it(lease):
    result = compare(lease, comparison(max_new_tokens=4, dial=Dial(amount=0.5, space="weights")))
    assert len(result.post.engine.lane_sizes) == 1 < len(result.base.engine.lane_sizes)
