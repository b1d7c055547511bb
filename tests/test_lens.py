"""The token lens: its figures against plain forward passes in float64, and how scoring shares the engine."""

import math
import threading
import time

import pytest
import torch

from core import prompts, scoring
from core.engine import Scored, sampling
from core.engine.lane import Lane
from core.errors import UserError
from core.run import compare
from core.steps import finish
from core.types import SIDES, Candidate, Failure, Finish, Lens, Shift, Started
from tests import tiny
from tests.arithmetics import Shuffled
from tests.engines import VOCABULARY, answer, bits, naive_reply, random_model, request, running, tokens
from tests.pairs import comparison, tiny_lease, whole


@pytest.fixture(scope="module")
def lease():
    with tiny_lease() as lease:
        yield lease


def exact(checkpoint, ids: list[int], first: int) -> torch.Tensor:
    """Log-probabilities float64 [tokens, vocabulary] by one plain forward pass of the weights in float64."""
    model = tiny.model(attn_implementation="eager").double()
    model.load_state_dict({name: tensor.double() for name, tensor in checkpoint.model.state_dict().items()})
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, first - 1 : -1]
    return torch.log_softmax(logits, -1)


# --- the figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["identical", "own"])
@pytest.mark.parametrize("side", SIDES)
def test_figures_equal_plain_forward_passes_in_float64(lease, side, context):
    asked = comparison(temperature=0.9)
    reply = compare(lease, asked).side(side).token_ids
    got = whole(lease, asked, side, reply, context)
    expected = {}
    for each in SIDES:
        question = prompts.build(
            asked, each if context == "own" else side, lease.side(each).tokenizer, lease.post.tokenizer
        )
        ids = [*question.token_ids, *reply]
        expected[each] = exact(lease.loaded[each], ids, len(question.token_ids))
    base, post = expected["base"].tolist(), expected["post"].tolist()
    assert [shift.id for shift in got.shifts] == list(reply)
    assert [shift.step for shift in got.shifts] == list(range(len(reply)))
    writer, sibling = (base, post) if side == "base" else (post, base)
    for shift, w, s in zip(got.shifts, writer, sibling, strict=True):
        assert shift.first_choice_rank == 1 + sum(other > s[w.index(max(w))] for other in s)
    for shift, q, p in zip(got.shifts, base, post, strict=True):
        assert shift.logprob_base == pytest.approx(q[shift.id], abs=1e-4)
        assert shift.logprob_post == pytest.approx(p[shift.id], abs=1e-4)
        assert shift.rank_base == 1 + sum(other > q[shift.id] for other in q)
        assert shift.rank_post == 1 + sum(other > p[shift.id] for other in p)
        assert shift.kl == pytest.approx(sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)), abs=1e-4)
        middle = [math.log((math.exp(a) + math.exp(b)) / 2) for a, b in zip(p, q, strict=True)]
        js = sum(math.exp(a) * (a - m) + math.exp(b) * (b - m) for a, b, m in zip(p, q, middle, strict=True)) / 2
        assert shift.js == pytest.approx(js, abs=1e-4)
        for top, row in ((shift.top_base, q), (shift.top_post, p)):
            best = sorted(range(len(row)), key=lambda id: -row[id])[:5]
            assert [each.id for each in top] == best
            assert [each.logprob for each in top] == pytest.approx([row[id] for id in best], abs=1e-4)


def test_the_writers_scores_agree_with_what_was_recorded_while_it_wrote(lease):
    for seed in range(3):
        asked = comparison(seed=seed, temperature=1.0, top_p=0.9, repetition_penalty=1.3)
        result = compare(lease, asked)
        for side in SIDES:
            written = result.side(side)
            got = whole(lease, asked, side, written.token_ids)
            scored = [shift.logprob_base if side == "base" else shift.logprob_post for shift in got.shifts]
            assert scored == pytest.approx(written.logprobs, abs=1e-4)
            drawn = [(shift.drawn_base if side == "base" else shift.drawn_post).id for shift in got.shifts]
            assert drawn == list(written.token_ids), "the lens knows the luck of the reply"


def test_bfloat16_scores_stay_close_to_what_was_recorded():
    """Prefill and decode round differently in bfloat16, by about a hundredth of a nat for these logits."""
    with tiny_lease(torch.bfloat16) as lease:
        asked = comparison(temperature=1.0)
        written = compare(lease, asked).post
        got = whole(lease, asked, "post", written.token_ids)
        gaps = [abs(shift.logprob_post - logprob) for shift, logprob in zip(got.shifts, written.logprobs, strict=True)]
        assert max(gaps) < 0.2
        assert sum(gaps) / len(gaps) < 0.05


def test_the_first_parting_is_where_equal_prompts_diverge(lease):
    """Both models are sent the same text, so the sibling's own reply is what the lens says it would have drawn."""
    asked = comparison(temperature=0.8, framing_base="document", framing_post="document")
    result = compare(lease, asked)
    got = whole(lease, asked, "base", result.base.token_ids)
    divergence = next(
        (i for i, (a, b) in enumerate(zip(result.base.token_ids, result.post.token_ids, strict=False)) if a != b), None
    )
    assert divergence is not None
    assert got.summary().first_divergence == divergence
    assert got.shifts[divergence].drawn_post.id == result.post.token_ids[divergence]


def test_a_sibling_with_the_same_weights_shifts_nothing():
    with tiny_lease(base_seed=4, post_seed=4) as lease:
        asked = comparison(temperature=1.0)
        got = whole(lease, asked, "post", compare(lease, asked).post.token_ids)
    assert all(shift.kl == shift.log_ratio == 0 for shift in got.shifts)
    assert all(shift.js == pytest.approx(0, abs=1e-12) for shift in got.shifts)
    assert got.summary().expected_agreement == pytest.approx(1)
    assert got.summary().observed_agreement == 1
    assert got.summary().first_divergence is None
    assert got.summary().shares.unshifted == 1, "an unlikely draw is no shift"


def test_classes_follow_the_siblings_rank_of_the_first_choice():
    def shift(step: int, rank: int) -> Shift:
        return Shift(
            step=step, id=1, text="a", rank_base=9, rank_post=9, first_choice_rank=rank, logprob_base=-1, logprob_post=-1, kl=step, js=0,
            agreement=1, drawn_base=Candidate(id=0, text="", logprob=-1), drawn_post=Candidate(id=1, text="", logprob=-1), top_base=(), top_post=(),
        )  # fmt: skip

    got = Lens(
        side="post", context="identical", shifts=tuple(shift(i, rank) for i, rank in enumerate([1, 2, 3, 4] * 2))
    )
    assert [each.shift_class for each in got.shifts] == ["unshifted", "marginal", "marginal", "shifted"] * 2
    shares = got.summary().shares
    assert (shares.unshifted, shares.marginal, shares.shifted) == (0.25, 0.5, 0.25)
    assert (got.summary().mean_kl, got.summary().mean_kl_first_5) == (3.5, 2.0)
    assert Lens(side="base", context="own", shifts=()).summary().shares.shifted == 0


def test_parts_of_the_text_make_up_the_reply(lease):
    """Also where one character takes several tokens, and where its last bytes never come."""
    ids = lease.post.tokenizer("héllo ☀ wörld", add_special_tokens=False)["input_ids"]
    for reply in (ids, ids[:-4], [*ids, 2], lease.post.tokenizer("☀", add_special_tokens=False)["input_ids"][:2]):
        got = whole(lease, comparison(), "post", reply)
        text = "".join(shift.text for shift in got.shifts)
        plain = [id for id in reply if id != 2]
        assert text == lease.post.tokenizer.decode(plain) + "<|im_end|>" * (2 in reply)


# --- shared luck -------------------------------------------------------------------------------------


def test_coupled_agreement_equals_its_definition_and_a_count_of_draws():
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(2, 6, 12, generator=generator, dtype=torch.float64)
    logits[0, 1] = logits[1, 1]  # equal distributions
    logits[0, 2, :6] = -torch.inf  # one cut off by a warper
    logits[0, 3, :6], logits[1, 3, 6:] = -torch.inf, -torch.inf  # nothing in common
    p, q = torch.log_softmax(logits, -1)
    got = scoring.coupled_agreement(p, q)
    keys = torch.tensor([sampling.key(5, step) for step in range(20_000)])
    noise = sampling.gumbel(keys, torch.arange(12))
    for row in range(6):
        a, b = p[row].exp().tolist(), q[row].exp().tolist()
        by_definition = sum(
            1 / sum(max(a[j] / a[k], b[j] / b[k]) for j in range(12)) for k in range(12) if a[k] and b[k]
        )
        assert got[row].item() == pytest.approx(by_definition, abs=1e-12)
        counted = ((p[row] + noise).argmax(1) == (q[row] + noise).argmax(1)).double().mean().item()
        assert got[row].item() == pytest.approx(counted, abs=0.015)
    assert got[1].item() == pytest.approx(1)
    assert got[3].item() == 0


def test_an_entropy_is_that_of_the_softmax_and_the_same_however_its_sum_is_ordered():
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(5, 4001, generator=generator, dtype=torch.float64)
    logits[1, 7:] = logits[2, 1:] = -math.inf
    logits[3] = 0.5
    got = scoring.entropy(logits)
    assert got == pytest.approx(torch.distributions.Categorical(logits=logits).entropy(), abs=1e-6)
    assert got[2] == 0 and got[3] == pytest.approx(math.log(4001), abs=1e-9)
    order = torch.randperm(4001, generator=generator)
    assert torch.equal(scoring.entropy(logits[:, order]), got)
    with Shuffled() as other:
        assert torch.equal(scoring.entropy(logits), got) and other.calls


def test_the_entropies_of_a_reply_are_of_what_its_tokens_were_drawn_from(lease):
    asked = comparison(temperature=0.9, top_p=0.8)
    written = compare(lease, asked).side("post")
    got = lease.entropies(asked, "post", written)
    ids = [*written.prompt_token_ids, *written.token_ids]
    scores = exact(lease.loaded["post"], ids, len(written.prompt_token_ids))
    warped = sampling.warp(scores, sampling.marked(scores, [()] * len(scores)), [asked.sampling] * len(scores))
    assert got == pytest.approx(torch.distributions.Categorical(logits=warped).entropy().tolist(), abs=1e-3)
    assert min(got) > 0 and len(set(got)) > 1
    greedy = comparison(temperature=0)
    assert set(lease.entropies(greedy, "post", compare(lease, greedy).side("post"))) == {0.0}
    with pytest.raises(UserError, match="with other weights on the base side"):
        lease.entropies(asked, "base", written)


def test_at_temperature_zero_agreement_is_certain_or_impossible(lease):
    asked = comparison(temperature=0)
    got = whole(lease, asked, "post", compare(lease, asked).post.token_ids)
    assert all(shift.agreement == float(shift.agreed) for shift in got.shifts)
    assert all(shift.drawn_post == shift.top_post[0] for shift in got.shifts)


# --- scoring in the engine -----------------------------------------------------------------------------


def test_logprobs_of_a_continuation_equal_a_plain_forward_pass(lease):
    prompt, continuation = list(range(5, 40)), [7, 9, 2, 11]
    got = lease.logprobs("base", prompt, continuation)
    rows = exact(lease.loaded["base"], prompt + continuation, len(prompt))
    assert got == pytest.approx([row[id].item() for row, id in zip(rows, continuation, strict=True)], abs=1e-4)


def test_alternatives_are_scored_as_each_by_itself(lease):
    """Continuations that share beginnings, of unequal lengths, one of them the beginning of another."""
    prompt, several = range(3, 40), [(5, 6, 7), (5, 6), (5, 9, 7), (8,)]
    apart = [sum(lease.logprobs("base", prompt, each)) for each in several]
    assert lease.alternatives("base", prompt, several) == pytest.approx(apart, abs=1e-4)


@pytest.mark.parametrize("family", ["Gemma 3", "GPT-2", "Qwen3", "Phi-3, sliding window"])
def test_scores_equal_a_plain_forward_pass_for_other_families(family):
    """Sliding windows and models without logits_to_keep included; more tokens than one chunk and than the window."""
    model = random_model(family)
    ids = [(7 * i) % VOCABULARY for i in range(60)]
    with running(model) as engine:
        rows: list[torch.Tensor] = []
        done = threading.Event()

        def take(news) -> None:
            if isinstance(news, Scored):
                rows.append(news.logits)
            if sum(map(len, rows)) == 60 - 21:
                done.set()

        scoring = engine.score(ids, 21, take)
        for _ in range(4):
            scoring.more()
        assert done.wait(30)
    with torch.inference_mode():
        expected = model(torch.tensor([ids]), use_cache=False).logits[0, 20:-1, :VOCABULARY]
    assert torch.allclose(torch.cat(rows), expected, atol=2e-4)


@pytest.mark.slow
def test_scoring_changes_no_bit_of_a_reply_and_a_reply_none_of_a_score(lease):
    engine = lease.loaded["post"].engine
    asked = request(range(20), max_new_tokens=60)
    alone = bits(answer(engine, asked)[0])
    score = lease.logprobs("post", range(3, 60), [5, 6, 7] * 20)
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(bits(answer(engine, asked, asked)[1])))
    thread.start()
    scores = [lease.logprobs("post", range(3, 60), [5, 6, 7] * 20) for _ in range(5)]
    thread.join()
    assert outcome == [alone]
    assert set(scores) == {score}


@pytest.mark.parametrize("chunks", [1, 2])
def test_no_pass_is_made_for_the_last_token_which_predicts_nothing(chunks, lease, monkeypatch):
    engine, starts, scored = lease.loaded["base"].engine, [], Lane.score
    chunk = engine.shape.chunk

    def counted(self, cache, token_ids, start, first):
        starts.append(start)
        return scored(self, cache, token_ids, start, first)

    monkeypatch.setattr(Lane, "score", counted)
    lease.logprobs("base", [1], range(2, chunks * chunk + 2))
    lease.logprobs("base", [1], [2])  # the engine has turned to the next
    assert starts == [chunk * number for number in range(chunks)] + [0]


def test_unread_logits_stay_bounded_and_block_nobody(lease):
    """Whoever does not take what was scored gets no more than two chunks, and replies go on meanwhile."""
    arrived: list = []
    scoring = lease.loaded["base"].engine.score(range(1, 250), 1, arrived.append)
    try:
        assert answer(lease.loaded["base"].engine, request(range(9)))[0][-1].reason == "length"
        time.sleep(0.2)
        assert [type(news) for news in arrived] == [Started, Scored, Scored]
        scoring.more()
        assert answer(lease.loaded["base"].engine, request(range(9)))[0][-1].reason == "length"
        assert len(arrived) == 4
    finally:
        scoring.cancel()
    assert lease.logprobs("base", [1], [2]), "a cancelled score makes way"


def test_closing_a_lens_frees_both_models(lease):
    asked = comparison()
    reply = [5, 6, 7] * 60
    for stop_after in (1, 2, 4):
        reading = lease.read(asked, "post", reply)
        for _ in range(stop_after):
            next(reading)
        reading.close()
    assert len(whole(lease, asked, "post", reply).shifts) == len(reply)


def test_a_lens_asks_the_second_model_only_when_the_first_reads_for_it(lease):
    """Otherwise two lenses could each hold the model that the other waits for."""
    held = lease.loaded["base"].engine.score(range(1, 250), 1, lambda news: None)
    taken: list = []
    reading = lease.read(comparison(), "post", [5, 6, 7] * 30)
    try:
        assert [next(reading) for _ in range(3)] == [()] * 3, "somebody else has the base"
        other = lease.loaded["post"].engine.score([1, 2, 3], 1, taken.append)
        deadline = time.monotonic() + 30
        while len(taken) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        other.cancel()
        assert [type(news) for news in taken] == [Started, Scored], "the post-trained model is free"
    finally:
        held.cancel()
    assert len(finish(reading).shifts) == 90


def test_many_lenses_at_once_wait_for_each_other_and_all_finish(lease):
    asked = comparison()
    expected = whole(lease, asked, "post", [5, 6, 7] * 30)
    outcomes: list[Lens] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(whole(lease, asked, "post", [5, 6, 7] * 30))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == [expected] * 6


def test_a_closing_engine_ends_a_score_in_one_sentence():
    with running(random_model()) as engine:
        arrived: list = []
        engine.score(range(1, 120), 1, arrived.append)
        deadline = time.monotonic() + 30
        while len(arrived) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert isinstance(arrived[-1], Failure)
    assert "ask again in a minute" in arrived[-1].message


def test_an_output_that_is_not_a_number_is_one_sentence():
    with tiny_lease() as broken:
        broken.loaded["post"].model.get_decoder().norm.weight.data.fill_(torch.nan)
        with pytest.raises(UserError, match="not a number here; try --dtype float32"):
            whole(broken, comparison(), "base", [5, 6, 7])


def test_what_cannot_be_read_is_refused_in_one_sentence(lease):
    with pytest.raises(UserError, match="no tokens"):
        whole(lease, comparison(), "post", [])
    with pytest.raises(UserError, match="vocabulary of both"):
        whole(lease, comparison(), "post", [tiny.VOCABULARY, 5])
    with pytest.raises(UserError, match="context holds 256"):
        whole(lease, comparison(), "post", [5] * 250)
    with pytest.raises(UserError, match="nothing to score"):
        lease.logprobs("base", [1], [])
    ended = whole(lease, comparison(), "post", [5, 6, tiny.VOCABULARY])
    assert [shift.id for shift in ended.shifts] == [5, 6], "an end of turn that one model lacks is left out"


# --- a reply that begins with given tokens -----------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_a_reply_prefilled_with_its_own_beginning_goes_on_as_it_did(penalty):
    """The luck of a step stays with the step, whoever wrote the ones before it."""
    model = random_model()
    with running(model) as engine:
        full = request(range(12), seed=9, temperature=0.9, repetition_penalty=penalty, max_new_tokens=20)
        drawn = tokens(answer(engine, full)[0])
        for cut in (1, 7, 19):
            rest = request(
                [*range(12), *drawn[:cut]], seed=9, temperature=0.9, repetition_penalty=penalty, max_new_tokens=20 - cut
            ).model_copy(update={"prefilled": cut})
            events = answer(engine, rest)[0]
            assert tokens(events) == drawn[cut:]
            assert next(event.step for event in events if hasattr(event, "step")) == cut
            assert isinstance(events[-1], Finish)
    assert drawn == [draw.token for draw in naive_reply(model, full)]


def test_a_comparison_can_begin_its_replies(lease):
    plain = compare(lease, comparison(temperature=0.9))
    cut = plain.post.token_ids[:5]
    begun = compare(lease, comparison(temperature=0.9, prefill_base=cut, prefill_post=cut))
    for side in SIDES:
        answer_ = begun.side(side)
        assert answer_.prompt_token_ids[-5:] == cut
        assert answer_.prompt_token_ids[:-5] == plain.side(side).prompt_token_ids
        assert answer_.text.startswith(lease.post.tokenizer.decode(list(cut), skip_special_tokens=True))
        assert lease.post.tokenizer.decode(list(cut)) in answer_.prompt_text
    assert begun.post.token_ids[:35] == plain.post.token_ids[5:]
    assert begun.post.text.startswith(plain.post.text)
    got = whole(lease, begun.comparison, "base", begun.base.token_ids)
    assert [shift.id for shift in got.shifts] == [*cut, *begun.base.token_ids], "the lens shows the whole reply"


def test_a_beginning_that_the_model_does_not_have_is_refused(lease):
    with pytest.raises(UserError, match="does not have"):
        compare(lease, comparison(prefill_base=[tiny.VOCABULARY + 5]))
