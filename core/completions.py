"""One side asked alone, as other programs ask: several prompts, several replies to each, stop strings and log-probabilities.

What is sent, what is drawn and where a reply ends are those of a comparison, and each reply can have its receipt. This file knows neither HTTP nor
anybody's JSON.
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Literal, NamedTuple

from . import canonical, receipts
from .detokenizer import Spelling
from .errors import UserError
from .lease import Card, Lease, Writing
from .prompts import Prompt, of_ids
from .run import Writer, fit
from .steps import Stop
from .types import Candidate, Comparison, Event, Failure, Finish, OneSidedReceipt, Sampling, Side, Token


class Broken(UserError):
    """A reply that was begun has not come to its end; asking again may help."""


class SidePrompt(NamedTuple):
    """A comparison, of which one side's half is sent; or, where there are token ids, these as they are, and its prompt is empty."""

    comparison: Comparison
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Order:
    """What one side is asked.

    Reply i to each of the prompts is drawn with `sampling.seed` + i. One that does not write (`writes`) reads alone. With `echo` what is told
    of a reply begins with its prompt. With `receipts` a reply has not ended before its engine has said what it cost.

    `logprobs` asks for those of all tokens, of the prompt too where that is echoed, each with the `top` likeliest in its place. Where there
    are neither alternatives nor an echo they are those of the draws; else the whole is read once more, and these are the numbers of the reading.
    """

    side: Side
    prompts: tuple[SidePrompt, ...]
    sampling: Sampling
    replies: int = 1
    stops: tuple[str, ...] = ()
    writes: bool = True
    echo: bool = False
    logprobs: bool = False
    top: int = 0
    receipts: bool = False

    @property
    def reads(self) -> bool:
        return self.logprobs and (self.echo or self.top > 0)


class ScoredToken(NamedTuple):
    """A token in its place: log-softmax of the unwarped logits (nats), None for the very first, which nothing predicts."""

    id: int
    text: str
    logprob: float | None
    top: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Delta:
    """What is new of one choice."""

    index: int
    text: str
    reasoning: str
    tokens: tuple[ScoredToken, ...]
    finish_reason: Literal["stop", "length"] | None


class CompletionChoice:
    """One reply to one prompt, cut before the first stop string. What is drawn behind the token that completes one is not looked at, so
    the same request counts the same tokens whoever else is there."""

    def __init__(self, order: Order, writer: Writer, echoed: str = ""):
        self.order, self.writer, self.echoed = order, writer, echoed
        self.ended = not order.writes
        self.tokens: list[ScoredToken] = []
        self._cut: int | None = None
        self._ends: list[int] = []  # characters of the answer, up to the end of each token
        self._texts: list[str] = []  # of each token, by itself
        self._names = _names(writer) if order.logprobs else {}
        self._said = 0  # characters of the texts
        self._told = self._told_reasoning = 0

    def take(self, event: Event) -> None:
        """Raises Broken where the reply cannot be finished."""
        if self.ended:
            self._take_the_rest(event)
            return
        self.writer.take(event)
        if self.writer.error is not None:
            raise Broken(self.writer.error)
        if isinstance(event, Finish) and event.reason == "stopped":
            raise Broken("This reply was stopped before its end, for its model was unloaded; ask again.")
        if isinstance(event, Token | Finish) and (self.order.stops or self.order.logprobs):
            split = self.writer.split()
            if isinstance(event, Token):
                self._ends.append(len(split.answer))
                self._texts.append(self._names.get(event.id, ""))
            if self._texts:  # bytes that are no character yet go with the token that completes it
                self._texts[-1] += split.whole[self._said :]
                self._said = max(self._said, len(split.whole))
            places = [at for stop in self.order.stops if (at := split.answer.find(stop)) >= 0]
            self._cut = min(places, default=None)
        self.ended = isinstance(event, Finish) or self._cut is not None

    def _take_the_rest(self, event: Event) -> None:
        """What comes behind a stop string, until the engine has heard of it: of that, only what the reply cost counts."""
        if isinstance(event, Failure):
            raise Broken(event.message)
        if isinstance(event, Finish):
            written = {"output_tokens": len(self.writer.ids)}
            self.writer.take(Finish(reason="stopped", usage=event.usage.model_copy(update=written)))

    @property
    def settled(self) -> bool:
        return self.ended and (not self.order.receipts or self.writer.finish is not None)

    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """A full context is a full length."""
        if not self.settled:
            return None
        ended = self.writer.finish is not None and self.writer.finish.reason == "eos"
        return "stop" if ended or self._cut is not None else "length"

    @property
    def ids(self) -> list[int]:
        """The tokens of what is told: those that begin before a stop string."""
        if self._cut is None:
            return self.writer.ids
        begins = zip([0, *self._ends], self.writer.ids, strict=False)
        kept = sum(1 for _ in takewhile(lambda each: each[0] < (self._cut or 0), begins))
        return self.writer.ids[: max(kept, self.writer.reasoning_tokens)]

    def shown(self) -> tuple[str, str]:
        """Reasoning and answer so far, without what may become a stop string, or a mark behind white space."""
        split = self.writer.split()
        answer = split.answer[: self._cut]
        if not self.ended:
            answer = answer[: len(answer) - max((_begun(stop, answer) for stop in self.order.stops), default=0)]
            answer = answer if self.writer.prompt.marks is None or answer.strip() else ""
        return split.reasoning, self.echoed + answer

    def delta(self, index: int) -> Delta:
        """What was not told yet."""
        reasoning, text = self.shown()
        known = len(self.tokens)
        if self.order.logprobs and not self.order.reads:
            self._spell(len(text))
        fresh = Delta(
            index=index,
            text=text[self._told :],
            reasoning=reasoning[self._told_reasoning :],
            tokens=tuple(self.tokens[known:]),
            finish_reason=self.finish_reason,
        )
        self._told, self._told_reasoning = max(self._told, len(text)), max(self._told_reasoning, len(reasoning))
        return fresh

    def _spell(self, characters: int) -> None:
        """The tokens of so much of the answer, with the numbers of their draws. The last one may still get some text."""
        ids, known = self.ids, len(self.tokens)
        whole = sum(1 for _ in takewhile(lambda end: end <= characters, self._ends[:-1]))
        upto = len(ids) if self.ended else whole
        rows = zip(ids[known:upto], self._texts[known:upto], self.writer.logprobs[known:upto], strict=True)
        self.tokens += [ScoredToken(*each) for each in rows]

    def read(self, lease: Lease, check: Callable[[], None]) -> None:
        """The tokens with the numbers of a reading of all of it. Raises UserError as `Lease.likeliest`."""
        order, prompt = self.order, self.writer.prompt
        whole = [*prompt.token_ids, *self.ids]
        start = _put_before(prompt) if order.echo else len(prompt.token_ids)
        first = max(1, start)
        spelling = Spelling(self.writer.checkpoint.tokenizer, whole[:start], whole[start:])
        rows = lease.likeliest(order.side, whole, first, order.top, check) if first < len(whole) else iter(())
        self.tokens = [
            ScoredToken(id, text, None) for id, text in zip(whole[start:first], spelling.reply, strict=False)
        ]
        for id, text, (logprob, top) in zip(whole[first:], spelling.reply[first - start :], rows, strict=True):
            self.tokens.append(ScoredToken(id, text, logprob, tuple(spelling.candidate(*each) for each in top)))


class Completion:
    """An order on a leased pair. Nothing runs before `deltas` does.

    Args:
        check: is called between the pieces of the work on the prompts; what it raises ends it.

    Raises:
        UserError: a prompt does not fit or cannot be built.
    """

    def __init__(self, lease: Lease, order: Order, check: Callable[[], None]):
        self.order, self._lease = order, lease
        self.prompts = [_prompt(lease, order.side, each, check) for each in order.prompts]
        self.choices: list[CompletionChoice] = []
        checkpoint, ends = lease.side(order.side), lease.stop_ids(order.side)
        for asked, prompt in zip(order.prompts, self.prompts, strict=True):
            fitted = fit(order.sampling, prompt, checkpoint)
            echoed = _echo(checkpoint, asked) if order.echo else ""
            for reply in range(order.replies):
                sampling = fitted.model_copy(update={"seed": fitted.seed + reply})
                self.choices.append(CompletionChoice(order, Writer(checkpoint, prompt, sampling, ends), echoed))

    @property
    def fingerprint(self) -> str:
        """Of all beside the request that decides its tokens."""
        return f"fp_{canonical.sha256(self._lease.side(self.order.side).deciding)[:16]}"

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt.token_ids) for prompt in self.prompts)

    @property
    def written_tokens(self) -> int:
        """Those of stop strings and of ends are counted, too."""
        return sum(len(choice.writer.ids) for choice in self.choices)

    @property
    def reasoning_tokens(self) -> int:
        return sum(choice.writer.reasoning_tokens for choice in self.choices)

    def receipt(self, index: int) -> OneSidedReceipt:
        """Of a choice that has settled."""
        asked, writer = self.order.prompts[index // self.order.replies], self.choices[index].writer
        drawn = {"sampling": asked.comparison.sampling.model_copy(update={"seed": writer.sampling.seed})}
        return receipts.make_one_sided(
            asked.comparison.model_copy(update=drawn),
            self.order.side,
            receipts.side_receipt(writer.result()),
            asked.token_ids,
            self.order.stops,
        )

    def deltas(self, stop: Stop, period: float) -> Generator[list[Delta], None, None]:
        """What is new, at most once in `period` seconds, until all has ended; where it is read once more, all of it at the end.

        Closed, or at `stop`, all of it ends and its slots are free.

        Raises:
            Stopped: `stop` was pressed.
            UserError: it does not fit, or has failed (Broken).
        """
        news: SimpleQueue[tuple[int, Event]] = SimpleQueue()
        under_way: dict[int, Writing] = {}

        def tell(index: int, side: Side, event: Event) -> None:
            news.put((index, event))

        try:
            for index, choice in enumerate(self.choices):
                if not choice.ended:
                    under_way[index] = self._lease.write({self.order.side: choice.writer.request}, partial(tell, index))
            while not self._settled:
                changed = self._take(news, under_way, stop, period)
                yield [] if self.order.reads else [self.choices[index].delta(index) for index in sorted(changed)]
            for index, choice in enumerate(self.choices):
                if self.order.reads:
                    choice.read(self._lease, stop.check)
                    yield [replace(choice.delta(index), tokens=tuple(choice.tokens))]
                elif not self.order.writes:
                    yield [choice.delta(index)]
        finally:
            for writing in under_way.values():
                writing.stop()

    @property
    def _settled(self) -> bool:
        return all(choice.settled for choice in self.choices)

    def _take(
        self, news: SimpleQueue[tuple[int, Event]], under_way: dict[int, Writing], stop: Stop, period: float
    ) -> set[int]:
        """Fold what comes within a period; which choices it was about."""
        changed: set[int] = set()
        due = monotonic() + period
        while not self._settled:
            try:
                index, event = news.get(timeout=max(0.0, due - monotonic()))
            except Empty:
                break
            stop.check()
            choice = self.choices[index]
            if choice.settled:  # by a stop string, and this was drawn before its engine heard of it
                continue
            ended = choice.ended
            choice.take(event)
            changed.add(index)
            if choice.ended and not ended:
                under_way[index].stop()
                self._lease.count(len(choice.writer.ids))
        stop.check()
        return changed


def _names(writer: Writer) -> dict[int, str]:
    """Tokens that have no text in a reply, by what they are called."""
    added = writer.checkpoint.tokenizer.added_tokens_decoder.items()
    return {id: token.content for id, token in added if token.special or id in writer.stop_ids}


def _prompt(lease: Lease, side: Side, asked: SidePrompt, check: Callable[[], None]) -> Prompt:
    if asked.token_ids:
        return of_ids(asked.token_ids, lease.side(side).tokenizer)
    return lease.prompt(asked.comparison, side, check)


def _put_before(prompt: Prompt) -> int:
    """How many tokens the tokenizer itself put before a text."""
    return len([*takewhile(lambda piece: piece.control, prompt.pieces)])


def _echo(checkpoint: Card, asked: SidePrompt) -> str:
    """The prompt as it was sent; of token ids, what they say, control tokens by their names."""
    ids = asked.token_ids
    return "".join(Spelling(checkpoint.tokenizer, (), ids).reply) if ids else asked.comparison.prompt


def stop_step(writer: Writer, stops: tuple[str, ...], token_ids: Iterable[int]) -> int | None:
    """How many of these tokens it takes to reach a stop string; None where none is reached. The writer has not begun."""
    choice = CompletionChoice(Order("base", (), writer.sampling, stops=stops), writer)
    for step, id in enumerate(token_ids):
        choice.take(Token(step=step, id=id, logprob=0.0, margin=None))
        if choice.ended:
            return step + 1
    return None


def _begun(stop: str, text: str) -> int:
    """How many of the last characters may be the beginning of a stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
