"""The stages of the recipe, in order: documents, tokens, pretrain."""

import argparse
import json
import random
import tomllib
from pathlib import Path

import torch
from tokenizers import Tokenizer

from checkpoints.recipe import batches, documents, tokenizer, train

HERE = Path(__file__).parent
SEED = 1


def main() -> None:
    arguments = parse()
    configuration = tomllib.loads((HERE / "config.toml").read_text("utf-8"))
    machine = configuration[arguments.config]
    torch.set_num_threads(machine["threads"])
    torch.manual_seed(SEED)
    for stage in arguments.stages:
        STAGES[stage](arguments, machine, configuration["mixture"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m checkpoints.recipe", description=__doc__)
    parser.add_argument(
        "stages", nargs="*", default=list(STAGES), choices=[*STAGES, []], metavar="stage", help=" ".join(STAGES)
    )
    parser.add_argument("--config", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument(
        "--corpus", type=Path, default=Path("../shared/corpus"), help="folder that holds the files of sources.toml"
    )
    parser.add_argument("--work", type=Path, default=Path("build/pair"), help="folder for everything in between")
    parser.add_argument("--stop-at", type=int, help="stop pre-training after this many steps")
    return parser.parse_args()


def make_tokens(arguments: argparse.Namespace, machine: dict, mixture: dict) -> None:
    """Corpus -> documents -> tokenizer -> packed token ids."""
    corpus = documents.Corpus(arguments.corpus)
    folder = arguments.work / "tokens"
    folder.mkdir(parents=True, exist_ok=True)
    choose = random.Random(SEED)
    by_kind = {}
    for kind in mixture:
        by_kind[kind] = list(documents.KINDS[kind](corpus))
        choose.shuffle(by_kind[kind])
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
    settings = machine["pretrain"]
    model = train.new_model(machine["model"], machine["vocabulary"])
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

    schedule = train.Schedule(
        **{key: settings[key] for key in ("steps", "warmup", "decay", "muon_learning_rate", "adam_learning_rate")}
    )
    train.train(
        model,
        batch,
        schedule,
        arguments.work / "pretrain",
        device=machine["device"],
        validate=validate,
        stop_at=arguments.stop_at,
    )


STAGES = {"tokens": make_tokens, "pretrain": pretrain}

if __name__ == "__main__":
    main()
