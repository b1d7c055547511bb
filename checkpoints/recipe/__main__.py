"""The stages of the recipe, in order: tokens, pretrain, chats, posttrain, export, evaluate, voices, cards."""

import argparse
import json
import random
import tomllib
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from checkpoints.recipe import batches, cards, chats, conversations, documents, export, tokenizer, train

HERE = Path(__file__).parent
SEED = 1


def main() -> None:
    arguments = parse()
    configuration = configured()
    machine = for_machine(configuration, arguments.config)
    torch.set_num_threads(machine["threads"])
    torch.manual_seed(SEED)
    for stage in arguments.stages:
        STAGES[stage](arguments, machine, configuration["mixture"])


def configured() -> dict:
    """All of config.toml."""
    return tomllib.loads((HERE / "config.toml").read_text("utf-8"))


def for_machine(configuration: dict, kind: str) -> dict:
    """The model's settings and those of one machine kind."""
    return {key: configuration[key] for key in ("name", "vocabulary", "pair", "model")} | configuration[kind]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m checkpoints.recipe", description=__doc__)
    parser.add_argument("stages", nargs="*", type=stage, default=list(STAGES), help=f"some of: {' '.join(STAGES)}")
    parser.add_argument("--config", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument(
        "--corpus", type=Path, default=Path("../shared/corpus"), help="folder that holds the files of sources.toml"
    )
    parser.add_argument("--work", type=Path, default=Path("build/pair"), help="folder for everything in between")
    parser.add_argument(
        "--start-from",
        type=Path,
        help="folder of a finished model: it is trained further, instead of what the stage begins with",
    )
    parser.add_argument("--output", type=Path, default=HERE.parent, help="folder for the finished models")
    parser.add_argument("--pair", help="evaluate, voices: the row of pairs.toml that is asked (that of config.toml)")
    parser.add_argument("--per-kind", type=int, default=200, help="evaluate: probes of each kind")
    parser.add_argument("--kinds", nargs="*", default=[], help="evaluate: only these kinds of probes")
    parser.add_argument("--temperature", type=float, default=0.7, help="evaluate: as on the page by default")
    parser.add_argument("--slots", type=int, default=16, help="evaluate: replies written at once")
    parser.add_argument("--stop-at", type=int, help="stop training after this many steps, before the rate has fallen")
    return parser.parse_args(arguments)


def stage(name: str) -> str:
    if name not in STAGES:
        raise argparse.ArgumentTypeError(f"there is no stage {name!r}; choose from {', '.join(STAGES)}")
    return name


def make_tokens(arguments: argparse.Namespace, machine: dict, mixture: dict) -> None:
    """Corpus -> documents -> tokenizer -> packed token ids."""
    corpus = documents.Corpus(arguments.corpus)
    folder = arguments.work / "tokens"
    folder.mkdir(parents=True, exist_ok=True)
    choose = random.Random(SEED)
    by_kind = {kind: documents.read(kind, corpus, choose) for kind in mixture}
    path = arguments.work / "tokenizer.json"
    if not path.exists():
        sample = [text for kind, share in mixture.items() for text in upto(by_kind[kind], share * 500_000)]
        tokenizer.train(sample, machine["vocabulary"]).save(str(path))
    trained = Tokenizer.from_file(str(path))
    sizes = {kind: batches.pack(texts, trained, folder, kind) for kind, texts in by_kind.items()}
    (folder / "sizes.json").write_text(json.dumps(sizes, indent=1))
    print(f"{sum(size[0] for size in sizes.values()):,} training tokens in {len(sizes)} kinds: {sizes}")


def upto(texts: list[str], characters: int) -> list[str]:
    kept, total = [], 0
    for text in texts:
        if total > characters:
            break
        kept.append(text)
        total += len(text)
    return kept


def pretrain(arguments: argparse.Namespace, machine: dict, mixture: dict) -> None:
    settings = settings_of("pretrain", arguments, machine)
    model = train.new_model(machine["model"], machine["vocabulary"])
    if arguments.start_from:
        begin_with(model, arguments.start_from, arguments.work / "pretrain")
    source = batches.Documents.open(arguments.work / "tokens", mixture, SEED)
    long_from = round(settings["steps"] * (1 - settings["long_share"]))

    def batch(step: int) -> train.Batch:
        if step < long_from:
            return source.batch(step, settings["rows"], settings["length"])
        return source.batch(
            step, settings["rows"] * settings["length"] // settings["long_length"], settings["long_length"]
        )

    def validate() -> float:
        losses = train.validation_losses(model, arguments.work / "tokens", list(mixture), device=machine["device"])
        print({kind: round(loss, 3) for kind, loss in losses.items()}, flush=True)
        return sum(losses[kind] * share for kind, share in mixture.items()) / sum(mixture.values())

    train.train(
        model,
        batch,
        schedule(settings),
        arguments.work / "pretrain",
        device=machine["device"],
        validate=validate,
        stop_at=arguments.stop_at,
    )


def settings_of(stage: str, arguments: argparse.Namespace, machine: dict) -> dict:
    """Raises SystemExit where config.toml has no settings for training an earlier model further."""
    name = f"{stage}_further" if arguments.start_from else stage
    if name not in machine:
        raise SystemExit(f"config.toml has no [{arguments.config}.{name}]; leave --start-from out.")
    return machine[name]


def begin_with(model: PreTrainedModel, earlier: Path, stage: Path) -> None:
    """Take over the weights of a finished model, and keep for the card what they had cost."""
    model.load_state_dict(type(model).from_pretrained(earlier, dtype=torch.float32).state_dict())
    cards.cost_of(earlier).write(stage / "earlier")


def schedule(settings: dict) -> train.Schedule:
    return train.Schedule(
        **{key: settings[key] for key in ("steps", "warmup", "decay", "muon_learning_rate", "adam_learning_rate")}
    )


def make_chats(arguments: argparse.Namespace, machine: dict, mixture: dict) -> None:
    """Conversations -> token ids, and which of them are learned from."""
    length = machine["posttrain"]["length"]
    spelling = tokenizer.for_transformers(
        Tokenizer.from_file(str(arguments.work / "tokenizer.json")), post_trained=True, context=length
    )
    written = conversations.training(documents.Corpus(arguments.corpus))
    encoded = chats.encode(written, spelling, length)
    chats.save(encoded, arguments.work / "chats")
    learned = sum(int(part.sum()) for _, part in encoded)
    print(f"{len(encoded):,} conversations, {sum(len(ids) for ids, _ in encoded):,} tokens, {learned:,} to learn from")


def posttrain(arguments: argparse.Namespace, machine: dict, mixture: dict) -> None:
    """The base model's weights, further trained on conversations, with some documents among them."""
    settings = settings_of("posttrain", arguments, machine)
    model = train.new_model(machine["model"], machine["vocabulary"])
    if arguments.start_from:
        begin_with(model, arguments.start_from, arguments.work / "posttrain")
    else:
        model.load_state_dict(train.weights(arguments.work / "pretrain"))
    packed = chats.Chats(
        chats.load(arguments.work / "chats"),
        batches.Documents.open(arguments.work / "tokens", mixture, SEED + 1),
        **{key: settings[key] for key in ("length", "rows", "replayed")},
        seed=SEED,
    )
    print(f"{settings['steps'] / packed.steps_per_epoch:.2f} epochs of {packed.steps_per_epoch:,} steps", flush=True)
    train.train(
        model,
        packed.batch,
        schedule(settings),
        arguments.work / "posttrain",
        device=machine["device"],
        stop_at=arguments.stop_at,
        keep_at=None if arguments.start_from else settings["steps"] // 10,
    )


def write_models(arguments: argparse.Namespace, machine: dict, mixture: dict) -> None:
    """The models that were trained here as folders that plain transformers loads, at --output."""
    trained = Tokenizer.from_file(str(arguments.work / "tokenizer.json"))
    for stage, suffix in cards.made(arguments.work):
        model = train.new_model(machine["model"], machine["vocabulary"])
        model.load_state_dict(train.weights(arguments.work / stage))
        folder = arguments.output / f"{machine['name']}-{suffix}"
        export.export(model, trained, folder, post_trained=stage != "pretrain")


def measure(arguments: argparse.Namespace, machine: dict, mixture: dict) -> None:
    from checkpoints.recipe import evaluate  # needs the whole product, which a machine that only trains may lack

    evaluate.evaluate(
        arguments.work,
        mixture,
        pair=arguments.pair or machine["pair"],
        per_kind=arguments.per_kind,
        temperature=arguments.temperature,
        slots=arguments.slots,
        kinds=arguments.kinds,
    )


def speak(arguments: argparse.Namespace, machine: dict, mixture: dict) -> None:
    from checkpoints.recipe import voices

    voices.write(arguments.work, arguments.pair or machine["pair"])


def write_cards(arguments: argparse.Namespace, machine: dict, mixture: dict) -> None:
    cards.write(arguments.work, arguments.output, machine, mixture)


STAGES = {
    "tokens": make_tokens,
    "pretrain": pretrain,
    "chats": make_chats,
    "posttrain": posttrain,
    "export": write_models,
    "evaluate": measure,
    "voices": speak,
    "cards": write_cards,
}

if __name__ == "__main__":
    main()
