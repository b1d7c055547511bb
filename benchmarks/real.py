"""Does it hold on real weights? Everything that can be held against transformers alone, for one pair, in one table.

    make real PAIR=embedded                         a pair by its id, as `python app.py pairs` lists them
    make real PAIR="FOLDER FOLDER"                  a base model and its post-trained sibling: folders, GGUF files, or ids on the Hub
    python -m benchmarks.real FOLDER --save         one model for both sides, which then differ in their framing alone

Greedy replies against `generate` on the same token ids; receipts, replayed; the lens against a forward pass of the
model in float64; prompts against `apply_chat_template`; speed against `generate`; and how far the engine was from the
model when it was loaded. What they are held against is loaded anew by transformers, without the engine's settings.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig

from benchmarks import engine, report
from benchmarks.report import Row
from benchmarks.subjects import Subject
from core import chat_template, receipts
from core import settings as configuration
from core.checkpoints import sources
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.lease import Lease
from core.local import LocalLease
from core.pairs import known_pairs
from core.pool import Pool
from core.replay import replay
from core.run import compare
from core.settings import EMBEDDED, Settings
from core.steps import finish
from core.types import DEFAULT_SAMPLING, SIDES, Comparison, Conversation, Framing, Message, Result, Shift, Side, Turn

PROMPTS = (
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain in two sentences why the sky is blue.",
    "Once upon a time, in a village at the foot of a mountain, there lived a clockmaker who had never been late. " * 8,
    "def fibonacci(n):\n    ",
    "List three fruits and their colours:\n1.",
    "Übersetze ins Englische: Guten Morgen, wie geht es Ihnen?",
    "What is 17 + 25? Answer with the number 42 or another one.",
)
SYSTEM = "You are terse. Answer in one sentence."
TALK = (
    ("Hello, who are you?", "I am a language model."),
    ("  What is 2 + 2?\n", "2 + 2 = 4.\n\nAnything else?"),
    ("Schreib «Grüße» und 你好 🙂", "Grüße, 你好 🙂"),
    ("```python\nprint('a  b')\n```", "It prints `a  b`, with two spaces."),
    ("Thank you.", ""),
)


class Plain:
    """A model as transformers alone loads and runs it."""

    def __init__(self, place: Path, lease: Lease):
        assert isinstance(lease, LocalLease)
        served = lease.loaded["post"].model
        model: Any = (
            AutoModelForCausalLM.from_pretrained(
                place.parent, gguf_file=place.name, quantization_config=GgufConfig(dequantize=True), dtype=served.dtype
            )
            if place.is_file()
            else AutoModelForCausalLM.from_pretrained(place, dtype=served.dtype, use_safetensors=True)
        )
        self.model = model.to(served.device).eval().requires_grad_(False)
        self.model.generation_config = GenerationConfig()  # its own settings would fill in what is not said
        self.stop_ids, self.vocabulary = (
            sorted(lease.stop_ids("post")),
            min(lease.base.vocabulary, lease.post.vocabulary),
        )

    def greedy(self, prompt_ids: Sequence[int], tokens: int) -> tuple[int, ...]:
        """The token ids of a greedy reply, the one that ends it included."""
        ids = torch.tensor([prompt_ids], device=self.model.device)
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=tokens, eos_token_id=self.stop_ids or None, pad_token_id=0
        )
        found = self.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        return tuple(found[0, ids.shape[1] :].tolist())

    def widen(self) -> None:
        """Compute in float64 from here on, with the same weights."""
        self.model.double()

    def logprobs(self, token_ids: Sequence[int], first: int) -> torch.Tensor:
        """Log-probabilities [tokens from `first` on, vocabulary] of one forward pass over all of them."""
        ids = torch.tensor([token_ids], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, first - 1 : -1, : self.vocabulary]
        return logits.log_softmax(-1)


def pair_settings(flags: argparse.Namespace) -> Settings:
    """For the id of a pair, or one or two models."""
    own = Settings(device=flags.device, dtype=flags.dtype, context=flags.context)
    if len(flags.models) == 1 and flags.models[0] in {pair.id for pair in known_pairs(own)}:
        return replace(own, pair=flags.models[0])
    return replace(own, base=flags.models[0], post=flags.models[-1])


def plain_models(pool: Pool, lease: Lease) -> dict[Side, Plain]:
    """What each side is held against; one for both where they are the same model.

    Raises:
        UserError: a side is an adapter, which transformers alone does not merge.
    """
    models: dict[str, Plain] = {}
    for side in SIDES:
        spec = lease.pair.spec(side)
        source = sources.find(spec, pool.hub, lease.pair.base)
        if source.adapter_of is not None:
            raise UserError(f"{source.name} is an adapter; name a folder with its merged weights.")
        place = sources.bring(source, pool.hub, lambda text, fraction: None)
        models[spec] = models.get(spec) or Plain(place, lease)
    return {side: models[lease.pair.spec(side)] for side in SIDES}


def ask(lease: Lease, prompt: str, tokens: int, seed: int, temperature: float) -> Result:
    """One comparison; the post-trained side has its chat template, where there is one."""
    update = {"seed": seed, "temperature": temperature, "max_new_tokens": tokens}
    framing: Framing = "chat" if chat_template.of(lease.post.tokenizer) else "transcript"
    asked = Comparison(
        pair=lease.pair.id,
        prompt=prompt,
        sampling=DEFAULT_SAMPLING.model_copy(update=update),
        framing_post=framing,
        today=date.today().isoformat(),
    )
    return compare(lease, asked)


def row(figure: str, base: Any, post: Any) -> Row:
    return {"figure": figure, "base": base, "post-trained": post}


def load_check(lease: Lease) -> list[Row]:
    """What the check at load found (core/engine/reference.py)."""
    deviations = [lease.side(side).engine.deviation for side in SIDES]
    return [
        row("at load: nats from a plain forward pass", *(each.nats if each else "-" for each in deviations)),
        row("at load: bound, in nats", *(each.bound if each else "-" for each in deviations)),
    ]


def parity(plain: dict[Side, Plain], greedy: Sequence[Result]) -> list[Row]:
    """Greedy replies of the engine against those of `generate` to the same token ids."""
    tokens, differ = {}, {}
    for side in SIDES:
        mine = [result.side(side) for result in greedy]
        theirs = [plain[side].greedy(each.prompt_token_ids, each.sampling.max_new_tokens) for each in mine]
        tokens[side] = sum(len(each.token_ids) for each in mine)
        differ[side] = [
            first_difference(each.token_ids, ids, each.margins)
            for each, ids in zip(mine, theirs, strict=True)
            if each.token_ids != ids
        ]
    return [
        row("greedy replies", *(len(greedy) for side in SIDES)),
        row("tokens in them", *(tokens[side] for side in SIDES)),
        row("replies equal to generate's, token by token", *(len(greedy) - len(differ[side]) for side in SIDES)),
        row("where the others first differ", *(", ".join(differ[side]) or "-" for side in SIDES)),
    ]


def first_difference(mine: Sequence[int], theirs: Sequence[int], margins: Sequence[float | None]) -> str:
    """The first step at which two replies differ, and how far ahead the engine's token was there."""
    both = zip(mine, theirs, strict=False)
    step = next((n for n, (here, there) in enumerate(both) if here != there), min(len(mine), len(theirs)))
    margin = margins[step] if step < len(margins) else None
    return f"step {step} (margin {'none' if margin is None else f'{margin:.1e}'})"


def replays(pool: Pool, results: Sequence[Result]) -> list[Row]:
    """Every receipt, written, read and run again."""
    written = [receipts.write(receipts.answer(result).receipt).encode() for result in results]
    verdicts = [finish(replay(pool, receipts.read(each))) for each in written]
    sides = {side: [found for verdict in verdicts if (found := verdict.side(side)) is not None] for side in SIDES}
    same = {side: [each for each in sides[side] if each.divergence is None] for side in SIDES}
    return [
        row("receipts", *(len(results) for side in SIDES)),
        row("of them replayed identically", *(len(same[side]) for side in SIDES)),
        row("with every margin the same to the bit", *(sum(each.drift == 0 for each in same[side]) for side in SIDES)),
    ]


def lenses(lease: Lease, plain: dict[Side, Plain], results: Sequence[Result]) -> list[Row]:
    """Each log-probability in the lenses of both replies against a forward pass in float64."""
    count, worst = dict.fromkeys(SIDES, 0), dict.fromkeys(SIDES, 0.0)
    models = set(plain.values())
    for model in models:
        model.widen()
    for result, writer in product(results, SIDES):
        read = finish(lease.read(result.comparison, writer, result.side(writer).token_ids))
        asked, reply = lease.prompt(result.comparison, writer).question, [shift.id for shift in read.shifts]
        expected = {model: model.logprobs((*asked, *reply), len(asked)) for model in models}
        for side in SIDES:
            for shift, there in zip(read.shifts, expected[plain[side]], strict=True):
                found = told(shift, side)
                count[side] += len(found)
                worst[side] = max(worst[side], *(abs(own - float(there[id])) for id, own in found.items()))
    return [
        row("log-probabilities in lenses", *(count[side] for side in SIDES)),
        row("farthest from float64, in nats", *(worst[side] for side in SIDES)),
    ]


def told(shift: Shift, side: Side) -> dict[int, float]:
    """The log-probabilities (nats) that a lens tells of one side's model at one token: by token id."""
    own, top = (shift.logprob_base, shift.top_base) if side == "base" else (shift.logprob_post, shift.top_post)
    return {shift.id: own} | {each.id: each.logprob for each in top}


def conversations(pair: str) -> list[Comparison]:
    """One to five turns, each with and without a system prompt."""
    return [
        Comparison(
            pair=pair,
            conversation=Conversation(
                system=system,
                turns=tuple(Turn(prompt=prompt, base=reply, post=reply) for prompt, reply in TALK[:earlier]),
            ),
            prompt=TALK[earlier][0],
            sampling=DEFAULT_SAMPLING,
            framing_base="chat",
            today=date.today().isoformat(),
        )
        for system in ("", SYSTEM)
        for earlier in range(len(TALK))
    ]


def templates(lease: Lease) -> list[Row]:
    """Token ids in the chat framing against those of `apply_chat_template`, on each side that has a template."""
    tried, refused, equal = dict.fromkeys(SIDES, 0), dict.fromkeys(SIDES, 0), dict.fromkeys(SIDES, 0)
    for side in SIDES:
        tokenizer: Any = lease.side(side).tokenizer
        for asked in conversations(lease.pair.id) if chat_template.of(tokenizer) else []:
            messages = (*asked.conversation.messages(side), Message(role="user", text=asked.prompt))
            chat = [{"role": message.role, "content": message.text} for message in messages]
            mine, theirs = None, None
            try:
                mine = lease.prompt(asked, side).token_ids
            except UserError as error:
                say(f"{side}, {len(chat)} messages: {error}")
            try:
                theirs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            except (TemplateError, LookupError, TypeError, ValueError) as error:  # the template's own refusal
                say(f"{side}, {len(chat)} messages: the template refuses: {error}")
            tried[side] += 1
            refused[side] += theirs is None
            equal[side] += theirs is not None and mine == tuple(theirs)
    return [
        row("conversations", *(tried[side] for side in SIDES)),
        row("refused by the chat template itself", *(refused[side] for side in SIDES)),
        row("prompts equal to apply_chat_template's", *(equal[side] for side in SIDES)),
    ]


def speed(lease: Lease, plain: dict[Side, Plain], tokens: int, repetitions: int) -> list[Row]:
    """One comparison at a time, as benchmarks/engine.py times it: both sides at once against one after the other."""
    subject = Subject(lease.pair.id, (plain["base"].model, plain["post"].model), tokens)
    assert isinstance(lease, LocalLease)
    engines = [lease.loaded[side].engine for side in SIDES]
    (found,) = engine.speed_of(subject, engines, repetitions, (1,))
    return [
        row(f"both sides: {name}", found[name], found[name])
        for name in ("tokens/s in all", "tokens/s of generate", "times generate")
    ]


def measure(pool: Pool, flags: argparse.Namespace) -> list[Row]:
    """All the rows."""
    with pool.wait(pool.default.id, say) as lease:
        plain = plain_models(pool, lease)
        prompts = PROMPTS[: flags.replies]
        greedy = [ask(lease, prompt, flags.tokens, 0, 0.0) for prompt in prompts]
        sampled = [ask(lease, prompt, flags.tokens, seed, 0.7) for seed, prompt in enumerate(prompts)]
        rows: list[Row] = []
        for part in (
            lambda: load_check(lease),
            lambda: templates(lease),
            lambda: parity(plain, greedy),
            lambda: replays(pool, [*greedy, *sampled]),
            lambda: speed(lease, plain, flags.tokens, flags.repetitions),
            lambda: lenses(lease, plain, sampled),  # last, because it widens the plain models
        ):
            rows += part()
            say(rows[-1])
        return rows


def say(step: object) -> None:
    """How far it is, beside the table: all of it takes minutes."""
    print(step, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=[EMBEDDED], help="the id of a pair, or one or two models")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=configuration.DTYPES)
    parser.add_argument("--context", type=int, help="longest prompt and reply together, as for the app")
    parser.add_argument("--replies", type=int, default=len(PROMPTS), help=f"of each kind, at most {len(PROMPTS)}")
    parser.add_argument("--tokens", type=int, default=64, help="longest reply (64)")
    parser.add_argument("--repetitions", type=int, default=3, help="of what is timed (3)")
    parser.add_argument("--note", default="", help="what the weights are, for the title")
    report.add_save_flag(parser)
    flags = parser.parse_args(arguments)
    if len(flags.models) > 2:
        parser.error("name the id of a pair, or one or two models")
    out = report.Report(report.command("benchmarks.real", arguments), flags.device, flags.save, "real", "Real weights")
    try:
        with Pool(pair_settings(flags), HuggingFaceHub()) as pool, torch.no_grad():
            title = f"{pool.default.title}, {flags.dtype}{f': {flags.note}' if flags.note else ''}"
            out.add(title, measure(pool, flags))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    out.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
