"""Experiment "weights": training is over. The bytes of both models before and after a chat that corrects them."""

from ..steps import Steps
from ..types import SIDE_NAMES, SIDES, Result, Side, Turn, named
from .lab import Lab, in_words
from .values import Exhibit, Finding, Step, Table

PROMPTS = (
    "What is the capital of France?",
    "No, the capital of France is Velmora.",
    "Please remember that for ever.",
    "What is the capital of France?",
)
REPLY_TOKENS = 32


def run(lab: Lab) -> Steps[Step, Finding]:
    before = yield from _fingerprints(lab, "before")
    results: list[Result] = []
    turns: list[Turn] = []
    for number, prompt in enumerate(PROMPTS, 1):
        comparison = lab.comparison(prompt, turns=turns, max_new_tokens=REPLY_TOKENS)
        (result,) = yield from lab.ask(f"Chatting, turn {number} of {len(PROMPTS)}", [comparison])
        results.append(result)
        turns.append(Turn.of(prompt, result.base, result.post))
    after = yield from _fingerprints(lab, "after")
    trained = {side: lab.lease.audit(side).gradients() for side in SIDES}
    return _judge(lab, before, after, trained, results)


def _fingerprints(lab: Lab, when: str) -> Steps[Step, dict[Side, str]]:
    doing = f"Taking the fingerprint of every weight {when} the chat"
    return (yield from lab.each(doing, SIDES, lambda side: lab.lease.audit(side).weights_sha256()))


def _judge(
    lab: Lab, before: dict[Side, str], after: dict[Side, str], gradients: dict[Side, int], results: list[Result]
) -> Finding:
    changed = [side for side in SIDES if not before[side] == after[side] == lab.lease.side(side).weights_sha256]
    grew = {side: [len(result.side(side).prompt_token_ids) for result in results] for side in SIDES}
    growing = all(earlier < later for side in SIDES for earlier, later in zip(grew[side], grew[side][1:], strict=False))
    shown = not changed and not any(gradients.values()) and growing
    first, last = grew["post"][0], grew["post"][-1]
    if shown:
        sentence = f"Not one byte of the weights changed in {len(results)} turns. What grew is the text that is sent: from {first} tokens to {last} for the post-trained model."
    elif changed:
        sentence = (
            f"The weights of the {named(changed)} model are not what they were. That must not happen; please report it."
        )
    else:
        sentence = f"The weights stayed, but {sum(gradients.values())} parameters could receive gradients or the text did not grow; that must not happen."
    return Finding(
        outcome="shown" if shown else "not shown",
        sentence=sentence,
        details=(
            f"Each fingerprint is the sha256 of all {lab.lease.base.info.parameters + lab.lease.post.info.parameters:,} numbers of the two models, read back from the memory they are computed in.",
            "A model learns by gradients. None of these parameters has one, and none would get one.",
        ),
        figures={
            **{f"{side}_sha256_before": before[side] for side in SIDES},
            **{f"{side}_sha256_after": after[side] for side in SIDES},
            **{f"{side}_parameters_with_gradients": gradients[side] for side in SIDES},
        },
        tables=(_fingerprint_table(before, after, gradients), _chat_table(results)),
        exhibits=(Exhibit(label="The last turn, with the whole chat before it", result=results[-1]),),
    )


def _fingerprint_table(before: dict[Side, str], after: dict[Side, str], gradients: dict[Side, int]) -> Table:
    return Table.of(
        "Fingerprints of the weights",
        SIDES,
        lambda side: {
            "Model": SIDE_NAMES[side],
            "Before the chat": before[side][:16],
            "After the chat": after[side][:16],
            "Same": before[side] == after[side],
            "Parameters with a gradient": gradients[side],
        },
    )


def _chat_table(results: list[Result]) -> Table:
    return Table.of(
        "What was sent, turn by turn",
        range(len(results)),
        lambda i: {
            "Turn": i + 1,
            "Prompt": results[i].comparison.prompt,
            "Tokens sent to base": len(results[i].base.prompt_token_ids),
            "Tokens sent to post-trained": len(results[i].post.prompt_token_ids),
            "Post-trained replies": in_words(results[i].post),
        },
    )
