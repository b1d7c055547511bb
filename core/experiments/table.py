"""The experiments as rows of a table: what people believe, what is run, how it is judged, what to look at.

No row holds a figure of a model: every number that is shown comes from the run.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UserError
from ..steps import Steps
from . import answers, correction, costume, cutoff, inputs, ledger, repeat, weights
from .lab import Lab
from .values import Finding, Step


@dataclass(frozen=True)
class Experiment:
    """One row. `text` is for a curious fifteen-year-old; `example` is one of the prompts that are sent; `comparisons` is about how many are."""

    name: str
    topic: str
    title: str
    belief: str
    example: str
    text: str
    runs: str
    judged: str
    look: str
    comparisons: int
    run: Callable[[Lab], Steps[Step, Finding]]


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="weights",
        topic="Training",
        title="Training is over",
        belief="The model learns from our chat.",
        example=weights.PROMPTS[2],
        text="A language model is a very long list of numbers, its weights. Training set them, once. When you chat, the numbers are only read, like a book in a library: you can read it a thousand times and no letter in it moves. So why does the model seem to remember what you said a minute ago? Because the whole chat is sent again every time you press the button. Here we photograph every weight of both models before and after a chat in which we correct them and ask them to remember it for ever.",
        runs="The fingerprint of all weights where they are computed, a chat that corrects the models, and the fingerprint again.",
        judged="Shown when both fingerprints are equal, no weight has a gradient, and the text that is sent grew with every turn.",
        look="The two fingerprints of each model, and the number of tokens sent, turn by turn.",
        comparisons=4,
        run=weights.run,
    ),
    Experiment(
        name="repeat",
        topic="Randomness",
        title="Same inputs, same output",
        belief="It is moody: ask twice and you get two answers.",
        example=repeat.PROMPT,
        text="A model rolls dice to choose each word, so it seems to have moods. But in a computer even dice are calculated: from a number called the seed. Send the same text with the same seed and the same settings, and every roll comes out the same, so the reply must be the same too, whoever else is using the machine. The temperature says how daring the dice are. At temperature zero there are no dice at all and the seed does not matter. We repeat one question again and again, alone, in a crowd, and even in a freshly started program.",
        runs="One comparison many times, alone, among random neighbours and in a new process; then other seeds, temperature zero, and a rising temperature.",
        judged="Shown when every repetition is identical, token by token and bit by bit, and the seed changes nothing at temperature zero.",
        look="The number of identical repetitions, and where the reply leaves its old path as the temperature rises.",
        comparisons=63,
        run=repeat.run,
    ),
    Experiment(
        name="correction",
        topic="Memory",
        title="Your correction teaches nobody",
        belief="If I correct it, it will know better next time.",
        example=correction.LIES[0].correction,
        text="You tell the model that it is wrong. It says sorry and uses your answer from then on. Has it learned? Let us cheat to find out: we correct it with made-up answers that nobody taught it. Then we ask again in three places: in the same chat, in a fresh chat, and in the same chat after crossing out the correction. The seed is the same throughout, so luck plays no part. Watch which text was really sent. If the correction is in it, the model can copy it. If it is not, where should the model have it from?",
        runs="Several questions; a made-up correction for each, with an answer that neither model gave of itself; the question again in the same chat, in a fresh chat, and in the chat without the correction.",
        judged="Shown when every fresh chat, and every chat without the correction, repeats what was written before it token for token, no made-up answer appears without having been sent, the weights are equal, and one model used at least half of the corrections inside the chat.",
        look="The tokens that were sent to the same model each time, side by side with its replies.",
        comparisons=36,
        run=correction.run,
    ),
    Experiment(
        name="cutoff",
        topic="Knowledge",
        title="The cutoff is not negotiable",
        belief="It knows; it only has to be pushed.",
        example=cutoff.INSISTING,
        text="A model was fed with text until a certain day. What happened later cannot be in its weights, just as a photo cannot show the day after it was taken. If you insist, it may give in and make something up, but pushing puts no knowledge into it. Putting the fact into the prompt does: then the model only has to copy. That is how assistants with a search function know the news. And we can look where the text ended without asking: we let the model complete sentences with a date and measure how much it expects each year.",
        runs="Questions about years before and after the cutoff that the model states, insisting, an invented fact with and without being told, and the log-probability of every year in dated sentences.",
        judged="Shown when the post-trained model names a cutoff, declines most questions after it but not those before it, mostly stays with that when pressed, and uses a fact that it is told.",
        look="The plot: where the curve falls, and whether that is where the model says it ends.",
        comparisons=18,
        run=cutoff.run,
    ),
    Experiment(
        name="inputs",
        topic="Causes",
        title="If it behaves differently, an input changed",
        belief="They must have changed it over night: today it is different.",
        example=inputs.PROMPT,
        text="Yesterday it was friendly, today it is odd. Did somebody change the model? Perhaps. But there are other suspects: another system prompt, another temperature, one more turn in the history, a new seed. Here we act as detectives. We take one comparison and change one single input at a time, and note the first word at which each reply takes another path. And we do what every good detective does: the control, in which nothing is changed at all. If nothing changed and the reply still differed, the rule would be broken.",
        runs="One comparison, then the same with one input changed at a time, and several times with nothing changed; last, the same tokens to both models, so that only the weights differ.",
        judged="Shown when the controls are identical bit by bit, and for each model at least one changed input changed the reply.",
        look="The token at which each reply diverges, and the margin by which that decision had been won.",
        comparisons=11,
        run=inputs.run,
    ),
    Experiment(
        name="answers",
        topic="Post-training",
        title="Pre-training continues, post-training answers",
        belief="A language model answers because it understands the question.",
        example=answers.PROMPTS["half sentence"][0],
        text="A base model has read a mountain of text and learned one thing: how a text goes on. Give it a question and it may go on with more questions, because that is how worksheets look. Post-training showed the same model many conversations, until it learned a second thing: that after a question comes an answer, and then the turn is over. But part of the effect is only the packing, the marks around your words that say who speaks. So we swap both: both sets of weights, once with bare text and once with the marks of a chat.",
        runs="Questions, instructions, half sentences and lists, in the two-by-two of weights and framing; then how likely each finds the end of the turn after the assistant's answers.",
        judged="Shown when the post-trained model with its template behaves like an assistant far more often than the base on bare text, and the weights alone make a difference with the framing the same.",
        look="The two-by-two table: read a column to see the weights, a row to see the framing.",
        comparisons=24,
        run=answers.run,
    ),
    Experiment(
        name="costume",
        topic="Post-training",
        title="The costume slips",
        belief="The assistant is who the model is.",
        example=costume.LADDER[3].questions[0].text,
        text="Post-training dresses a base model as an assistant. Think of an actor in a costume: as long as the scene is one that was rehearsed, you see the assistant. Step outside the script and the base model looks through. We climb down a ladder: from a plain question to personas, tricks, strange letters, a reply that has already begun, and finally bare text without any chat around it. At each rung we ask the base model, token by token, what it would have said. Where both agree, the costume is not doing anything.",
        runs="Prompts on every rung, written by the post-trained model and then read by both, token by token.",
        judged="Shown when a plain question is answered like an assistant and some rung clearly less often, and the two models differ at all. The rules for that are coarse; read the replies.",
        look="The rate by rung, and how far apart the models are in the first tokens and in the whole reply.",
        comparisons=23,
        run=costume.run,
    ),
    Experiment(
        name="ledger",
        topic="Cost",
        title="One function call per token, and copies scale",
        belief="It sits there thinking about me.",
        example=ledger.PROMPT,
        text="A reply is not one long thought. For every single token the whole model is run once: all the text so far goes in, and one token comes out. Between two calls it does not wait, wonder or get bored. This is why the same model can talk with many people at once: each call is on its own, and all copies of a question get the same answer. We write down the bill: how often the model was run, how long each run took, and how much of its weights the machine had to touch.",
        runs="A timed copy of memory, one question alone, then the same question in more and more slots at once.",
        judged="Shown when there was one pass for every token, and all copies gave the same reply. How much more all slots wrote in a second than one is timed, and not judged: others use this machine too.",
        look="Passes beside tokens, and the tokens per second as the copies grow.",
        comparisons=22,
        run=ledger.run,
    ),
)


NAMES = tuple(experiment.name for experiment in EXPERIMENTS)


def find(name: str) -> Experiment:
    """Raises UserError when there is no experiment of this name."""
    for experiment in EXPERIMENTS:
        if experiment.name == name:
            return experiment
    raise UserError(f"There is no experiment {str(name)[:40]!r}; choose one of {', '.join(NAMES)}.")
