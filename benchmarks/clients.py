"""Those who ask: requests, what came back and when, and what happens to a reply in a crowd."""

import itertools
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.subjects import Subject
from core.engine import Engine, Stoppable
from core.engine.reading import submit
from core.types import DEFAULT_SAMPLING, Event, Failure, Finish, Request, Token

PROMPT_TOKENS = 32
AT_ONCE = 16  # of those that are asked again


def request(
    seed: int, vocabulary: int, new_tokens: int, prompt_tokens: int = PROMPT_TOKENS, **sampling: Any
) -> Request:
    """A request of random token ids that runs to its full length."""
    draw = random.Random(seed)
    return Request(
        token_ids=tuple(draw.randrange(3, vocabulary) for _ in range(prompt_tokens)),
        sampling=DEFAULT_SAMPLING.model_copy(update={"seed": seed, "max_new_tokens": new_tokens, **sampling}),
        stop_ids=frozenset(),
    )


@dataclass
class Reply:
    """One reply: its tokens with their log-probabilities and margins, exactly, and when things happened (seconds)."""

    tokens: list[tuple[int, float, float | None]] = field(default_factory=list)
    first: float = 0.0
    end: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)
    failure: str | None = None
    reused: int = 0  # tokens of the prompt that were not read again


def ask(engine: Engine, asked: Request, began: float) -> tuple[Reply, Stoppable]:
    """Submit and return at once; the reply fills up and then sets `ended`. Times count from `began`."""
    reply = Reply()

    def take(event: Event) -> None:
        if isinstance(event, Token):
            reply.first = reply.first or time.perf_counter() - began
            reply.tokens.append((event.id, event.logprob, event.margin))
        elif isinstance(event, Finish | Failure):
            reply.end = time.perf_counter() - began
            reply.failure = event.message if isinstance(event, Failure) else None
            reply.reused = event.usage.reused_tokens if isinstance(event, Finish) else 0
            reply.ended.set()

    return reply, submit(engine, asked, take)


def together(engines: Sequence[Engine], requests: Sequence[Request]) -> list[list[Reply]]:
    """Every request on every engine, all at once: for each request the replies of all engines, when all have ended."""
    began = time.perf_counter()
    replies = [[ask(engine, asked, began)[0] for engine in engines] for asked in requests]
    return [[wait(reply) for reply in side_by_side] for side_by_side in replies]


def wait(reply: Reply) -> Reply:
    reply.ended.wait()
    if reply.failure is not None:
        raise RuntimeError(reply.failure)
    return reply


def varied(count: int, seed: int, vocabulary: int, longest: int) -> list[Request]:
    """Requests as different visitors send them: short and long (up to `longest` tokens in all), every warper on and off.

    Half of the prompts begin with the same tokens, as a conversation that is sent again does.
    """
    draw = random.Random(seed)
    shared = [random.Random(0).randrange(3, vocabulary) for _ in range(longest)]
    requests = []
    for _ in range(count):
        new_tokens = draw.randrange(8, 40)
        length = draw.randrange(1, longest - new_tokens)
        own = [draw.randrange(3, vocabulary) for _ in range(length)]
        common = draw.randrange(length) if draw.random() < 0.5 else 0
        sampling = DEFAULT_SAMPLING.model_copy(
            update={
                "seed": draw.randrange(10_000),
                "max_new_tokens": new_tokens,
                "temperature": draw.choice([0.0, 0.7, 1.0, 1.5]),
                "top_k": draw.choice([0, 40]),
                "top_p": draw.choice([1.0, 0.9]),
                "min_p": draw.choice([0.0, 0.05]),
                "repetition_penalty": draw.choice([1.0, 1.2]),
            }
        )
        requests.append(Request(token_ids=(*shared[:common], *own[common:]), sampling=sampling, stop_ids=frozenset()))
    return requests


def reproduction(subject: Subject, engines: Sequence[Engine], count: int, seed: int = 1) -> dict[str, Any]:
    """How many replies come back bit for bit when they are asked again in a crowd.

    Alone every request is computed from scratch. Then all are asked again in another order at random
    moments, with as many strangers around them, of whom every third leaves before the end.
    """
    longest = min(engines[0].context, 512)
    asked = varied(count, seed, subject.vocabulary, longest)
    began = time.perf_counter()
    alone = [together(engines, [each.model_copy(update={"reuse": False})])[0] for each in asked]
    seconds = time.perf_counter() - began
    strangers = varied(count, seed + 1, subject.vocabulary, longest)
    again, left = _in_a_crowd(engines, asked, strangers, seconds / 2, random.Random(seed))
    same = sum(
        reply.tokens == expected.tokens
        for mine, theirs in zip(again, alone, strict=True)
        for reply, expected in zip(mine, theirs, strict=True)
    )
    return {
        "pair": subject.name,
        "replies asked again under load": len(engines) * count,
        "identical": same,
        "reproduction rate": f"{same / (len(engines) * count):.1%}",
        "strangers": len(engines) * count,
        "of whom left early": left,
        "engine": engines[0].info().certification,
    }


def replays(
    subject: Subject, engines: Sequence[Engine], count: int, others: int, until: float, seed: int = 1
) -> dict[str, Any]:
    """How many of `count` replies come back bit for bit, asked again one after the other while there always are `others` requests of strangers.

    There are at most 50 different ones; alone each is computed from scratch. Ends early at the moment `until` (of time.perf_counter).
    """
    longest = min(engines[0].context, 512)
    asked = varied(min(count, 50), seed, subject.vocabulary, longest)
    strangers = itertools.cycle(varied(4 * others, seed + 1, subject.vocabulary, longest))
    began = time.perf_counter()
    alone = [together(engines, [each.model_copy(update={"reuse": False})])[0] for each in asked]
    crowds: list[list[Reply]] = [[] for _ in engines]
    again: list[list[Reply]] = []
    for number in range(count):
        if time.perf_counter() > until:
            break
        for engine, crowd in zip(engines, crowds, strict=True):
            crowd[:] = [reply for reply in crowd if not reply.ended.is_set()]
            crowd += [ask(engine, next(strangers), began)[0] for _ in range(others - len(crowd))]
        again.append([ask(engine, asked[number % len(asked)], began)[0] for engine in engines])
        if number >= AT_ONCE:
            for reply in again[number - AT_ONCE]:
                wait(reply)
    pairs = [
        (wait(reply).tokens, expected.tokens)
        for number, mine in enumerate(again)
        for reply, expected in zip(mine, alone[number % len(asked)], strict=True)
    ]
    for crowd in crowds:
        for reply in crowd:
            wait(reply)
    same = sum(reply == expected for reply, expected in pairs)
    return {
        "pair": subject.name,
        "replies asked again": len(pairs),
        "others that were there": others,
        "identical": same,
        "reproduction rate": f"{same / max(1, len(pairs)):.1%}",
        "engine": engines[0].info().certification,
    }


def audit(subject: Subject, engines: Sequence[Engine], count: int) -> dict[str, Any]:
    """How many replies are the same, bit for bit, under torch's flag for determinism, and what it refuses.

    The product goes without it: it makes writes into a cache copy the cache. One reply at a time, computed from scratch.
    """
    asked = varied(count, 3, subject.vocabulary, min(engines[0].context, 512))
    alone = [request.model_copy(update={"reuse": False}) for request in asked]
    plain = [reply.tokens for each in alone for reply in together(engines, [each])[0]]
    audited, refused = list[list[Any]](), "nothing"
    torch.use_deterministic_algorithms(True)
    try:
        audited += (reply.tokens for each in alone for reply in together(engines, [each])[0])
    except RuntimeError as error:
        refused = str(error)[:200]
    finally:
        torch.use_deterministic_algorithms(False)
    return {
        "pair": subject.name,
        "replies": len(plain),
        "identical under use_deterministic_algorithms": sum(map(list.__eq__, plain, audited)),
        "refused there": refused,
    }


def _in_a_crowd(
    engines: Sequence[Engine],
    asked: Sequence[Request],
    strangers: Sequence[Request],
    seconds: float,
    draw: random.Random,
) -> tuple[list[list[Reply]], int]:
    """Submit everything at random moments within `seconds`. Returns the replies to `asked`, and how many strangers were cancelled."""
    arrivals = [(draw.random() * seconds, i, request) for i, request in enumerate([*asked, *strangers])]
    replies: dict[int, list[Reply]] = {}
    tickets: list[tuple[Reply, Stoppable]] = []
    began = time.perf_counter()
    for moment, i, request in sorted(arrivals, key=lambda arrival: arrival[0]):
        time.sleep(max(0.0, began + moment - time.perf_counter()))
        submitted = [ask(engine, request, began) for engine in engines]
        replies[i] = [reply for reply, _ in submitted]
        tickets += submitted if i >= len(asked) else []
        for _, ticket in draw.sample(tickets, len(tickets) // 3):
            ticket.cancel()
    for side_by_side in replies.values():
        for reply in side_by_side:
            wait(reply)
    full = [request.sampling.max_new_tokens for request in strangers]
    left = sum(
        len(reply.tokens) < full[i - len(asked)] for i, both in replies.items() if i >= len(asked) for reply in both
    )
    return [replies[i] for i in range(len(asked))], left
