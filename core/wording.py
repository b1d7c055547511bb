"""Verdicts, differences and lenses in words, for the command line and the page."""

from collections.abc import Iterator

from .difference import Difference, InputDifference, ReplyDivergence, Stretch, shorten
from .study.receipt import StudyVerdict
from .types import SIDE_NAMES, SIDES, Divergence, LensReport, Shift, Side, SideVerdict, Verdict

MAX_WARNINGS = 12


def headline(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    if verdict.outcome == "not replayable":
        return "Not replayable here."
    if verdict.outcome == "diverged":
        sides = [side for side in SIDES if (found := verdict.side(side)) and found.divergence]
        return f"Diverged: the replay is not the recorded run ({' and '.join(SIDE_NAMES[side] for side in sides)})."
    drifts = [found.drift for side in SIDES if (found := verdict.side(side))]
    if all(drift == 0 for drift in drifts):
        where = ": in portable arithmetic any machine gives these bits" if verdict.portable else ""
        return f"Identical, bit for bit{where}."
    return "Identical: every token is the same."


def study_verdict_lines(verdict: StudyVerdict) -> list[str]:
    """What came of the replay of a study, and what it covered."""
    if verdict.outcome == "not replayable":
        return ["Not replayable here.", *verdict.reasons]
    whole = verdict.covered == verdict.cells
    covered = (
        f"all {verdict.cells:,} replies"
        if whole
        else f"{verdict.covered:,} of {verdict.cells:,} replies, chosen by the seed {verdict.sample_seed}"
    )
    same = "every one the same" if not verdict.differ else f"{len(verdict.differ):,} of them not the same"
    head = "Identical" if verdict.outcome == "identical" else "Diverged"
    told = [f"{head}: {covered} were run again, {same}.", *verdict.reasons]
    told += [f"Not the same: {name}." for name in verdict.differ[:MAX_WARNINGS]]
    left = len(verdict.differ) - MAX_WARNINGS
    return [*told, f"And {left:,} more."] if left > 0 else told


def side_sentences(side: Side, verdict: SideVerdict) -> list[str]:
    """What came of one side."""
    name = SIDE_NAMES[side].capitalize()
    if verdict.divergence is None:
        return [f"{name}: {verdict.tokens:,} tokens, all the same{_drift(verdict)}."]
    divergence = verdict.divergence
    first = f"{name}: the first {divergence.step:,} tokens are the same{_drift(verdict)}; at token {divergence.step + 1:,} they diverge."
    if divergence.recorded.id is None or divergence.replayed.id is None:
        return [
            first,
            f"Recorded: {_choice(divergence, 'recorded')}. Replayed: {_choice(divergence, 'replayed')}.",
            "One reply ends where the other goes on, which rounding cannot do: the receipt or the models are not what they say.",
        ]
    if divergence.recorded == divergence.replayed:
        return [
            f"{first[: -len('they diverge.')]}the same token was drawn by another margin: {divergence.recorded_margin!r} recorded, {divergence.replayed_margin!r} here.",
            judgement(divergence),
        ]
    return [
        first,
        f"Recorded: {_choice(divergence, 'recorded')}, ahead by {_nats(divergence.recorded_margin)}. Replayed: {_choice(divergence, 'replayed')}, ahead of it by {_nats(divergence.replayed_margin)}.",
        judgement(divergence),
    ]


def _drift(verdict: SideVerdict) -> str:
    if verdict.drift is None:
        return " (the receipt holds no margins)"
    return ", margins to the last bit" if verdict.drift == 0 else f", margins moved by up to {verdict.drift:.2g} nats"


def _choice(divergence: Divergence, which: str) -> str:
    choice = divergence.recorded if which == "recorded" else divergence.replayed
    if choice.id is None:
        return choice.text
    logit = "" if choice.logit is None else f" with logit {choice.logit:.6g}"
    return f"{token(choice.text, choice.id)}{logit}"


def _nats(value: float | None) -> str:
    return "an unknown margin" if value is None else f"{value:.3g} nats"


def judgement(divergence: Divergence) -> str:
    """Whether rounding can have done it."""
    if divergence.within_drift is None:
        return "How far the numbers moved cannot be told here, because the recorded token was ruled out or its margin is unknown."
    moved = f"The two scores moved against each other by {_nats(divergence.shift)}"
    if divergence.within_drift:
        return f"{moved}; other hardware or libraries may round that far (up to {_nats(divergence.allowance)}), so this is numeric drift."
    if divergence.allowance == 0:
        return f"{moved}; the engine fingerprint is the same, so nothing may move: the receipt is not of this run, or this is a fault of the app worth reporting."
    return f"{moved}; rounding explains {_nats(divergence.allowance)} at most, so something else differs."


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """The whole verdict as plain text."""
    yield headline(verdict)
    yield from (f"  {reason}" for reason in verdict.reasons)
    for side in SIDES:
        found = verdict.side(side)
        if found is not None:
            yield from (f"  {sentence}" for sentence in side_sentences(side, found))
    yield from (f"  Note: {warning}" for warning in verdict.warnings[:MAX_WARNINGS])
    if len(verdict.warnings) > MAX_WARNINGS:
        yield f"  Note: {len(verdict.warnings) - MAX_WARNINGS} more differences of the engine."


# --- differences --------------------------------------------------------------------------------------


def explanation(difference: Difference) -> str:
    """What two receipts have to do with each other, in one sentence."""
    count = len(difference.inputs)
    inputs = "No input differs" if not count else f"{count} input{'s differ' if count > 1 else ' differs'}"
    if difference.unexplained:
        return f"{inputs}, but the replies do: this must not happen. One of the receipts is not of the run that it names, or the app broke its promise; please report it with both receipts."
    if not difference.divergences:
        return f"{inputs}, and the replies are the same, token for token."
    return f"{inputs}, and so do the replies." if count > 1 else f"{inputs}, and the replies differ."


def difference_lines(difference: Difference) -> Iterator[str]:
    """The whole difference as plain text."""
    yield explanation(difference)
    for found in difference.inputs:
        yield f"  {found.name}: {_change(found)}"
    for side, changes in difference.sent.items():
        yield f"  sent to the {SIDE_NAMES[side]} side: {marked(changes)}"
    yield from (f"  {divergence_sentence(divergence)}" for divergence in difference.divergences)


def divergence_sentence(divergence: ReplyDivergence) -> str:
    """Where one side's two replies diverge."""
    first = token(divergence.first_text, divergence.first_id)
    second = token(divergence.second_text, divergence.second_id)
    margins = f" (margins {_nats(divergence.first_margin)} and {_nats(divergence.second_margin)})"
    return f"{SIDE_NAMES[divergence.side].capitalize()} replies diverge at token {divergence.step + 1:,}: {first} and {second}{margins}."


def token(text: str | None, id: int | None) -> str:
    """A token as text, with its id, which a place in a reply could be taken for."""
    if id is None:
        return "the end"
    return f"the token with id {id}" if text is None else f"{text!r} (id {id})"


def _change(found: InputDifference) -> str:
    return marked(found.stretches) if found.stretches else f"{found.first} -> {found.second}"


def marked(changes: tuple[Stretch, ...]) -> str:
    """A diff of texts on one line: [-removed-] {+added+}."""
    marks = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
    return "".join(marks[part.kind].format(part.text) for part in shortened(changes))


def shortened(changes: tuple[Stretch, ...]) -> list[Stretch]:
    """The same diff with the inside of long unchanged stretches left out."""
    last = len(changes) - 1
    return [
        part
        if part.kind != "same"
        else Stretch(kind="same", text=shorten(part.text, "start" if i == 0 else "end" if i == last else "middle"))
        for i, part in enumerate(changes)
    ]


# --- the token lens --------------------------------------------------------------------------------


def lens_lines(report: LensReport) -> list[str]:
    """What a lens says about the whole reply, then a line for each token."""
    lens, summary = report.lens, report.summary
    read = "the same token ids" if lens.context == "identical" else "its own framing of the conversation"
    first = "never" if summary.first_divergence is None else f"at token {summary.first_divergence + 1:,}"
    shares = summary.shares
    return [
        f"{SIDE_NAMES[lens.side].capitalize()} reply, {summary.tokens:,} tokens; the sibling reads {read}",
        f"{shares.unshifted:.0%} unshifted, {shares.marginal:.0%} marginal, {shares.shifted:.0%} shifted",
        f"KL(post-trained || base) {summary.mean_kl:.3f} nats on average, {summary.mean_kl_first_5:.3f} over the first five tokens; Jensen-Shannon {summary.mean_js:.3f}",
        f"With common random numbers the models agree on {summary.observed_agreement:.0%} of the tokens ({summary.expected_agreement:.0%} expected); they first diverge {first}",
        "",
        f"{'no.':>5}  {'KL':>7}  {'log-ratio':>9}  {'rank base':>9}  {'rank post':>9}  {'class':<9}  token",
        *(_lens_line(shift) for shift in lens.shifts),
    ]


def _lens_line(shift: Shift) -> str:
    return f"{shift.step + 1:>5}  {shift.kl:>7.3f}  {shift.log_ratio:>+9.3f}  {shift.rank_base:>9,}  {shift.rank_post:>9,}  {shift.shift_class:<9}  {shift.text!r}"
