"""A recorded reply checked by reading it: the engine's way of asking, over one engine in portable arithmetic.

There prefill gives the bits that decoding gave, so the logits of many steps come from one pass, and each token is drawn
from them again. What is reported is what writing it would have reported, up to the first token that differs.
"""

import math
from collections.abc import Iterator
from queue import Empty, SimpleQueue

import torch

from ..errors import UserError
from ..types import Event, Failure, Finish, FinishReason, Request, Started, Token, Usage
from . import sampling
from .dial import on_a_thread
from .engine import Emit, Engine, Scored, Stoppable


def submit(engine: Engine, request: Request, emit: Emit) -> Stoppable:
    """As Engine.submit, but what a request expects is read where it says so (`Request.reading`).

    Raises:
        UserError: as there.
    """
    if not request.reading or not request.expected:
        return engine.submit(request, emit)
    engine.check(request)
    return Rereading(engine, request, emit)


class Rereading:
    """One reply that is being read, on a thread of its own: drawing from many logits would hold up the engine's."""

    def __init__(self, engine: Engine, request: Request, emit: Emit):
        self.engine, self.request, self.emit = engine, request, emit
        self._cancelled = False
        on_a_thread(self._read, emit)

    def cancel(self) -> None:
        """Stop at the next token. Safe from any thread."""
        self._cancelled = True

    def _read(self) -> Event:
        asked, written = self.request, list[int]()
        with torch.inference_mode():
            for logits in self._rows():
                step, seen = len(written) + asked.prefilled, self._seen(logits, written)
                drawn = sampling.draw(logits, seen, [asked.sampling], [step])[0]
                if math.isnan(drawn.logprob):
                    return Failure(message="The model's output is not a number here.")
                expected = asked.expected[len(written) : len(written) + 1]
                if expected and drawn.token != expected[0]:
                    self.emit(sampling.divergence(logits, seen, asked, step, drawn))
                self.emit(Token(step=step, id=drawn.token, logprob=drawn.logprob, margin=drawn.margin))
                written.append(drawn.token)
                if expected != (drawn.token,) or self._end(written) or self._cancelled:
                    break
        if asked.reading == "on" and self._end(written) is None and not self._cancelled:
            return self._write_on(written)
        used = {
            "output_tokens": len(written),
            "prefill_passes": -(-(len(asked.token_ids) + len(written)) // self._chunk),
        }
        return Finish(
            reason=self._end(written) or "stopped", usage=Usage.of_nothing(len(asked.token_ids)).model_copy(update=used)
        )

    def _write_on(self, written: list[int]) -> Event:
        """The reply from here on: what is known of it is read as a beginning that was given, in passes of a chunk."""
        asked, news = self.request, SimpleQueue[Event]()
        left = asked.sampling.max_new_tokens - len(written)
        known = {
            "token_ids": (*asked.token_ids, *written),
            "prefilled": asked.prefilled + len(written),
            "sampling": asked.sampling.model_copy(update={"max_new_tokens": left}),
            "expected": (),
        }
        ticket = self.engine.submit(asked.model_copy(update=known), news.put)
        while not isinstance(event := news.get(), Finish | Failure):
            if self._cancelled:
                ticket.cancel()
            if isinstance(event, Token):
                self.emit(event)
        if isinstance(event, Failure):
            return event
        whole = {"prompt_tokens": len(asked.token_ids), "output_tokens": len(written) + event.usage.output_tokens}
        return Finish(reason=event.reason, usage=event.usage.model_copy(update=whole))

    @property
    def _chunk(self) -> int:
        return self.engine.shape.chunk

    def _end(self, written: list[int]) -> FinishReason | None:
        """Why the reply ends here, as Job.finish_reason has it."""
        if written and written[-1] in self.request.stop_ids:
            return "eos"
        if len(self.request.token_ids) + len(written) >= self.engine.context:
            return "context"
        return "length" if len(written) >= self.request.sampling.max_new_tokens else None

    def _rows(self) -> Iterator[torch.Tensor]:
        """Logits [1, vocabulary] for each expected token as far as the model has them, and for one more."""
        ids = [*self.request.token_ids]
        for id in self.request.expected:
            if not 0 <= id < self.engine.vocabulary:
                break
            ids.append(id)
        if len(ids) < self.engine.context:
            ids.append(0)  # the last id predicts nothing
        news: SimpleQueue[Started | Scored | Failure] = SimpleQueue()
        left = len(ids) - (first := len(self.request.token_ids))
        scoring = self.engine.score(ids, first, news.put)
        try:
            while left and not self._cancelled:
                try:
                    heard = news.get(timeout=0.1)
                except Empty:
                    continue
                if isinstance(heard, Failure):
                    raise UserError(heard.message)
                if isinstance(heard, Started):
                    self.emit(heard)
                    continue
                scoring.more()
                left -= len(heard.logits)
                yield from heard.logits.split(1)
        finally:
            scoring.cancel()

    def _seen(self, logits: torch.Tensor, written: list[int]) -> torch.Tensor:
        """Bool [1, vocabulary]: the ids in the prompt and the reply so far, where a repetition penalty asks for them."""
        penalised = self.request.sampling.repetition_penalty != 1
        return sampling.marked(logits, [[*self.request.token_ids, *written] if penalised else []])
