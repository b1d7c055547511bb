"""A leased pair: the one way to the models of a comparison, wherever they are.

Who asks knows what is said of each model (`Card`) and hands over requests, and gets events, numbers and figures back. Behind it
are engines of this process (core/local.py) or others. This file knows no tensors and no engines.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from . import canonical, prompts, reasoning
from .errors import TooLong, UserError
from .pairs import Pair
from .prompts import Prompt, Tokenizer
from .steps import Steps
from .types import (
    SIDE_NAMES,
    CheckpointInfo,
    Comparison,
    Dial,
    EngineInfo,
    Event,
    Lens,
    LensContext,
    Request,
    Result,
    Shift,
    Side,
)


@dataclass(frozen=True)
class Kinship:
    """What the tokenizers of a pair have in common.

    Where an id stands for two texts the noise of a draw means nothing to both at once: the two replies have
    no common luck, and nothing can be read or mixed token by token. `difference` is one sentence, or empty.
    """

    same_ids: bool = True
    difference: str = ""

    def need_same_ids(self, what: str) -> None:
        """Raises UserError where the pair lacks what `what` (say, "The token lens") needs."""
        if not self.same_ids:
            raise UserError(
                f"{what} needs two models with the same tokens. {self.difference} Choose two stages of one model."
            )


@dataclass(frozen=True)
class Card:
    """What is known of a model to those who ask it.

    `context` is how many tokens a prompt and its reply may have together, `vocabulary` how many ids there are. `lacks` names what its
    machine computes otherwise than portable arithmetic, where it runs fast for that alone.
    """

    info: CheckpointInfo
    weights_sha256: str
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    engine_now: Callable[[], EngineInfo]
    context: int
    vocabulary: int
    lacks: tuple[str, ...] = ()

    @property
    def engine(self) -> EngineInfo:
        """The fingerprint of its engine as it is now."""
        return self.engine_now()

    @property
    def deciding(self) -> dict[str, Any]:
        """All beside a request that decides its tokens, as plain data: the weights, and the engine as far as it can matter."""
        engine = canonical.dump(self.engine)
        return {"weights": self.weights_sha256, **{name: engine.get(name) for name in self.engine.deciding}}


class Written(Protocol):
    """One side of a finished comparison, as a result and a receipt have it."""

    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def weights_sha256(self) -> str: ...


class Audit(Protocol):
    """A look into the memory in which a model is computed. Each is found when it is asked for; raises UserError where that is out of reach."""

    def weights_sha256(self) -> str:
        """The fingerprint of the weights, read back."""

    def gradients(self) -> int:
        """How many parameters have a gradient, or would get one."""

    def bytes_per_pass(self) -> int:
        """Bytes of weights that one forward pass reads."""

    def bandwidth(self) -> float:
        """Bytes that are read and written there per second while memory is copied."""


class Writing(Protocol):
    """Replies that are being written."""

    def stop(self, *sides: Side) -> None:
        """Stop these sides (all, where none is named) at their next step; what they have written stands. Safe from any thread, any number of times."""


class Lease(ABC):
    """A loaded pair that stays loaded until it is released, or until the `with` block that it opens is left."""

    pair: Pair
    kin: Kinship
    most: int  # characters of a conversation with its prompt
    count: Callable[[int], None]  # told of what was written, when a reply has ended
    wanted: Callable[[], bool]  # whether somebody lacks its memory, for whom it gives way

    @abstractmethod
    def side(self, side: Side) -> Card: ...

    @abstractmethod
    def write(
        self, requests: Mapping[Side, Request], emit: Callable[[Side, Event], None], dial: Dial | None = None
    ) -> Writing:
        """Begin a reply of each side that is asked. `emit` gets the events of each in order, the last one a Finish or a Failure, on other threads.

        Args:
            dial: turns the post-trained side.

        Raises:
            UserError: a request does not fit; then nothing runs.
        """

    @abstractmethod
    def read(
        self, comparison: Comparison, side: Side, reply_ids: Sequence[int], context: LensContext = "identical"
    ) -> Steps[tuple[Shift, ...], Lens]:
        """The lens of one side's reply: yields the next tokens' shifts as soon as both models have read them.

        Yields an empty tuple about ten times a second while it waits, so that it can be stopped: closing the
        generator stops both models at their next chunk. At most three chunks of logits of each model exist
        at a time.

        Args:
            comparison: what the reply answers. Gives the prompts, the settings of the draw and its noise.
            reply_ids: the token ids that `side` drew; a prefilled beginning of the comparison goes before them.
            context: "identical" lets both models read the token ids that the writer was sent, "own" lets
                the sibling read its own framing of the same conversation.

        Returns:
            The whole lens.

        Raises:
            UserError: there is nothing to read, it does not fit, one model lacks a token of it, or the two have different tokens.
        """

    @abstractmethod
    def logprobs(self, side: Side, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> tuple[float, ...]:
        """Log-softmax of the unwarped logits (nats) at each token of a continuation, given the prompt and those before it.

        Raises:
            UserError: it does not fit, or the model lacks one of the tokens.
        """

    @abstractmethod
    def alternatives(
        self, side: Side, prompt_ids: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> tuple[float, ...]:
        """`logprobs`, summed, of each of several continuations of one prompt; beginnings that they share are read once.

        Raises:
            UserError: one does not fit, or the model lacks one of the tokens.
        """

    @abstractmethod
    def likeliest(
        self, side: Side, token_ids: Sequence[int], first: int, count: int, check: Callable[[], None]
    ) -> Iterator[tuple[float, list[tuple[int, float]]]]:
        """For each token from position `first` (at least 1) on: its own log-softmax of the unwarped logits, and the `count` likeliest tokens with theirs (nats).

        `check` is called while it waits; what it raises ends it.

        Raises:
            UserError: it does not fit, the model lacks one of the tokens, or its output is not a number.
        """

    @abstractmethod
    def entropies(
        self, comparison: Comparison, side: Side, written: Written, check: Callable[[], None] = lambda: None
    ) -> tuple[float, ...]:
        """At each token of a reply that `side` drew, the entropy (nats) of what it was drawn from: after penalty, temperature and cuts.

        The reply is read by its token ids, so in portable arithmetic these are the numbers of writing it; else they are as near as
        reading is to writing. At temperature 0 nothing is drawn, and all are 0.

        Args:
            check: is called again and again; what it raises ends it.

        Raises:
            UserError: it was written with other weights, or the model's output is not a number.
        """

    @abstractmethod
    def audit(self, side: Side) -> Audit: ...

    @abstractmethod
    def elsewhere(self, comparison: Comparison) -> Steps[None, Result]:
        """The result of a comparison without history by the same models somewhere else, which has read the weights itself; a step now and then while it waits.

        Raises:
            UserError: there is no such place, or it failed there.
        """

    @abstractmethod
    def release(self) -> None:
        """Safe to call more than once."""

    @property
    def base(self) -> Card:
        return self.side("base")

    @property
    def post(self) -> Card:
        return self.side("post")

    def stop_ids(self, side: Side) -> frozenset[int]:
        """Where a side's reply ends: at the ids that end a text or a turn for either of the siblings, where they mean the same.

        Not at what ends a part before the answer in the template of this side.
        """
        own = self.side(side)
        templates = own.tokenizer if own.tokenizer.chat_template else self.post.tokenizer
        ends = self.base.stop_ids | self.post.stop_ids if self.kin.same_ids else own.stop_ids
        return ends - reasoning.part_ids(templates)

    def prompt(self, comparison: Comparison, side: Side, check: Callable[[], None] = lambda: None) -> Prompt:
        """What a side is sent; `check` as for `prompts.build`. Raises UserError when it cannot be asked this."""
        if comparison.characters > self.most:
            raise TooLong(
                f"The conversation has {comparison.characters:,} characters with its prompt, and at most {self.most:,} are read here; start a new chat, take a turn away or shorten the prompt."
            )
        own = self.side(side).tokenizer
        return prompts.build(comparison, side, own, self.post.tokenizer if self.kin.same_ids else own, check)

    def check_weights(self, side: Side, written: Written) -> None:
        """Raises UserError where a reply was written with other weights."""
        here, there = self.side(side).weights_sha256, written.weights_sha256
        if here != there:
            raise UserError(
                f"This reply was written with other weights on the {SIDE_NAMES[side]} side ({there[:8]}; here they are {here[:8]}); load those to look at it."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()
