"""OpenAI's API, asked by OpenAI's own client: the same tokens as everywhere else, refusals by name, and slots that are free again."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
import torch
from openai import OpenAI
from starlette.responses import PlainTextResponse

from core import receipts, scoring
from core.completions import Completion, Order, ScoredToken, SidePrompt
from core.errors import UserError
from core.pool import RESTARTING
from core.replay import replay
from core.run import compare
from core.settings import Settings
from core.steps import Stop, Stopped, finish
from core.types import Candidate, Failure, OneSidedReceipt, Token, Verdict
from core.ui import line
from core.ui.logins import Logins
from core.ui.openai import answers
from tests.browser import launch, served
from tests.pairs import OnePair, comparison, tiny_lease
from tests.scripted import PAIR as SCRIPTED
from tests.scripted import ScriptedPool
from tests.test_logins import USERS

DOCUMENTATION = (Path(__file__).parent.parent / "docs" / "openai.md").read_text("utf-8")
FOX = "The quick brown fox"
HELLO: Any = [{"role": "user", "content": "Hello"}]


def client_of(url: str, key: str = "none is asked for") -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def lease():
    with tiny_lease() as lease:
        yield lease


@pytest.fixture(scope="module")
def client(lease) -> Iterator[OpenAI]:
    """Of a page over two tiny models with random weights."""
    with served(OnePair(lease)) as url, closing(client_of(url)) as client:
        yield client


@pytest.fixture
def scripted_client(_scripted_page) -> Iterator[tuple[ScriptedPool, OpenAI]]:
    pool, url = _scripted_page
    with closing(client_of(url)) as client:
        yield pool, client


def complete(client: OpenAI, prompt: Any = FOX, model: str = "tiny/base", **asked: Any) -> Any:
    return client.completions.create(**{"model": model, "prompt": prompt, "max_tokens": 12, "seed": 7, **asked})


def chat(client: OpenAI, model: str = "tiny/post", messages: Any = HELLO, **asked: Any) -> Any:
    return client.chat.completions.create(
        **{"model": model, "messages": messages, "max_tokens": 12, "seed": 7, **asked}
    )


# --- the same as everywhere else ----------------------------------------------------------------------------


def test_every_checkpoint_of_every_pair_is_listed_and_found(client):
    listed = client.models.list().data
    assert [model.id for model in listed] == ["tiny/base", "tiny/post"]
    assert client.models.retrieve("tiny/post") == listed[1]
    for unknown in ("tiny", "tiny/dial", "base"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(unknown)
        with pytest.raises(openai.NotFoundError, match="tiny/base") as refusal:
            complete(client, model=unknown)
        assert (refusal.value.param, refusal.value.code) == ("model", "model_not_found")


@pytest.mark.parametrize("side", ["base", "post"])
def test_a_completion_is_the_reply_of_the_comparison_that_sends_the_same(client, lease, side):
    expected = compare(lease, comparison(FOX, seed=7, temperature=1.0, max_new_tokens=12, framing_base="document", framing_post="document"))  # fmt: skip
    answer = complete(client, model=f"tiny/{side}", logprobs=0)
    [choice] = answer.choices
    assert choice.text == expected.side(side).text
    assert choice.logprobs.token_logprobs == list(expected.side(side).logprobs)
    assert (answer.object, answer.model) == ("text_completion", f"tiny/{side}")
    assert answer.usage.prompt_tokens == len(expected.side(side).prompt_token_ids)
    assert answer.usage.completion_tokens == len(expected.side(side).token_ids)
    reason = {"eos": "stop", "length": "length"}[expected.side(side).finish_reason]
    assert choice.finish_reason == reason and choice.index == 0


def test_a_chat_is_the_next_turn_of_a_conversation_and_a_base_model_reads_it_as_a_document(client, lease):
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": [{"type": "text", "text": "Go"}, {"type": "text", "text": "on"}]}]  # fmt: skip
    asked = comparison("Go\non", seed=7, temperature=0.5, max_new_tokens=12, conversation={"system": "Be brief.", "turns": [{"prompt": "Hi", "base": "Yes?", "post": "Yes?"}]})  # fmt: skip
    expected = compare(lease, asked)
    for side in ("base", "post"):
        answer = chat(client, f"tiny/{side}", said, temperature=0.5)
        [choice] = answer.choices
        assert choice.message.content == expected.side(side).text
        assert (answer.object, choice.message.role) == ("chat.completion", "assistant")
        assert answer.usage.prompt_tokens == len(expected.side(side).prompt_token_ids)
    transcript = compare(lease, asked.model_copy(update={"framing_base": "transcript"})).base
    answer = chat(client, "tiny/base", said, temperature=0.5, extra_body={"framing": "transcript"})
    assert answer.choices[0].message.content == transcript.text


def test_a_seed_that_was_drawn_is_told_and_gives_the_same_again(client):
    first, other = (complete(client, seed=openai.omit) for _ in range(2))
    assert first.seed != other.seed
    again = complete(client, seed=first.seed)
    assert again.choices == first.choices and again.system_fingerprint == first.system_fingerprint
    assert chat(client).system_fingerprint != first.system_fingerprint, "of other weights"


def test_choice_i_is_drawn_with_seed_plus_i_whoever_else_is_there(client):
    asked = [FOX, "Same seed"]
    answer = complete(client, asked, n=3, logprobs=0)
    alone = [complete(client, prompt, seed=7 + i, logprobs=0).choices[0] for prompt in asked for i in range(3)]
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert [(choice.text, choice.logprobs) for choice in answer.choices] == [
        (each.text, each.logprobs) for each in alone
    ]


def test_two_hundred_seeds_are_reproduced_by_as_many_at_once(client):
    """Alone and two hundred at once: every one is the same to the last bit of its log-probabilities."""
    patient = client.with_options(timeout=600)
    alone = [complete(patient, seed=seed, max_tokens=4, logprobs=0).choices for seed in range(10)]
    with ThreadPoolExecutor(200) as many:
        asked = [many.submit(complete, patient, seed=n % 10, max_tokens=4, logprobs=0) for n in range(200)]
        assert [each.result().choices for each in asked] == [alone[n % 10] for n in range(200)]


@pytest.mark.slow
def test_the_code_of_the_documentation_runs(url, capsys):
    [code] = re.findall(r"```python\n(.*?)```", DOCUMENTATION, re.DOTALL)
    given: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:7860", url), given)
    given["client"].close()
    answer = given["answer"]
    assert answer.choices[0].message.content in capsys.readouterr().out
    assert "Paris" in answer.choices[0].message.content and answer.seed == 1234


# --- streams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked", [{}, {"n": 2}, {"logprobs": 0}, {"logprobs": 2}, {"echo": True}, {"echo": True, "logprobs": 1}]
)
def test_a_stream_says_what_the_whole_says(client, asked):
    whole = complete(client, **asked)
    *chunks, last = complete(client, stream=True, stream_options={"include_usage": True}, **asked)
    assert last.usage == whole.usage and last.choices == [] and all(chunk.usage is None for chunk in chunks)
    for choice in whole.choices:
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert "".join(each.text for each in own) == choice.text
        assert (
            [each.finish_reason for each in own if each.finish_reason]
            == [choice.finish_reason]
            == [own[-1].finish_reason]
        )
        if choice.logprobs:
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                assert [item for each in own for item in getattr(each.logprobs, name)] == getattr(choice.logprobs, name)


def test_a_streamed_chat_begins_with_its_role_and_ends_with_its_reason(client):
    whole = chat(client, logprobs=True, top_logprobs=2)
    assert all(len(token.top_logprobs) == 2 for token in whole.choices[0].logprobs.content)
    chunks = list(chat(client, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant" and {chunk.object for chunk in chunks} == {
        "chat.completion.chunk"
    }
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


# --- where a reply ends -------------------------------------------------------------------------------------


def test_a_stop_string_ends_a_reply_wherever_tokens_meet(scripted_client):
    pool, client = scripted_client
    pool.say("one two three four five", "")
    spelled = complete(client, model="scripted/base", logprobs=0).choices[0].logprobs
    text, offsets = "".join(spelled.tokens), spelled.text_offset
    assert text.strip() == "one two three four five" and len(offsets) > 4
    at = offsets[3] - 3
    stop = text[at : at + 6]
    assert text.find(stop) == at
    for stops in (stop, [stop], ["never said", stop], ["five", stop]):
        answer = complete(client, model="scripted/base", stop=stops, logprobs=0)
        [choice] = answer.choices
        assert (choice.text, choice.finish_reason) == (text[:at], "stop")
        assert answer.usage.completion_tokens == sum(each < at + 6 for each in offsets), "none behind the stop string"
        assert choice.logprobs.tokens == [
            token for token, each in zip(spelled.tokens, offsets, strict=True) if each < at
        ]
        assert complete(client, model="scripted/base", stop=stops, n=2).usage.completion_tokens == 2 * answer.usage.completion_tokens  # fmt: skip
        chunks = [chunk.choices[0] for chunk in complete(client, model="scripted/base", stop=stops, stream=True)]
        assert "".join(chunk.text for chunk in chunks) == choice.text and chunks[-1].finish_reason == "stop"


def test_what_may_become_a_stop_string_is_held_back_until_it_does_not(scripted_client):
    pool, client = scripted_client
    pool.say("one two three", "", pause=0.15)
    chunks = [chunk.choices[0].text for chunk in complete(client, model="scripted/base", stop="two!", stream=True)]
    assert "".join(chunks).strip() == "one two three" and len(chunks) > 1
    assert not any("".join(chunks[:n]).endswith(("t", "tw", "two")) for n in range(len(chunks)))


def test_a_reply_that_reached_a_stop_string_frees_its_slot_before_the_others_have_ended(scripted_client, monkeypatch):
    pool, client = scripted_client
    engine = pool.engines["base"]
    one, *_, end = engine.tokenizer("one two")["input_ids"]
    freed = threading.Event()

    def submit(request, emit):
        if request.token_ids[-1] != engine.tokenizer("x")["input_ids"][-1]:
            for step, id in enumerate((one, end, end)):
                emit(Token(step=step, id=id, logprob=-1.0, margin=None))
            return SimpleNamespace(cancel=freed.set)

        def go_on() -> None:
            last = Failure(message="The other one was not freed.")
            if freed.wait(30):
                last = Failure(message="It was freed.")
            emit(last)

        threading.Thread(target=go_on, daemon=True).start()
        return SimpleNamespace(cancel=lambda: None)

    monkeypatch.setattr(engine, "submit", submit)
    with pytest.raises(openai.InternalServerError, match="It was freed"):
        complete(client, ["y", "x"], model="scripted/base", stop="two")


def test_a_reply_without_a_token_reads_alone(client):
    answer = complete(client, max_tokens=0, echo=True, logprobs=0)
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason, answer.usage.completion_tokens) == (FOX, "length", 0)
    assert "".join(choice.logprobs.tokens) == FOX and None not in choice.logprobs.token_logprobs, "behind the BOS"


# --- log-probabilities --------------------------------------------------------------------------------------


def test_the_prompts_log_probabilities_are_those_of_a_direct_reading(client, lease):
    """As lm-eval asks: token ids, one more token, the alternatives to each."""
    tokenizer = lease.base.tokenizer
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (FOX, "Same seed, same prompt")]
    answer = complete(client, prompts, max_tokens=1, temperature=0, logprobs=1, echo=True)
    for ids, choice in zip(prompts, answer.choices, strict=True):
        told = choice.logprobs
        assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(ids) + 1
        assert told.token_logprobs[0] is told.top_logprobs[0] is None
        assert told.token_logprobs[1:-1] == list(lease.logprobs("base", ids[:1], ids[1:]))
        assert "".join(told.tokens) == choice.text and told.text_offset[1] == len(told.tokens[0])
        for token, logprob, top in list(zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True))[1:]:
            assert top[token] == logprob or logprob < top[token], "another id of the same text is likelier"
            assert 1 <= len(top) <= 2 and logprob <= max(top.values())
        assert told.token_logprobs[-1] == max(told.top_logprobs[-1].values()), "what is drawn at temperature 0"


def test_an_echo_is_the_prompt_as_it_was_sent_without_what_the_tokenizer_puts_before_it(client):
    answer = complete(client, echo=True, logprobs=0)
    [choice] = answer.choices
    assert choice.text.startswith(FOX)
    sent = answer.usage.prompt_tokens - 1
    assert "".join(choice.logprobs.tokens[:sent]) == FOX
    assert len(choice.logprobs.tokens) == sent + answer.usage.completion_tokens


def told(error: openai.APIError) -> str:
    assert isinstance(error.body, dict)
    return error.body["message"]


def test_alternatives_are_told_by_their_texts_and_of_two_with_one_text_the_likelier():
    top = (Candidate(id=6, text=" a", logprob=-0.5), Candidate(id=5, text="a", logprob=-1.0))
    assert answers._by_text(ScoredToken(5, " a", -1.0, top)) == {" a": -0.5}
    assert answers._by_text(ScoredToken(5, " a", float("-inf"))) == {" a": -9999.0}, "JSON has no infinity"


def test_numbers_that_are_none_are_said_in_a_sentence(lease, monkeypatch):
    monkeypatch.setattr(scoring, "scored", lambda *given: iter([torch.full((1, 4), float("nan"))]))
    with pytest.raises(UserError, match="not a number"):
        list(lease.likeliest("base", [1, 2], 1, 0, lambda: None))


def test_a_reading_ends_when_nobody_waits_for_it(lease):
    def gone() -> None:
        raise Stopped("Stopped.")

    with pytest.raises(Stopped):
        list(lease.likeliest("base", [1, 2, 3], 1, 0, gone))


def test_what_was_measured_of_an_engine_is_not_in_its_fingerprint(client, lease, monkeypatch):
    before = complete(client).system_fingerprint
    monkeypatch.setattr(lease.loaded["base"].engine, "deviation", None)
    assert complete(client).system_fingerprint == before
    monkeypatch.setattr(lease.loaded["base"].engine, "certified", False)
    assert complete(client).system_fingerprint != before


def test_every_token_that_was_written_is_counted_once(lease):
    counted: list[int] = []
    order = Order("base", (SidePrompt(comparison(FOX)),), comparison(max_new_tokens=9).sampling, replies=2)
    completion = Completion(replace(lease, count=counted.append), order, lambda: None)
    assert list(completion.deltas(Stop(), 0.05))
    assert len(counted) == 2 and sum(counted) == completion.written_tokens > 0


# --- receipts -----------------------------------------------------------------------------------------------

RECEIPT: Any = {"extra_body": {"receipt": True}}


def receipt_of(choice: Any) -> OneSidedReceipt:
    found = receipts.from_data(choice.receipt)
    assert isinstance(found, OneSidedReceipt)
    return found


def replayed(lease, receipt: OneSidedReceipt) -> Verdict:
    pool: Any = OnePair(lease)
    return finish(replay(pool, receipt))


@pytest.mark.parametrize("prompt", [FOX, [5, 6, 7, 8]], ids=str)
def test_a_receipt_comes_with_every_choice_and_replays(client, lease, prompt):
    plain, answer = complete(client, prompt, n=2), complete(client, prompt, n=2, **RECEIPT)
    assert [each.text for each in answer.choices] == [each.text for each in plain.choices]
    assert not hasattr(plain.choices[0], "receipt")
    for index, choice in enumerate(answer.choices):
        receipt = receipt_of(choice)
        assert (receipt.writer, receipt.comparison.sampling.seed) == ("base", 7 + index)
        assert receipt.reply.usage.output_tokens == len(receipt.reply.token_ids)
        verdict = replayed(lease, receipt)
        assert (verdict.outcome, verdict.post) == ("identical", None) and verdict.base is not None
        assert (verdict.base.tokens, verdict.base.drift) == (len(receipt.reply.token_ids), 0)


def test_a_chat_has_a_receipt_also_in_a_stream_where_it_comes_with_the_end(client, lease):
    said: Any = [{"role": "system", "content": "Be brief."}, *HELLO]
    [whole] = chat(client, messages=said, **RECEIPT).choices
    chunks = [chunk.choices[0] for chunk in chat(client, messages=said, stream=True, **RECEIPT)]
    assert [bool(chunk.finish_reason) for chunk in chunks] == [hasattr(chunk, "receipt") for chunk in chunks]
    told, streamed = receipt_of(whole), receipt_of(chunks[-1])
    assert told.comparison == streamed.comparison and told.comparison.conversation.system == "Be brief."
    assert told.reply.margins == streamed.reply.margins
    assert replayed(lease, told).outcome == "identical"


def test_the_receipt_of_a_reply_that_a_stop_string_ended_replays_up_to_there(client, lease):
    [plain] = complete(client).choices
    stop = plain.text[len(plain.text) // 2 :][:2]
    [choice] = complete(client, stop=[stop, "never said"], **RECEIPT).choices
    receipt = receipt_of(choice)
    assert choice.text == plain.text[: plain.text.find(stop)] and choice.finish_reason == "stop"
    assert (receipt.stops, receipt.reply.finish_reason) == ((stop, "never said"), "stopped")
    assert receipt.reply.usage.output_tokens == len(receipt.reply.token_ids) == len(receipt.reply.margins)
    assert replayed(lease, receipt).outcome == "identical"
    chunks = [chunk.choices[0] for chunk in complete(client, stop=stop, stream=True, **RECEIPT)]
    assert "".join(chunk.text for chunk in chunks) == choice.text
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert receipt_of(chunks[-1]).reply.token_ids == receipt.reply.token_ids


def test_a_reply_that_does_not_end_where_its_stop_strings_end_it_is_told(client, lease):
    [choice] = complete(client, **RECEIPT).choices
    receipt = receipt_of(choice)
    said = choice.text[len(choice.text) // 2 :][:2]
    for stops, reason in (((said,), receipt.reply.finish_reason), ((), "stopped"), (("never said",), "stopped")):
        reply = receipt.reply.model_copy(update={"finish_reason": reason})
        verdict = replayed(lease, receipts.make_one_sided(receipt.comparison, "base", reply, (), stops))
        assert verdict.outcome == "not replayable" and "stop strings" in verdict.reasons[0]


def test_another_token_in_a_receipt_of_one_side_diverges_there(client, lease):
    [choice] = complete(client, [5, 6, 7], **RECEIPT).choices
    receipt = receipt_of(choice)
    ids = (*receipt.reply.token_ids[:3], (receipt.reply.token_ids[3] + 1) % 300, *receipt.reply.token_ids[4:])
    reply = receipt.reply.model_copy(update={"token_ids": ids})
    verdict = replayed(lease, receipts.make_one_sided(receipt.comparison, "base", reply, receipt.prompt_ids, ()))
    assert verdict.outcome == "diverged" and verdict.base is not None and verdict.base.divergence is not None
    assert verdict.base.divergence.step == 3


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"extra_body": {"presence_penalty": False}}, "presence_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "."}, "suffix"),
        ({"extra_body": {"guided_json": {}}}, "guided_json"),
        ({"extra_body": {"store": True}}, "store"),
        ({"extra_body": {"receipt": 1}}, "receipt"),
        ({"extra_body": {"receipt": True}, "max_tokens": 0}, "receipt"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": 0.001}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**53 - 1, "n": 2}, "seed"),
        ({"n": 65}, "n"),
        ({"prompt": ["a"] * 33, "n": 2}, "n"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": 1}, "prompt"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": "12"}, "max_tokens"),
        ({"stream_options": {"include_usage": True, "more": 1}}, "stream_options"),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_honoured_is_refused_by_its_name(client, asked, param):
    with pytest.raises(openai.BadRequestError) as refusal:
        complete(client, **asked)
    assert refusal.value.param == param and refusal.value.type == "invalid_request_error"
    sentence = told(refusal.value)
    assert param in sentence and "\n" not in sentence and len(sentence) < 300


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages"),
        ({"messages": [*HELLO, *HELLO]}, "messages"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "I"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"max_completion_tokens": 5}, "max_tokens"),
        ({"extra_body": {"echo": True}}, "echo"),
    ],
    ids=str,
)
def test_a_field_of_a_chat_that_cannot_be_honoured_is_refused_by_its_name(client, asked, param):
    with pytest.raises(openai.BadRequestError) as refusal:
        chat(client, **asked)
    assert refusal.value.param == param and param in told(refusal.value)


def test_neutral_values_and_those_that_say_who_asks_change_nothing(client):
    neutral = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "user": "me", "n": 1, "stop": []}
    more = {"metadata": {"run": "1"}, "store": False, "top_k": 0, "repetition_penalty": 1, "seed": 7, "suffix": None}
    assert complete(client, **neutral, extra_body=more).choices == complete(client).choices
    plain: Any = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "max_completion_tokens": 12}
    assert chat(client, **plain).choices == chat(client).choices


def test_what_is_no_request_is_refused_in_openais_shape(client, lease):
    with httpx.Client(base_url=str(client.base_url), timeout=60) as plain:
        for body in (b"", b"{", b"[]", b"\xff", b'{"model": "tiny/base", "model": "tiny/base"}'):
            answer = plain.post("completions", content=body)
            assert answer.status_code == 400 and answer.json()["error"]["message"]
        assert plain.get("completions").status_code == plain.post("models").status_code == 405
        assert plain.post("embeddings", json={}).json()["error"]["code"] == "unknown_url"
    long = [1] * (lease.base.context + 1)
    for prompt, said in ((long, "its context holds 256"), ([2**31], "not in this model's vocabulary")):
        with pytest.raises(openai.BadRequestError, match=said):
            complete(client, prompt)


# --- who asks, and who hangs up ------------------------------------------------------------------------------


@pytest.fixture
def tickets(_scripted_page, monkeypatch) -> list:
    """Of what the models of the scripted page are asked, which write for ten minutes."""
    pool, _ = _scripted_page
    pool.say("one two three " * 2000, "one two three " * 2000, pause=0.1)
    given: list = []
    for engine in pool.engines.values():
        submit = engine.submit
        monkeypatch.setattr(engine, "submit", lambda *asked, submit=submit: given.append(submit(*asked)) or given[-1])
    return given


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_slots(scripted_client, tickets, stream):
    _, client = scripted_client
    body = {"model": "scripted/post", "messages": HELLO, "n": 2, "stream": stream}
    asyncio.run(ask_and_leave(str(client.base_url).rstrip("/"), body, lambda: len(tickets) == 2))
    wait_for(lambda: all(ticket.stopped.is_set() for ticket in tickets))


async def ask_and_leave(url: str, body: dict, begun: Callable[[], bool]) -> None:
    """Ask, and hang up once something has begun."""
    async with httpx.AsyncClient(timeout=60) as someone:
        asking = asyncio.create_task(someone.post(f"{url}/chat/completions", json=body))
        while not begun():
            assert not asking.done(), asking.result().text
            await asyncio.sleep(0.02)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


def test_a_client_that_hangs_up_before_its_models_have_said_anything_frees_its_slots(scripted_client, monkeypatch):
    pool, client = scripted_client
    freed, asked = threading.Event(), threading.Event()
    monkeypatch.setattr(
        pool.engines["post"], "submit", lambda request, emit: asked.set() or SimpleNamespace(cancel=freed.set)
    )
    body = {"model": "scripted/post", "messages": HELLO}
    asyncio.run(ask_and_leave(str(client.base_url).rstrip("/"), body, asked.is_set))
    assert freed.wait(60)


def test_who_hangs_up_while_waiting_leaves_the_line_and_programs_are_one_among_those_at_their_address():
    pool = ScriptedPool("one two", "one two")
    demo, url = launch(pool)
    models: Any = demo._queue.event_queue_per_concurrency_id["models"]
    models.concurrency_limit = 0  # until all of them wait
    try:
        with httpx.Client(base_url=f"{url}/v1/", timeout=60) as plain, ThreadPoolExecutor(3) as many:
            body = {"model": f"{SCRIPTED.id}/base", "prompt": "x"}
            answers = [many.submit(plain.post, "completions", json=body) for _ in range(2)]
            wait_for(lambda: len(models.queue) == 2)
            assert {models.queue._who(place) for place in list(models.queue)} == {("127.0.0.1", line.PROGRAMS)}
            asked = {"model": f"{SCRIPTED.id}/base", "messages": HELLO}
            asyncio.run(ask_and_leave(f"{url}/v1", asked, lambda: len(models.queue) == 3))
            wait_for(lambda: len(models.queue) == 2)
            pool.say("one two", "one two", pause=0.2)
            models.concurrency_limit = 1
            wait_for(lambda: len(models.queue) == 1)
            time.sleep(0.1)
            assert (len(models.queue), models.current_concurrency) == (1, 1), "one after the other"
            assert all(answer.result().json()["choices"][0]["text"].strip() == "one two" for answer in answers)
            wait_for(lambda: models.current_concurrency == 0 and not any(demo._queue.active_jobs))
    finally:
        demo.close(verbose=False)


def test_a_server_that_restarts_asks_to_be_asked_again(scripted_client, monkeypatch):
    pool, client = scripted_client

    def ending(id: str) -> Iterator[None]:
        yield None
        raise UserError(RESTARTING)

    monkeypatch.setattr(pool, "open", ending)
    with pytest.raises(openai.InternalServerError, match="restarting") as refusal:
        complete(client, model="scripted/base", stream=True)
    assert refusal.value.status_code == 503


def test_where_all_places_are_taken_a_program_that_has_the_most_gives_up_one(monkeypatch):
    pool = ScriptedPool("one two", "one two")
    pool.settings = Settings(address_header="X-Forwarded-For")
    monkeypatch.setattr(line, "MAX_WAITING", 2)
    demo, url = launch(pool)
    models: Any = demo._queue.event_queue_per_concurrency_id["models"]
    models.concurrency_limit = 0
    try:
        with httpx.Client(timeout=60) as plain, ThreadPoolExecutor(3) as many:

            def ask(address: str) -> Future[httpx.Response]:
                waiting, headers = len(models.queue), {"X-Forwarded-For": address}
                body = {"model": f"{SCRIPTED.id}/base", "prompt": "x"}
                asked = many.submit(plain.post, f"{url}/v1/completions", json=body, headers=headers)
                wait_for(lambda: asked.done() or len(models.queue) > min(waiting, 1))
                return asked

            flood = [ask("flood"), ask("flood")]
            newcomer = ask("elsewhere")
            assert [flood[1].result().status_code, flood[1].result().json()["error"]["message"]] == [429, line.FULL]
            models.concurrency_limit = 1
            assert flood[0].result().status_code == newcomer.result().status_code == 200
    finally:
        demo.close(verbose=False)


@pytest.mark.parametrize(
    ("auth", "key", "brought", "status"),
    [
        (None, "", "Bearer ", 200),
        (None, "key", "Bearer key", 200),
        (None, "key", "Bearer ", 401),
        ({"ann": "x"}, "key", "bearer key", 200),
        ({"ann": "x"}, "key", "key", 401),
        ({"ann": "x"}, "", "Bearer ", 401),
        ({"ann": "x"}, "", "Bearer key", 401),
    ],
)
def test_who_gets_in_with_which_key(auth, key, brought, status):
    told: list[int] = []

    async def send(message) -> None:
        if message["type"] == "http.response.start":
            told.append(message["status"])

    headers = [(b"authorization", brought.encode())]
    scope = {"type": "http", "path": "/v1/models", "headers": headers, "client": ("192.0.2.1", 1), "app": SimpleNamespace(auth=auth)}  # fmt: skip
    asyncio.run(Logins(PlainTextResponse("in"), key=key)(scope, None, send))
    assert told == [status]


def test_a_reply_that_fails_says_so_whole_or_in_mid_stream(scripted_client, monkeypatch):
    pool, client = scripted_client

    def fail(request, emit):
        emit(Token(step=0, id=pool.engines["base"].tokenizer("one")["input_ids"][-1], logprob=-1.0, margin=None))
        emit(Failure(message="A sentence."))
        return SimpleNamespace(cancel=lambda: None)

    monkeypatch.setattr(pool.engines["base"], "submit", fail)
    with pytest.raises(openai.InternalServerError, match=r"A sentence\."):
        complete(client, model="scripted/base")
    with pytest.raises(openai.APIError, match=r"A sentence\."):
        list(complete(client, model="scripted/base", stream=True))


def test_where_there_are_logins_programs_bring_the_key_of_the_environment():
    pool = ScriptedPool("one", "two")
    with served(pool, auth=USERS, api_key="the key") as url:
        with closing(client_of(url, "the key")) as right:
            assert complete(right, model="scripted/base").choices[0].text.strip() == "one"
        with closing(client_of(url, "wrong")) as wrong, pytest.raises(openai.AuthenticationError) as refusal:
            complete(wrong, model="scripted/base")
        assert refusal.value.code == "invalid_api_key"
        for headers, status in (({"x-api-key": "the key"}, 200), ({"authorization": "Basic dGhlIGtleQ=="}, 401)):
            assert httpx.get(f"{url}/v1/models", headers=headers, timeout=60).status_code == status
