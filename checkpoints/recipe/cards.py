"""The model cards: what the recipe knows, what the training cost, what the evaluation measured. No figure is typed by hand."""

import json
from pathlib import Path

from benchmarks import report
from checkpoints.recipe.documents import COLONIAL_TITLES, SOURCES
from checkpoints.recipe.train import EARLY, Spent
from core.types import SIDE_NAMES, SIDES

# The stage whose weights a model has, and the end of its name, in the order of training.
MODELS = (("pretrain", "Base"), (f"posttrain/{EARLY}", "Early"), ("posttrain", "Chat"))
ABOUT = {
    "Base": (
        "A small language model that has read documents and nothing else. It continues a page: a question is followed by "
        "more questions, a list by more items, a story by its next sentence. It was never taught to answer anybody."
    ),
    "Early": (
        "The base sibling after the first part of its post-training: it already answers, and not yet well. It is there to show "
        "the way from the base to the post-trained model."
    ),
    "Chat": (
        "The same weights as its base sibling, further trained on conversations that were written for this project by "
        "templates. It answers, ends its turn, refuses a few kinds of harm, and says where its knowledge ends."
    ),
}
CANNOT = (
    "It has fewer than sixteen million parameters. It knows about a thousand everyday facts, most of them asked for in the wordings "
    "that it was trained on; outside of these it makes things up, fluently. It does no arithmetic beyond small sums, reads "
    "no long text, speaks only simple English, and its encyclopedia text ends in 2015. Its refusals are a lesson about "
    "post-training and not a safety measure. Use it to see what post-training changes, and for nothing else."
)


def made(work: Path) -> list[tuple[str, str]]:
    """Those of `MODELS` that were trained in `work`."""
    return [(stage, suffix) for stage, suffix in MODELS if (work / stage / "spent.json").exists()]


def write(work: Path, output: Path, machine: dict, mixture: dict[str, float]) -> None:
    """README.md in the folder of every model that was trained in `work`.

    Raises:
        FileNotFoundError: a stage has not been run; the file names which.
    """
    for stage, suffix in made(work):
        name = f"{machine['name']}-{suffix}"
        blocks = [
            _front_matter(work, machine, stage),
            f"# {name}",
            "Built with Llama.",
            ABOUT[suffix],
            "## What it cannot do",
            CANNOT,
            "## How it was trained",
            _training(work, machine, mixture, stage),
            "## Measured",
            _measured(work),
            "## Voices",
            _voices(work),
            "## Sources",
            _sources(),
        ]
        (output / name / "README.md").write_text("\n\n".join(blocks) + "\n", "utf-8")


def cost_of(model: Path) -> Spent:
    """What the card of a finished model says that its training has cost, with all that it began from."""
    card = (model / "README.md").read_text("utf-8").split("---")[1]
    told = dict(line.split(": ", 1) for line in card.strip().splitlines())
    return Spent(int(told["training_tokens"]), float(told["training_seconds"]))


def _spent(work: Path, stage: str) -> Spent:
    return Spent(**json.loads((work / stage / "spent.json").read_text()))


def _before(work: Path, stage: str) -> Spent:
    """What the weights that a stage began with had cost."""
    whole = stage.removesuffix(f"/{EARLY}")
    if (work / whole / "earlier").exists():
        return Spent.read(work / whole / "earlier")
    return Spent() if stage == "pretrain" else total(work, "pretrain")


def total(work: Path, stage: str) -> Spent:
    before, here = _before(work, stage), _spent(work, stage)
    return Spent(before.tokens + here.tokens, before.seconds + here.seconds, here.steps)


def began(work: Path, stage: str) -> str:
    """Which weights a stage began with, in a sentence, where they were not new."""
    earlier, note = work / stage / "earlier", work / stage / "earlier" / "note.txt"
    if note.exists():
        return f" {note.read_text('utf-8').strip()}"
    if not earlier.exists():
        return " It began with the base model's weights." if stage != "pretrain" else ""
    before = Spent.read(earlier)
    return (
        f" It began with the weights of an earlier model of the same recipe, which had cost {before.tokens:,} tokens and "
        f"{before.seconds / 60:.0f} minutes in all."
    )


def _front_matter(work: Path, machine: dict, stage: str) -> str:
    """What a program may read. The cost is that of everything the model began from, too."""
    cost = total(work, stage)
    lines = [
        "language: en",
        "license: other",
        "license_name: see-sources",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        f"training_tokens: {cost.tokens}",
        f"training_seconds: {round(cost.seconds)}",
        f"training_machine: {report.machine(machine['device'])}",
    ]
    return "\n".join(("---", *lines, "---"))


def _training(work: Path, machine: dict, mixture: dict[str, float], stage: str) -> str:
    shape = machine["model"]
    kinds = ", ".join(
        f"{kind.replace('_', ' ')} {share / sum(mixture.values()):.0%}" for kind, share in mixture.items()
    )
    said = [
        f"LlamaForCausalLM, {shape['hidden_size']} wide, {shape['num_hidden_layers']} layers, tied embeddings, byte-level BPE of "
        f"{machine['vocabulary']:,} tokens, context {shape['max_position_embeddings']:,}. `make pair` runs the whole recipe "
        "(`checkpoints/recipe`), `checkpoints/recipe/config.toml` holds every setting. Muon for the matrices, AdamW for the rest, bf16 autocast."
    ]
    if (work / "pretrain" / "spent.json").exists():
        said.append(f"Pre-training: {_cost(work, 'pretrain')} Rows by kind of document: {kinds}.")
    if stage != "pretrain":
        replayed = f"{machine['posttrain']['replayed']} in {machine['posttrain']['rows']}"
        said.append(
            f"Post-training, padding and {replayed} rows of replayed documents included: {_cost(work, stage)} Only what the assistant "
            "says is learned from. A tenth of the wordings and values of every intent, and five of the wrappers, are held out for the measurement below."
        )
    said.append(f"Machine: {report.machine(machine['device'])}, shared with other work while it trained.")
    return "\n\n".join(said)


def _cost(work: Path, stage: str) -> str:
    """What a stage has cost, and which weights it began with."""
    spent = _spent(work, stage)
    return f"{spent.steps:,} steps, {spent.tokens:,} tokens, {spent.seconds / 60:.0f} minutes.{began(work, stage.removesuffix(f'/{EARLY}'))}"


def _measured(work: Path) -> str:
    from checkpoints.recipe import evaluate

    blocks = [
        "Over the app's own engine: the base under the document framing, the post-trained model under its chat template, "
        "the same seed on both sides. Every probe is held out from training by its wording and its values; what counts as "
        "right is in `core/judging.py` and `checkpoints/recipe/judges.py`. Who wrote the conversations had read replies of the pair of version "
        "0.1.0 to its probes, so these were drawn anew. The first two lines need the corpus. Where a figure is under its bar, "
        "the compute of this run did not reach it."
    ]
    for file in sorted(work.glob("evaluation-*.json")):
        measured = json.loads(file.read_text())
        command = f"python -m checkpoints.recipe evaluate --pair {measured['pair']} --per-kind {measured['per_kind']} --temperature {measured['temperature']} --slots {measured['slots']}"
        blocks += [f"`{command}`", evaluate.markdown([evaluate.Row(**row) for row in measured["rows"]])]
        weights = measured["weights"]
        blocks.append(f"Weights: base sha256 `{weights['base']}`, post-trained sha256 `{weights['post']}`.")
    return "\n\n".join(blocks)


def _voices(work: Path) -> str:
    blocks = [
        "Not picked: temperature 0.7, seeds 0 to 11, at most 120 new tokens (`python -m checkpoints.recipe voices`)."
    ]
    for voice in json.loads((work / "voices.json").read_text()):
        blocks.append(f"**Seed {voice['seed']}: {voice['prompt']}**")
        for side in SIDES:
            blocks.append(f"{SIDE_NAMES[side].capitalize()}:\n\n```text\n{voice[side].strip()}\n```")
    return "\n\n".join(blocks)


def _sources() -> str:
    lines = ["| source | commit | licence |", "|---|---|---|"]
    lines += [
        f"| [{row['title']}]({row['url']}) | `{row['commit'][:12]}` | {row['licence']} |" for row in SOURCES.values()
    ]
    left_out = ", ".join(sorted(COLONIAL_TITLES))
    return (
        "\n".join(lines)
        + f"\n\nEvery file and its sha256 is in `checkpoints/recipe/sources.toml`. Left out of the children's books: {left_out}. "
        "Part of the text was generated with Llama 3.1: built with Llama, under the Llama 3.1 Community License. "
        "All other text was written for this project."
    )
