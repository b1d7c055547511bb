"""What happens on the Studies tab, as plain functions and generators of views: no widgets in here."""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ... import links
from ...errors import UserError
from ...pairs import Pair, against_the_first, find_pair, label
from ...pool import Pool
from ...steps import Stop, seldom, watch
from ...study import served, suite
from ...study.checks import read_check
from ...study.link import SharedStudy
from ...study.plan import DEFAULT_SEEDS, Arm, StudyCell, StudyPlan, StudyPrompt
from ...study.run import StudyProgress
from ...study.served import Study
from ...study.suite import read_suite
from ...types import SIDES, Conversation, LensChoice, Sampling, Side, explain, in_common
from ..sidebar import Choices

SEEDS_OF_A_SUITE = 4
TOKENS = 40  # of a reply, at most, where nothing else is said
PERIOD = 0.25  # seconds between two views of what is under way
ONE, OWN = (
    "one",
    "own",
)  # what is asked: one prompt, or a suite that somebody brought, or else one that comes with the app


@dataclass(frozen=True)
class Suite:
    """A suite that somebody brought: its file's name, and its rows."""

    name: str
    rows: tuple[StudyPrompt, ...]


@dataclass(frozen=True)
class View:
    """How far a study is; at its end what was counted, or what went wrong, or both."""

    busy: bool
    progress: StudyProgress | None = None
    study: Study | None = None
    mistake: str = ""


def take(file: Path) -> Suite:
    """Read a suite that was dropped, and remove the server's copy of it.

    Raises:
        UserError: it cannot be read, or a row cannot be asked.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(suite.MOST_BYTES + 1)
    finally:
        file.unlink()
    return Suite(file.name, read_suite(file.name, data))


@dataclass(frozen=True)
class Fields:
    """What the page's fields are for a plan that somebody shared."""

    chosen: Choices
    asked: str
    prompt: str
    brought: Suite | None
    staged: bool


def fields(pool: Pool, shared: StudyPlan) -> Fields:
    """Those with which the page asks the same study.

    Raises:
        UserError: this page does not have its pairs.
    """
    lineages = (pair for pair in pool.pairs if pair.stages and _of_stages(pair) == shared.pairs)
    lineage = next(lineages, None)
    if lineage is None and len(shared.pairs) > 1:
        raise UserError(
            "This study is of several pairs, which this page asks together only where they are the stages of one; run it on the command line, from its receipt."
        )
    pair = lineage or find_pair(pool.pairs, shared.pairs[0])
    [first, *more], asked, brought = shared.prompts, OWN, None
    if (
        first == StudyPrompt(prompt=first.prompt, conversation=Conversation(system=first.conversation.system))
        and not more
    ):
        asked = ONE
    else:
        asked = next((name for name in suite.NAMES if suite.own_suite(name) == shared.prompts), OWN)
        brought = Suite("the suite of the link", shared.prompts) if asked == OWN else None
    system = first.conversation.system if asked == ONE else ""
    chosen = Choices(**{**in_common(shared, Choices), "pair": pair.id, "system": system})
    return Fields(chosen, asked, first.prompt if asked == ONE else "", brought, lineage is not None)


def as_shared(asked: StudyPlan, shared: SharedStudy | None) -> tuple[StudyPlan, SharedStudy | None]:
    """What is asked, as it was shared where nothing but the day is another; and what it is then held against."""
    if shared is not None and asked.model_copy(update={"today": shared.plan.today}) == shared.plan:
        return shared.plan, shared
    return asked, None


def seeds_for(asked: str) -> int:
    """How often each prompt is asked where nothing else is said."""
    return DEFAULT_SEEDS if asked == ONE else SEEDS_OF_A_SUITE


def plan(
    chosen: Choices,
    asked: str,
    prompt: str,
    brought: Suite | None,
    *,
    seeds: Any,
    tokens: Any,
    tests: str,
    crossed: bool,
    branching: bool = False,
    pairs: tuple[str, ...] = (),
) -> StudyPlan:
    """What is asked, of what the page holds; `tests` are one in a line, `pairs` those to ask instead of the one beside it.

    Raises:
        UserError: something is missing or out of range.
    """
    if seeds is None or tokens is None:
        raise UserError(f"{'Seeds' if seeds is None else 'Longest reply'} is empty; type a number.")
    try:
        return StudyPlan(
            prompts=_prompts(chosen, asked, prompt, brought),
            pairs=pairs or (chosen.pair,),
            seeds=seeds,
            sampling=Sampling.model_validate({**dict(chosen.sampling), "max_new_tokens": tokens}),
            framing_base=chosen.framing_base,
            framing_post=chosen.framing_post,
            crossed=crossed,
            today=date.today().isoformat(),
            chat_template_kwargs=chosen.chat_template_kwargs,
            checks=tuple(read_check(line.strip()) for line in tests.splitlines() if line.strip()),
            branching=branching,
        )
    except ValidationError as error:
        raise explain(error) from None


def _prompts(chosen: Choices, asked: str, prompt: str, brought: Suite | None) -> tuple[StudyPrompt, ...]:
    if asked in suite.NAMES:
        return suite.own_suite(asked)
    if asked == OWN:
        if brought is None:
            raise UserError("This suite is no longer in memory here; drop its file again.")
        return brought.rows
    if not prompt.strip():
        raise UserError("Type a prompt first: it is what both models are asked, again and again.")
    return (StudyPrompt(prompt=prompt, conversation=Conversation(system=chosen.system)),)


def stages_told(pair: Pair) -> str:
    names = ", ".join(stage.name for stage in pair.stages)
    return f"Every stage of the training, each held against the first: {names}"


def stages(pool: Pool, id: str) -> tuple[str, ...]:
    """The pairs of the first stage of a lineage with each of the others, known to the pool from now on, by their ids.

    Raises:
        UserError: of this pair none are known.
    """
    pair = find_pair(pool.pairs, id)
    if not pair.stages:
        raise UserError(f"No stages are known of {pair.title}; untick them, or choose another pair.")
    for each in against_the_first([each.source for each in pair.stages], pair):
        pool.add(each)
    return _of_stages(pair)


def _of_stages(pair: Pair) -> tuple[str, ...]:
    return tuple(each.id for each in against_the_first([each.source for each in pair.stages], pair))


def perform(pool: Pool, asked: StudyPlan, before: Study | None, stop: Stop) -> Generator[View, None, None]:
    """Run a study; replies that the one before had are not written again. Closing the generator stops what is under way."""
    try:
        yield View(busy=True)
        steps = served.perform(pool, asked, stop, before.image if before else None)
        study = yield from watch(seldom(steps, PERIOD), lambda progress: View(busy=True, progress=progress))
        yield View(busy=False, study=study, mistake=study.ended)
    except UserError as error:
        yield View(busy=False, mistake=str(error))


def held(study: Study | None) -> Study:
    """Raises UserError when the session that held it was lost."""
    if study is None:
        raise UserError("This study is no longer in memory here; run it again.")
    return study


def cell(found: Study | None, data: Any) -> tuple[Study, StudyCell]:
    """The study that is held, and the cell that a browser names by (prompt, repetition, arm), each from 0.

    Raises:
        UserError: there is none.
    """
    study = held(found)
    arms = study.plan.arms()
    bounds = (len(study.plan.prompts), study.plan.repetitions, len(arms))
    match data:
        case [int() as prompt, int() as repetition, int() as arm] if all(
            0 <= at < bound for at, bound in zip(data, bounds, strict=True)
        ):
            return study, StudyCell(prompt, repetition, arms[arm])
    raise UserError("There is no such reply in this study; run it again.")


def shared(study: Study, at: StudyCell) -> links.Shared:
    """A cell with its sibling at the same seed, as a comparison that Compare writes again to the token."""
    contrast = next(each for each in study.plan.contrasts() if at.arm in (each.base, each.post))
    return _shared(study, at, {side: contrast.arm(side) for side in SIDES}, at.arm.pair)


def _shared(study: Study, at: StudyCell, arms: dict[Side, Arm], pair: str) -> links.Shared:
    framed = {f"framing_{side}": arm.framing for side, arm in arms.items()}
    written = study.written()
    writers = {(writer.pair, writer.side): writer.fingerprint for writer in study.report.receipt.writers}
    outputs: dict[Side, links.Output] = {}
    for side, arm in arms.items():
        own, by = at._replace(arm=arm), writers.get((arm.pair, arm.side))
        if own in written and by is not None:
            outputs[side] = links.output(written[own].side_receipt(study.plan, own, by))
    comparison = study.plan.comparison(at).model_copy(update={**framed, "pair": pair})
    return links.Shared(comparison=comparison, base=outputs.get("base"), post=outputs.get("post"))


# --- the lens between two stages ---------------------------------------------------------------------------


def lineage(pool: Pool, plan: StudyPlan) -> list[tuple[str, Arm]]:
    """What names the model of each stage of a study, and whose replies are its own; nothing where its pairs have no first stage in common."""
    pairs = {pair.id: pair for pair in pool.pairs}
    own = plan.own()
    if len(own) < 2 or len({pairs[each.base.pair].base if each.base.pair in pairs else id(each) for each in own}) > 1:
        return []
    return [
        (pairs[own[0].base.pair].base, own[0].base),
        *((pairs[each.post.pair].post, each.post) for each in own),
    ]


def lenses(pool: Pool, plan: StudyPlan) -> list[tuple[str, str]]:
    """What a seed can open: its own pair, and where there are stages the lens between any two of them."""
    names = [label(spec) for spec, _ in lineage(pool, plan)]
    between = combinations(range(len(names)), 2)
    return [("Compare", ""), *((f"The lens between {names[a]} and {names[b]}", f"{a},{b}") for a, b in between)]


def between(pool: Pool, study: Study, at: StudyCell, which: str) -> links.Shared:
    """The replies of two stages at the seed of a cell, as a comparison of a pair of the two, and the lens on the one that was pressed.

    Raises:
        UserError: there are no such two.
    """
    found = lineage(pool, study.plan)
    if which not in [chosen for _, chosen in lenses(pool, study.plan)]:
        raise UserError("There are no such two stages in this study; run it again.")
    (first, base), (second, post) = (found[int(number)] for number in which.split(","))
    like = find_pair(pool.pairs, post.pair)
    [pair] = against_the_first([first, second], like)
    pool.add(pair)
    opened = _shared(study, at, {"base": base, "post": post}, pair.id)
    side: Side = "base" if at.arm == base else "post"
    return opened.model_copy(update={"lens": LensChoice(side=side, context="identical")})
