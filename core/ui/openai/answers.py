"""How OpenAI's API answers: a completion, a chat completion, their chunks, and what went wrong, as JSON data."""

import math
from collections.abc import Iterable, Sequence
from time import time
from typing import Any
from uuid import uuid4

from ... import canonical
from ...completions import Completion, Delta, ScoredToken
from ...detokenizer import UNREADABLE
from .asked import Body, ChatBody, Refusal

Json = dict[str, Any]
_LEAST = -9999.0  # what stands for a logarithm of nothing


class Answer:
    """What is answered to one request."""

    def __init__(self, body: Body, completion: Completion):
        self.body, self.completion = body, completion
        self.chat = isinstance(body, ChatBody)
        order = completion.order
        self._head = {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid4().hex}",
            "created": int(time()),
            "model": body.model,
            "system_fingerprint": completion.fingerprint,
            "seed": order.sampling.seed,
            **({"today": body.today} if self.chat else {}),
        }
        self._begun: set[int] = set()
        self._offsets: dict[int, int] = {}

    def whole(self) -> Json:
        """When all of it has ended."""
        choices = []
        for index, choice in enumerate(self.completion.choices):
            reasoning, text = choice.shown()
            ended = Delta(index, text, reasoning, tuple(choice.tokens), choice.finish_reason)
            choices.append(self._choice(ended, "message", role="assistant"))
        return self._object("", choices) | {"usage": self._usage()}

    def chunks(self, deltas: Iterable[Delta]) -> list[Json]:
        """What is new, one chunk for each choice."""

        def says(delta: Delta) -> bool:
            told = delta.text or delta.reasoning or delta.tokens or delta.finish_reason
            return bool(told) or delta.index not in self._begun

        return [self._chunk(delta) for delta in deltas if says(delta)]

    def usage_chunk(self) -> Json:
        """The last one, for those who ask for it."""
        return self._object(".chunk", []) | {"usage": self._usage()}

    def _chunk(self, delta: Delta) -> Json:
        role = {} if delta.index in self._begun else {"role": "assistant"}
        self._begun.add(delta.index)
        chunk = self._object(".chunk", [self._choice(delta, "delta", **role)])
        return chunk | {"usage": None} if self.body.stream_options.include_usage else chunk

    def _object(self, suffix: str, choices: Sequence[Json]) -> Json:
        return {
            "object": f"chat.completion{suffix}" if self.chat else "text_completion",
            **self._head,
            "choices": choices,
        }

    def _choice(self, delta: Delta, name: str, **role: str) -> Json:
        head: Json = {"index": delta.index, "finish_reason": delta.finish_reason}
        if self.completion.order.receipts and delta.finish_reason is not None:
            head["receipt"] = canonical.dump(self.completion.receipt(delta.index))
        if not self.chat:
            return {**head, "text": delta.text, "logprobs": self._logprobs(delta)}
        thought = {"reasoning_content": delta.reasoning} if delta.reasoning else {}
        told = {"content": [_in_chat(token) for token in delta.tokens]} if self.completion.order.logprobs else None
        return {**head, name: {**role, "content": delta.text, **thought}, "logprobs": told}

    def _logprobs(self, delta: Delta) -> Json | None:
        if not self.completion.order.logprobs:
            return None
        offset, offsets = self._offsets.get(delta.index, 0), []
        for token in delta.tokens:
            offsets.append(offset)
            offset += len(token.text)
        self._offsets[delta.index] = offset
        return {
            "tokens": [token.text for token in delta.tokens],
            "token_logprobs": [_told(token.logprob) for token in delta.tokens],
            "top_logprobs": [_by_text(token) for token in delta.tokens],
            "text_offset": offsets,
        }

    def _usage(self) -> Json:
        sent, written = self.completion.prompt_tokens, self.completion.written_tokens
        thought = self.completion.reasoning_tokens
        return {
            "prompt_tokens": sent,
            "completion_tokens": written,
            "total_tokens": sent + written,
            "completion_tokens_details": {"reasoning_tokens": thought},
        }


def _told(logprob: float | None) -> float | None:
    return None if logprob is None else max(_LEAST, logprob)


def _by_text(token: ScoredToken) -> dict[str, float] | None:
    """The alternatives and the token itself by their texts; where two have the same, the likelier one."""
    if token.logprob is None:
        return None
    found = {token.text: max(_LEAST, token.logprob)}
    for each in token.top:
        text = token.text if each.id == token.id else each.text
        found[text] = max(found.get(text, -math.inf), each.logprob, _LEAST)
    return found


def _in_chat(token: ScoredToken) -> Json:
    return {
        **_spelled(token.text, token.logprob),
        "top_logprobs": [
            _spelled(token.text if each.id == token.id else each.text, each.logprob) for each in token.top
        ],
    }


def _spelled(text: str, logprob: float | None) -> Json:
    """The bytes of half a character are not known from its text."""
    known = UNREADABLE not in text
    return {"token": text, "logprob": _told(logprob), "bytes": list(text.encode()) if known else None}


def error(sentence: str, status: int, param: str | None = None, code: str | None = None) -> Json:
    kind = (
        "invalid_request_error"
        if status < 500 and status != 429
        else "server_error"
        if status >= 500
        else "rate_limit_error"
    )
    return {"error": {"message": sentence, "type": kind, "param": param, "code": code}}


def of_refusal(refusal: Refusal) -> Json:
    return error(str(refusal), refusal.status, refusal.param, refusal.code)
