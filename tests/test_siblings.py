"""Pairs whose tokenizers are not the same: what is said, what works all the same, and what needs equal ids."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from core import links, receipts, what_if
from core.checkpoints.siblings import kinship
from core.errors import UserError
from core.experiments import EXPERIMENTS, perform
from core.lease import Kinship, Lease
from core.replay import replay
from core.run import Run, compare
from core.steps import finish
from core.types import Dial
from core.ui.compare import session
from core.ui.sidebar import Choices
from tests import tiny
from tests.pairs import OnePair, changed, comparison, tiny_lease, whole


def respelled() -> PreTrainedTokenizerFast:
    """The tiny tokenizer with two tokens in each other's place."""
    spelling = json.loads(tiny.tokenizer().backend_tokenizer.to_str())
    vocabulary = spelling["model"]["vocab"]
    first, second = (token for token, id in vocabulary.items() if id in (300, 301))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    backend = Tokenizer.from_str(json.dumps(spelling))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=tiny.END_OF_TEXT, eos_token=tiny.TURN_END, chat_template=tiny.CHATML
    )


@pytest.fixture(scope="module")
def lease() -> Iterator[Lease]:
    with tiny_lease() as lease:
        other = changed(lease, "post", tokenizer=respelled(), stop_ids=frozenset({2, 7}))
        yield replace(other, kin=kinship(other.base, other.post))


def test_tokens_that_only_one_model_has_are_named_and_nothing_is_refused():
    with tiny_lease() as lease:
        assert kinship(lease.base, lease.post) == Kinship()
        lease.loaded["post"].tokenizer.add_tokens([AddedToken("<|answer|>", special=True), "<|more|>"])
        kin = kinship(lease.base, lease.post)
        assert kin == Kinship(True, "tiny-chat has tokens that tiny-base lacks ('<|answer|>' and 1 more).")
        kin.need_same_ids("Anything")


def test_control_tokens_may_be_renamed(lease):
    renamed = Tokenizer.from_str(lease.base.tokenizer.backend_tokenizer.to_str().replace(tiny.TURN_START, "<|turn|>"))
    other = replace(lease.base, tokenizer=PreTrainedTokenizerFast(tokenizer_object=renamed))
    assert kinship(lease.base, other).same_ids


def test_different_tokenizers_are_told_by_the_first_token_that_differs(lease):
    assert not lease.kin.same_ids
    assert "tiny-base and tiny-chat have different tokenizers (token 300 is " in lease.kin.difference


def test_they_compare_each_in_its_own_tokens_and_replay_from_receipt_and_link(lease):
    asked = comparison("The quick brown fox", temperature=0.7, seed=4)
    run = Run(lease, asked)
    assert lease.stop_ids("base") == lease.base.stop_ids and lease.stop_ids("post") == {2, 7}
    for _ in run.snapshots():
        pass
    answer = receipts.answer(run.result())
    verdict = finish(replay(OnePair(lease), receipts.read(receipts.write(answer.receipt).encode())))
    assert verdict.outcome == "identical"
    shared = links.decode(links.encode(links.of_receipt(answer.receipt)))
    assert compare(lease, shared.comparison).post.token_ids == answer.post.token_ids


@pytest.mark.parametrize(
    "ask",
    [
        lambda lease: whole(lease, comparison(), "post", [5, 6]),
        lambda lease: Run(lease, comparison(dial=Dial(amount=0.5))),
        lambda lease: Run(lease, comparison(dial=Dial(amount=0.5, space="weights"))),
        lambda lease: what_if.handover(lease, comparison(), [5, 6], [7, 8], 1),
        lambda lease: next(what_if.grids(lease, comparison())),
    ],
    ids=["lens", "dial of logits", "dial of weights", "handover", "grid"],
)
def test_what_needs_equal_ids_is_refused_in_one_sentence(lease, ask):
    with pytest.raises(UserError, match=r"needs two models with the same tokens\. .* Choose two stages of one model\."):
        ask(lease)


@pytest.mark.parametrize("name", ["answers", "costume"])
def test_experiments_that_read_one_models_reply_with_the_other_say_so(lease, name):
    experiment = next(each for each in EXPERIMENTS if each.name == name)
    with pytest.raises(UserError, match="This experiment needs two models with the same tokens"):
        finish(perform(experiment, lease))


def test_a_siblings_template_is_not_used_where_it_would_mean_other_tokens(lease):
    with pytest.raises(UserError, match="no chat template; choose the document or the transcript framing"):
        Run(lease, comparison(framing_base="chat"))


def test_the_page_says_it_once_in_a_chat(lease):
    pool, choices = OnePair(lease), Choices.of(comparison(max_new_tokens=3))
    *_, first = session.compare(pool, (), "One", choices)
    assert lease.kin.difference in first.live.caveats
    *_, second = session.compare(pool, first.chat, "Two", choices)
    assert lease.kin.difference not in second.live.caveats
