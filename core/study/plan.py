"""What a study asks: prompts, seeds and checkpoints, as one frozen value. Who writes the replies is not known here."""

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, StringConstraints, model_validator

from .. import canonical
from ..types import MAX_SEED, Comparison, Conversation, Date, Framing, Sampling, Side, Switches, Text, Value
from .checks import Check

FEWEST_SEEDS, DEFAULT_SEEDS, MOST_SEEDS = 8, 64, 1_024  # of one prompt alone; a suite may have fewer
MOST_PROMPTS = 1_000
MOST_CELLS, MOST_CHARACTERS, MOST_TURNS = 20_000, 500_000, 1_000  # what a receipt of one study holds

_Name = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class StudyPrompt(Value):
    """One row of a suite: what is asked, how it is filed, and the check that its replies ought to pass."""

    prompt: Text
    conversation: Conversation = Conversation()
    category: Annotated[str, StringConstraints(max_length=200)] = ""
    expect: Check | None = None


class Arm(Value):
    """Whose replies are counted together: a checkpoint of a pair, under one framing."""

    pair: _Name
    side: Side
    framing: Framing


class Contrast(Value):
    """Two arms that are held against each other, the base first, and what is the same for both."""

    title: str
    base: Arm
    post: Arm

    def arm(self, side: Side) -> Arm:
        return self.base if side == "base" else self.post


class StudyCell(NamedTuple):
    """One reply of a study: the prompt and the repetition by their indices, and whose reply."""

    prompt: int
    repetition: int
    arm: Arm


class StudyPlan(Value):
    """Everything that can change the replies of a study, and the checks that they are held against.

    `sampling.seed` is the seed of the study. `seeds` is how often each prompt is asked; at temperature 0 that is once,
    for every repetition would be the same. With `crossed` both checkpoints are also asked under each other's
    framing, since two things changed between them: the weights and the template. With `branching` every reply is read once more
    for the entropy of what each of its tokens was drawn from.
    """

    schema_version: Literal[1] = 1
    prompts: tuple[StudyPrompt, ...] = Field(min_length=1, max_length=MOST_PROMPTS)
    pairs: tuple[_Name, ...] = Field(min_length=1, max_length=20)
    seeds: int = Field(default=DEFAULT_SEEDS, ge=1, le=MOST_SEEDS)
    sampling: Sampling
    framing_base: Framing = "document"
    framing_post: Framing = "chat"
    crossed: bool = True
    today: Date
    chat_template_kwargs: Switches = Field(default={})
    checks: tuple[Check, ...] = Field(default=(), max_length=20)
    branching: bool = Field(default=False, exclude_if=lambda asked: not asked)

    @model_validator(mode="after")
    def _counts(self) -> "StudyPlan":
        if len(self.prompts) == 1 and self.repetitions not in (1, *range(FEWEST_SEEDS, MOST_SEEDS + 1)):
            raise ValueError(f"one prompt needs {FEWEST_SEEDS} to {MOST_SEEDS:,} seeds")
        if self.total > MOST_CELLS:
            raise ValueError(
                f"it would be {self.total:,} replies, and at most {MOST_CELLS:,} fit into a study; take fewer prompts or seeds"
            )
        conversations = [row.conversation for row in self.prompts]
        characters = sum(len(row.prompt) + row.conversation.characters for row in self.prompts)
        if characters > MOST_CHARACTERS or sum(len(each.turns) for each in conversations) > MOST_TURNS:
            raise ValueError(
                f"at most {MOST_CHARACTERS:,} characters and {MOST_TURNS:,} earlier turns fit into a study; take fewer prompts"
            )
        return self

    @property
    def repetitions(self) -> int:
        return self.seeds if self.sampling.temperature else 1

    @property
    def total(self) -> int:
        """How many cells there are."""
        return len(self.prompts) * self.repetitions * len(self.arms())

    def contrasts(self) -> tuple[Contrast, ...]:
        """For each pair the checkpoints as they are used, then both under one framing."""
        own = (self.framing_base, self.framing_post)
        framings = {"each under its own framing": own}
        if self.crossed and self.framing_base != self.framing_post:
            framings |= {f"both under {framing}": (framing, framing) for framing in own}
        return tuple(
            Contrast(
                title=title,
                base=Arm(pair=pair, side="base", framing=base),
                post=Arm(pair=pair, side="post", framing=post),
            )
            for pair in self.pairs
            for title, (base, post) in framings.items()
        )

    def own(self) -> tuple[Contrast, ...]:
        """For each pair the checkpoints as they are used."""
        contrasts = self.contrasts()
        return tuple(each for each in contrasts if each.title == contrasts[0].title)

    def arms(self) -> tuple[Arm, ...]:
        found = [arm for contrast in self.contrasts() for arm in (contrast.base, contrast.post)]
        return tuple(dict.fromkeys(found))

    def cells(self) -> Iterator[StudyCell]:
        """In the order in which they are run: pair by pair, so that one is in memory at a time; siblings side by side."""
        for pair in self.pairs:
            arms = [arm for arm in self.arms() if arm.pair == pair]
            for prompt in range(len(self.prompts)):
                for repetition in range(self.repetitions):
                    yield from (StudyCell(prompt, repetition, arm) for arm in arms)

    def seed(self, prompt: int, repetition: int) -> int:
        """The seed of a repetition, the same for every checkpoint: the first 52 bits of the sha256 of the study's seed, the conversation, the prompt and the index.

        So no two prompts share their luck, and more repetitions leave those that were there as they were.
        """
        row = self.prompts[prompt]
        named = [self.sampling.seed, canonical.dump(row.conversation), row.prompt, repetition]
        return int(canonical.sha256(named)[:13], 16) & MAX_SEED

    def comparison(self, cell: StudyCell) -> Comparison:
        """What a cell's side is asked. The other side is framed likewise; only the cell's own is run."""
        row = self.prompts[cell.prompt]
        return Comparison(
            pair=cell.arm.pair,
            conversation=row.conversation,
            prompt=row.prompt,
            sampling=self.sampling.model_copy(update={"seed": self.seed(cell.prompt, cell.repetition)}),
            framing_base=cell.arm.framing,
            framing_post=cell.arm.framing,
            today=self.today,
            chat_template_kwargs=self.chat_template_kwargs,
        )
