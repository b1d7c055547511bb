"""A model between two siblings, or beyond the second: the engine's way of asking, over two engines.

In the space of logits both models write the same tokens in lock-step, and each token is drawn from a
mix of their logits. In the space of weights a third model is made for one reply and dropped after it.
This file knows token ids and events, not people or pairs.

Sources: logits, proxy tuning (arXiv 2401.08565, section 2), with the two models as expert and
anti-expert; weights, arXiv 2109.01903 (section 2) and 2212.04089 (section 2).
"""

import copy
import logging
import math
import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from queue import SimpleQueue

import torch
from transformers import PreTrainedModel

from ..errors import UserError
from ..types import Event, Failure, Finish, Request, Started, Token, Usage, WrittenBy
from . import sampling
from .engine import Emit, Engine, Steering, Ticket, sentence
from .packed import unpacked

log = logging.getLogger(__name__)


def mix(base: torch.Tensor, post: torch.Tensor, amount: float) -> torch.Tensor:
    """base + amount (post - base), written so that 0 gives the base and 1 the other bit for bit."""
    return (1 - amount) * base + amount * post


def mixed_model(base: PreTrainedModel, post: PreTrainedModel, amount: float) -> PreTrainedModel:
    """A new model whose every parameter is the mix of theirs, computed in float32 and rounded to their dtype.

    Raises:
        UserError: their parameters are not of equal shapes.
    """
    ours, theirs = (dict(model.named_parameters(remove_duplicate=False)) for model in (base, post))
    shapes = [{name: tensor.shape for name, tensor in each.items()} for each in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise UserError(
            "The weights of these two models have different shapes and cannot be mixed; turn the dial in the space of logits."
        )
    model = copy.deepcopy(post)  # whose weights are plain
    with torch.no_grad():
        for name, target in model.named_parameters():
            target.copy_(mix(unpacked(ours[name]).to(target.device).float(), unpacked(theirs[name]).float(), amount))
    return model


class LogitsDial:
    """Writes replies with two engines in lock-step, each token drawn from the mix of their logits."""

    def __init__(self, base: Engine, post: Engine, amount: float):
        self.base, self.post, self.amount = base, post, amount

    def submit(self, request: Request, emit: Emit) -> "LockStep":
        """As the post-trained Engine.submit, but certified only where both are; passes of both models are counted.

        Raises:
            UserError: the request does not fit one of the models.
        """
        self.base.check(request)
        self.post.check(request)
        if not (base := self.base.info()).certified:
            told = {"certified": False, "certification": base.certification}
            emit(WrittenBy(engine=self.post.info().model_copy(update=told)))
        return LockStep(self, request, emit)


class LockStep:
    """One reply of a LogitsDial, on a thread of its own: neither engine may wait for the other."""

    def __init__(self, dial: LogitsDial, request: Request, emit: Emit):
        self.dial, self.request, self.emit = dial, request, emit
        self._voices: list[_Voice] = []
        self._cancelled = False
        on_a_thread(self._write, emit)

    def cancel(self) -> None:
        """Stop both models at their next step; the tokens written so far stand. Safe from any thread."""
        self._cancelled = True
        for voice in list(self._voices):
            voice.steering.cancel()

    def _write(self) -> Event:
        torch.set_num_threads(self.dial.post.level.threads)  # of this thread: the bits of a sum may depend on it
        try:
            # The base first, and the other only when that one has a slot: two replies that each held one
            # model and waited for the other would wait for ever.
            for engine in (self.dial.base, self.dial.post):
                self._voices.append(_Voice(engine, self.request))
                if self._cancelled:
                    self._voices[-1].steering.cancel()
                self._voices[-1].wait_for_a_slot(self.emit)
            self.emit(Started())
            with torch.inference_mode():
                return self._draw_to_the_end()
        finally:
            self.cancel()

    def _draw_to_the_end(self) -> Event:
        ids, step = list(self.request.token_ids), self.request.prefilled
        while True:
            heard = [voice.hear() for voice in self._voices]
            rows = [news for news in heard if isinstance(news, torch.Tensor)]
            if len(rows) < len(heard):
                return self._end(heard)
            drawn = self._draw(rows[0], rows[1], ids, step)
            self.emit(Token(step=step, id=drawn.token, logprob=drawn.logprob, margin=drawn.margin))
            ids.append(drawn.token)
            step += 1
            for voice in self._voices:
                voice.steering.give(drawn.token)

    def _draw(self, base: torch.Tensor, post: torch.Tensor, ids: list[int], step: int) -> sampling.Draw:
        known = min(base.shape[1], post.shape[1])
        logits = mix(base[:, :known].to(post.device).double(), post[:, :known].double(), self.dial.amount)
        seen = sampling.marked(logits, [ids])
        drawn = sampling.draw(logits, seen, [self.request.sampling], [step])[0]
        if math.isnan(drawn.logprob):
            raise ArithmeticError("the mix of their outputs is not a number here; try --dtype float32")
        expected = self.request.expected[step - self.request.prefilled :][:1]
        if expected and expected[0] != drawn.token:
            self.emit(sampling.divergence(logits, seen, self.request, step, drawn))
        return drawn

    def _end(self, heard: "list[Event | torch.Tensor]") -> Event:
        """A failure of either, or the first end with the passes of both."""
        self.cancel()
        ends = [voice.end(news) for voice, news in zip(self._voices, heard, strict=True)]
        failure = next((end for end in ends if isinstance(end, Failure)), None)
        if failure is not None:
            return failure
        finishes = [end for end in ends if isinstance(end, Finish)]
        first = next(end for end, news in zip(finishes, heard, strict=True) if not isinstance(news, torch.Tensor))
        passes = {
            name: sum(getattr(end.usage, name) for end in finishes) for name in ("prefill_passes", "decode_passes")
        }
        return Finish(reason=first.reason, usage=first.usage.model_copy(update=passes))


class _Voice:
    """One of the two models of a reply in lock-step."""

    def __init__(self, engine: Engine, request: Request):
        self._news: SimpleQueue[Event | torch.Tensor] = SimpleQueue()
        self.steering: Steering = engine.steer(request, self._news.put)

    def hear(self) -> Event | torch.Tensor:
        """Logits [1, vocabulary] for the next token, or the end."""
        return self._news.get()

    def wait_for_a_slot(self, emit: Emit) -> None:
        """Pass on the place in the queue until there is a slot, or until the reply ends without one."""
        while not isinstance(news := self._news.get(), Started):
            if isinstance(news, torch.Tensor | Finish | Failure):
                self._news.put(news)
                return
            emit(news)

    def end(self, news: Event | torch.Tensor) -> Event:
        """The end of a reply that was cancelled or has ended, of which `news` was heard last."""
        while not isinstance(news, Finish | Failure):
            news = self._news.get()
        return news


class WeightsDial:
    """Writes a reply with a model whose weights are the mix of two. The model exists for that one reply.

    Args:
        one_at_a_time: held while the model exists, so that two of them never take memory at once.
        check_room: raises UserError when there is no memory for it.
    """

    def __init__(
        self, base: Engine, post: Engine, amount: float, one_at_a_time: threading.Lock, check_room: Callable[[], None]
    ):
        self.base, self.post, self.amount = base, post, amount
        self.one_at_a_time, self.check_room = one_at_a_time, check_room

    def submit(self, request: Request, emit: Emit) -> "OwnModel":
        """As Engine.submit; the model is made first, on a thread of its own.

        Raises:
            UserError: the request does not fit.
        """
        return OwnModel(self, request, emit, self.post.check(request))


class OwnModel:
    """One reply of a WeightsDial: makes the model and an engine for it, and drops both at the end."""

    def __init__(self, dial: WeightsDial, request: Request, emit: Emit, size: int):
        self.dial, self.request, self.emit, self.size = dial, request, emit, size
        self._ticket: Ticket | None = None
        self._cancelled = False
        on_a_thread(self._write, emit)

    def cancel(self) -> None:
        """Stop at the next step; the tokens written so far stand. Safe from any thread."""
        self._cancelled = True
        if self._ticket is not None:
            self._ticket.cancel()

    def _write(self) -> Event:
        while not self.dial.one_at_a_time.acquire(timeout=0.1):
            if self._cancelled:
                return Finish(reason="stopped", usage=Usage.of_nothing(len(self.request.token_ids)))
        try:
            self.dial.check_room()
            return self._write_with_own_model()
        finally:
            self.dial.one_at_a_time.release()

    def _write_with_own_model(self) -> Event:
        post = self.dial.post
        model = mixed_model(self.dial.base.model, post.model, self.dial.amount)
        # One lane, of the length that the reply has in its parents' engines: the bits are those of a model that was loaded.
        shape = replace(post.shape, sizes=(self.size,), threads=post.level.threads)
        engine = post.like(model, shape, post.level.attention)
        try:
            self.emit(WrittenBy(engine=engine.info()))
            news: SimpleQueue[Event] = SimpleQueue()
            self._ticket = engine.submit(self.request, news.put)
            if self._cancelled:
                self._ticket.cancel()
            while not isinstance(event := news.get(), Finish | Failure):
                self.emit(event)
            return event
        finally:
            engine.close()


def on_a_thread(write: Callable[[], Event], emit: Emit) -> None:
    """Emit what `write` returns, or a failure of it."""

    def run() -> None:
        try:
            emit(write())
        except UserError as error:
            emit(Failure(message=str(error)))
        except Exception as error:
            log.exception("a dialled reply failed")
            emit(Failure(message=sentence(error)))

    context = copy_context()  # for whom this is
    threading.Thread(target=context.run, args=(run,), name="dial", daemon=True).start()
