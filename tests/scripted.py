"""A pair whose models say what a test wants, through the real path: tokens, events, detokenising, page."""

import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from core.checkpoints.loading import Checkpoint
from core.checkpoints.tokenizers import read_tokenizer
from core.engine import Scored
from core.lease import Lease
from core.local import LocalLease
from core.pairs import HOME, Pair, default_pair
from core.pool import Progress
from core.settings import Settings
from core.types import SIDES, CheckpointInfo, EngineInfo, Finish, Request, Started, Token, Usage
from tests.pairs import nowhere

PAIR = Pair(id="scripted", title="Scripted pair", base="Scripted-Base", post="Scripted-Chat")
INFO = EngineInfo(
    sampler="v1",
    dtype="float32",
    attention="none",
    slots=1,
    lane_sizes=(4096,),
    chunk=64,
    threads=1,
    device="script",
    versions={},
    certified=False,
    certification="scripted",
)


@dataclass
class Ticket:
    stopped: threading.Event

    def cancel(self) -> None:
        self.stopped.set()


class ScriptedEngine:
    """Emits all tokens of a text, one every `pause` seconds."""

    context = 4096

    def __init__(self, tokenizer, seed: int):
        self.tokenizer, self.seed = tokenizer, seed
        self.ids: list[int] = []
        self.pause, self.asked = 0.0, 0

    def say(self, text: str, pause: float) -> None:
        self.ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        self.pause = pause

    def submit(self, request: Request, emit) -> Ticket:
        self.asked += 1
        ticket = Ticket(threading.Event())
        threading.Thread(target=self._write, args=(request, emit, ticket), daemon=True).start()
        return ticket

    def _write(self, request: Request, emit, ticket: Ticket) -> None:
        emit(Started())
        written = 0
        for step, id in enumerate(self.ids):
            if ticket.stopped.wait(self.pause) if self.pause else ticket.stopped.is_set():
                break
            emit(Token(step=step, id=id, logprob=-1.0, margin=0.5))
            written += 1
        usage = Usage(
            prompt_tokens=len(request.token_ids),
            reused_tokens=0,
            output_tokens=written,
            prefill_passes=1,
            decode_passes=max(0, written - 1),
            seconds_queued=0,
            seconds_to_first_token=0.01,
            seconds_decoding=0.01 * written,
        )
        emit(Finish(reason="stopped" if ticket.stopped.is_set() else "eos", usage=usage))

    @property
    def vocabulary(self) -> int:
        return len(self.tokenizer)

    def score(self, token_ids, first: int, take) -> SimpleNamespace:
        """Random logits, each model's own, in which the token that is there is a likely one."""
        take(Started())
        for start in range(first, len(token_ids), 64):
            take(Scored(start, self._logits(torch.tensor(token_ids[start : start + 64]), start)))
        return SimpleNamespace(more=lambda: None, cancel=lambda: None)

    def _logits(self, ids: torch.Tensor, start: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(100_000 * self.seed + start)
        logits = 2 * torch.randn(len(ids), self.vocabulary, generator=generator)
        logits[torch.arange(len(ids)), ids] += 8
        return logits

    def info(self) -> EngineInfo:
        return INFO

    def close(self) -> None: ...


class ScriptedPool:
    """What the page uses of a Pool, over one scripted pair."""

    def __init__(self, base: str = "", post: str = "", pause: float = 0.0, loading: float = 0.0):
        self.pairs, self.default, self.settings = (PAIR,), PAIR, Settings()
        self.ready, self.written, self.figures = True, 0, {"lost": ("Replicas that were lost.", 3)}
        tokenizer = read_tokenizer(HOME / default_pair(Settings()).post, "the embedded tokenizer")
        self.engines = {side: ScriptedEngine(tokenizer, seed) for seed, side in enumerate(SIDES)}
        checkpoints = {
            side: Checkpoint(
                info=CheckpointInfo(name=name, source=name, revision=None, parameters=0),
                weights_sha256=("b" if side == "base" else "c") * 64,
                tokenizer=tokenizer,
                stop_ids=frozenset(),
                model=SimpleNamespace(),
                engine=self.engines[side],
            )
            for side, name in zip(SIDES, (PAIR.base, PAIR.post), strict=True)
        }
        self.lease = LocalLease(PAIR, checkpoints, lambda: None, nowhere)
        self.say(base, post, pause, loading)

    def say(self, base: str, post: str, pause: float = 0.0, loading: float = 0.0) -> None:
        """What both models write from now on, with a pause before each token; `loading` seconds go by before they can."""
        self.engines["base"].say(base, pause)
        self.engines["post"].say(post, pause)
        self.loading = loading

    def open(self, id: str, commits=None, gives_way=False, tokens=None) -> Generator[Progress, None, Lease]:
        began = time.monotonic()
        while time.monotonic() - began < self.loading:
            yield Progress("Downloading Scripted-Base (12 MB)", 0.5)
            time.sleep(0.05)
        return self.lease

    def wait(self, id: str, report=None) -> Lease:
        return self.lease

    def peek(self, id: str) -> Lease:
        return self.lease
