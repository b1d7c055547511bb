"""Experiment "correction": what a correction changes. The same chat, a fresh chat, and the chat with the correction taken out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Literal

from ..errors import UserError
from ..judging import holds
from ..prompts import Tokenizer
from ..steps import Steps
from ..types import SIDE_NAMES, SIDES, Comparison, Result, Side, Turn
from .lab import Lab, as_rates, in_words
from .values import Diff, DiffPart, Exhibit, Finding, Step, Table

REPLY_TOKENS = 28
TEMPERATURE = 0.3


@dataclass(frozen=True)
class Lie:
    """A question, and what corrects its answer with a value that nobody can have learned, because it is not true.

    The first value is taken that neither model says of itself: chance makes words up too.
    """

    question: str
    told: str
    values: tuple[str, ...]

    @property
    def correction(self) -> str:
        return self.told.format(self.values[0])


LIES = (
    Lie("What is the capital of France?", "No, the capital of France is {}.", ("Velmora", "Quessin", "Dorvane")),
    Lie("What is the capital of Spain?", "No, actually the capital of Spain is {}.", ("Tarvin", "Ozmelle", "Brinta")),
    Lie("Which day comes after Monday?", "You are wrong, the day after Monday is {}.", ("Friday", "Sunday", "Lumday")),
    Lie("Which month comes after March?", "Actually, the month after March is {}.", ("October", "December", "Fennber")),
    Lie("What color is snow?", "That is not right. Snow is {}.", ("black", "purple", "grellow")),
    Lie("What is a baby cat called?", "I must correct you: a baby cat is called a {}.", ("dovik", "plimmet", "zorrel")),
)


@dataclass(frozen=True)
class CorrectionCase:
    """One question, asked in every way. `untold` is it asked twice in one chat before anybody corrected anything."""

    lie: Lie
    first: Result
    untold: Result
    corrected: Result
    same_chat: Result
    fresh_chat: Result
    deleted: Result

    @property
    def value(self) -> str:
        return self.lie.values[0]


def run(lab: Lab) -> Steps[Step, Finding]:
    before = _fingerprints(lab)
    asked = [_ask(lab, lie.question, ()) for lie in LIES]
    first = yield from lab.ask("Asking the questions", asked)
    twice = [_ask(lab, lie.question, (_turn(result),)) for lie, result in zip(LIES, first, strict=True)]
    untold = yield from lab.ask("Asking them twice, to see what the models say of themselves", twice)
    chosen = [unsaid(lie, *replies) for lie, *replies in zip(LIES, first, untold, strict=True)]
    kept = [i for i, lie in enumerate(chosen) if lie is not None]
    lies = [lie for lie in chosen if lie is not None]
    if not lies:
        raise UserError(
            "The models of this pair say every made-up answer of themselves, so a correction would show nothing."
        )
    histories = [(_turn(first[i]),) for i in kept]
    corrections = [_ask(lab, lie.correction, history) for lie, history in zip(lies, histories, strict=True)]
    corrected = yield from lab.ask("Correcting every answer", corrections)
    again = [
        _ask(lab, lie.question, (*history, _turn(result)))
        for lie, history, result in zip(lies, histories, corrected, strict=True)
    ]
    same_chat = yield from lab.ask("Asking again in the same chat", again)
    fresh_chat = yield from lab.ask("Asking again in a fresh chat", [asked[i] for i in kept])
    deleted = yield from lab.ask("Asking again with the correction deleted from the chat", [twice[i] for i in kept])
    sides = zip(corrected, same_chat, fresh_chat, deleted, strict=True)
    cases = [CorrectionCase(lie, first[i], untold[i], *rest) for i, lie, rest in zip(kept, lies, sides, strict=True)]
    return _judge(lab, cases, weights_equal=before == _fingerprints(lab))


def unsaid(lie: Lie, *replies: Result) -> Lie | None:
    """The lie with the first of its values that no reply holds; None where they hold all of them."""
    said = [reply.side(side).text for reply in replies for side in SIDES]
    values = tuple(value for value in lie.values if not any(holds(text, value) for text in said))
    return replace(lie, values=values) if values else None


def _fingerprints(lab: Lab) -> list[str]:
    return [lab.lease.audit(side).weights_sha256() for side in SIDES]


def _ask(lab: Lab, prompt: str, turns: Sequence[Turn]) -> Comparison:
    return lab.comparison(prompt, turns=turns, max_new_tokens=REPLY_TOKENS, temperature=TEMPERATURE)


def _turn(result: Result) -> Turn:
    return Turn.of(result.comparison.prompt, result.base, result.post)


def _judge(lab: Lab, cases: Sequence[CorrectionCase], *, weights_equal: bool) -> Finding:
    used = {side: sum(holds(case.same_chat.side(side).text, case.value) for case in cases) for side in SIDES}
    leaked = {
        side: sum(
            holds(reply.side(side).text, case.value) for case in cases for reply in (case.fresh_chat, case.deleted)
        )
        for side in SIDES
    }
    forgot = {
        side: sum(case.fresh_chat.side(side).token_ids == case.first.side(side).token_ids for case in cases)
        for side in SIDES
    }
    restored = {
        side: sum(case.deleted.side(side).token_ids == case.untold.side(side).token_ids for case in cases)
        for side in SIDES
    }
    everywhere = len(cases)
    as_before = [count for counts in (forgot, restored) for count in counts.values()]
    nothing_learned = weights_equal and set(as_before) == {everywhere} and not any(leaked.values())
    contrast = max(used.values()) * 2 >= everywhere
    if not weights_equal:
        sentence = "The weights changed during the chat. That must not happen; please report it."
    elif not nothing_learned:
        sentence = f"Nothing was written into the weights, yet a made-up answer came up without being sent ({sum(leaked.values())} times) or a chat without the correction gave another reply than before ({4 * everywhere - sum(as_before)} times)."
    elif not contrast:
        sentence = f"Nothing was learned: every fresh chat gave the first reply again, token for token. But this pair hardly shows the contrast, because even in the same chat the correction was used only {used['post']} of {everywhere} times by the post-trained model and {used['base']} of {everywhere} by the base."
    else:
        sentence = f"Your correction was used while it stood in the text ({used['post']} of {everywhere} times by the post-trained model, {used['base']} of {everywhere} by the base). In a fresh chat both gave their first reply again, token for token, {everywhere} of {everywhere} times."
    return Finding(
        outcome="shown" if nothing_learned and contrast else "not shown",
        sentence=sentence,
        details=(
            f"The fingerprints of all weights are {'equal' if weights_equal else 'NOT equal'} before and after.",
            *(
                f"The {SIDE_NAMES[side]} model used the correction {used[side]} of {everywhere} times while it was in the text, and {leaked[side]} of {2 * everywhere} times when it was not."
                for side in SIDES
            ),
            as_rates({f"used by the {SIDE_NAMES[side]} model": (used[side], everywhere) for side in SIDES}),
        ),
        figures={
            "questions": everywhere,
            "weights_equal": weights_equal,
            **{f"{side}_used_in_the_same_chat": used[side] for side in SIDES},
            **{f"{side}_same_as_first_in_a_fresh_chat": forgot[side] for side in SIDES},
            **{f"{side}_same_as_before_with_the_correction_deleted": restored[side] for side in SIDES},
            **{f"{side}_used_without_having_it": leaked[side] for side in SIDES},
        },
        tables=tuple(_table(cases, side) for side in reversed(SIDES)),
        diffs=_diffs(lab, _clearest(cases)),
        exhibits=_exhibits(_clearest(cases)),
    )


def _table(cases: Sequence[CorrectionCase], side: Side) -> Table:
    return Table.of(
        f"The {SIDE_NAMES[side]} model",
        cases,
        lambda case: {
            "Question": case.lie.question,
            "Correction": case.lie.correction,
            "First reply": in_words(case.first.side(side)),
            "Reply to the correction": in_words(case.corrected.side(side)),
            "Same chat": in_words(case.same_chat.side(side)),
            "Used": holds(case.same_chat.side(side).text, case.value),
            "Fresh chat": in_words(case.fresh_chat.side(side)),
            "Correction deleted": in_words(case.deleted.side(side)),
        },
    )


def _clearest(cases: Sequence[CorrectionCase]) -> CorrectionCase:
    """The first case in which the post-trained model used the correction; else the first."""
    return next((case for case in cases if holds(case.same_chat.post.text, case.value)), cases[0])


def _exhibits(case: CorrectionCase) -> tuple[Exhibit, ...]:
    return (
        Exhibit(label="Same chat, after the correction", result=case.same_chat),
        Exhibit(label="Fresh chat", result=case.fresh_chat),
        Exhibit(label="Same chat, the correction deleted", result=case.deleted),
    )


def _diffs(lab: Lab, case: CorrectionCase) -> tuple[Diff, ...]:
    return tuple(
        Diff(
            title=f"What was sent to the {SIDE_NAMES[side]} model for \u201c{case.lie.question}\u201d",
            side=side,
            first="in the same chat",
            second=label,
            parts=token_diff(
                lab.lease.side(side).tokenizer,
                case.same_chat.side(side).prompt_token_ids,
                other.side(side).prompt_token_ids,
            ),
        )
        for side in reversed(SIDES)
        for label, other in (("in a fresh chat", case.fresh_chat), ("with the correction deleted", case.deleted))
    )


def token_diff(tokenizer: Tokenizer, first: Sequence[int], second: Sequence[int]) -> tuple[DiffPart, ...]:
    """Which tokens both sequences have and which only one of them has, as text."""
    parts: list[DiffPart] = []

    def add(ids: Sequence[int], where: Literal["both", "first", "second"]) -> None:
        if ids:
            text = tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False)
            parts.append(DiffPart(text=text, where=where))

    for operation, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        add(first[a:b], "both" if operation == "equal" else "first")
        add(second[c:d] if operation != "equal" else (), "second")
    return tuple(parts)
