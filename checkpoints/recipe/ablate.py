"""Trains the rows of `ablations.toml` for the same time each and prints one table.

    python -m checkpoints.recipe.ablate --minutes 4 --work build/ablations

Rows are compared by bits per byte on held-out documents, which do not depend on the vocabulary. A few minutes
decide between settings of one size; they say little about the end of a long run.
"""

import argparse
import json
import math
import time
import tomllib
from pathlib import Path

import torch
from transformers import PreTrainedModel

from checkpoints.recipe import attention, batches, train
from checkpoints.recipe.__main__ import configured, for_machine

HERE = Path(__file__).parent
MEASURED_STEPS = 4  # after the first one, which compiles


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m checkpoints.recipe.ablate", description=__doc__)
    parser.add_argument("rows", nargs="*", help="names in ablations.toml; all without any")
    parser.add_argument("--config", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--work", type=Path, default=Path("build/ablations"), help="VOCABULARY/tokens lie in it")
    arguments = parser.parse_args()
    configuration = configured()
    changes = tomllib.loads((HERE / "ablations.toml").read_text("utf-8"))
    machine = for_machine(configuration, arguments.config)
    torch.set_num_threads(machine["threads"])
    print("| row | what differs | parameters | tokens/s | tokens | bits per byte |\n|---|---|---|---|---|---|")
    for name in arguments.rows or changes:
        print(measured(name, changes[name], machine, configuration["mixture"], arguments), flush=True)


def measured(name: str, change: dict, machine: dict, mixture: dict, arguments: argparse.Namespace) -> str:
    """One line of the table."""
    vocabulary = change.get("vocabulary", machine["vocabulary"])
    settings = {**machine["pretrain"], **{key: change[key] for key in change.keys() & machine["pretrain"].keys()}}
    others = {key: value for key, value in change.items() if key not in settings and key != "vocabulary"}
    folder = arguments.work / str(vocabulary) / "tokens"
    source = batches.Documents.open(folder, mixture, seed=1)
    torch.manual_seed(1)
    model = train.new_model({**machine["model"], **others}, vocabulary).to(machine["device"]).train()
    steps, speed = trained(model, source, settings, machine["device"], arguments.minutes * 60)
    bits = bits_per_byte(model, folder, mixture, machine["device"])
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    differs = ", ".join(f"{key} {value}" for key, value in change.items()) or "nothing"
    tokens = steps * settings["rows"] * settings["length"]
    return f"| {name} | {differs} | {millions:.1f}M | {speed:,.0f} | {tokens:,} | {bits:.4f} |"


def trained(
    model: PreTrainedModel, source: batches.Documents, settings: dict, device: str, seconds: float
) -> tuple[int, float]:
    """Train for about `seconds` after compiling, the rate falling over the last third. Returns steps and tokens/s."""
    size = settings["rows"], settings["length"]
    if device == "cpu":
        model.set_attn_implementation(attention.NAME)
    loss_of = torch.compile(train.loss_function(model, device), dynamic=False)
    schedule = train.Schedule(10**9, 10, 0.0, settings["muon_learning_rate"], settings["adam_learning_rate"])
    optimizers = train.optimizers(model, schedule)
    step, first, began = 0, MEASURED_STEPS + 1, 0.0
    while step < schedule.steps:
        if step == 1:
            began = time.perf_counter()
        if step == first:
            each = (time.perf_counter() - began) / MEASURED_STEPS
            schedule = train.Schedule(
                first + round(seconds / each), 10, 0.34, schedule.muon_learning_rate, schedule.adam_learning_rate
            )
        inputs, labels = (torch.from_numpy(part).to(device) for part in source.batch(step, *size))
        loss_of(inputs, labels).backward()
        train.update(model, optimizers, schedule, step)
        step += 1
    return step, (step - 1) * math.prod(size) / (time.perf_counter() - began)


def bits_per_byte(model: PreTrainedModel, folder: Path, mixture: dict[str, float], device: str) -> float:
    """Loss on held-out documents, kinds weighted as in training, per byte of their text."""
    sizes = json.loads((folder / "sizes.json").read_text())
    losses = train.validation_losses(model, folder, list(mixture), device=device)
    per_kind = {kind: loss * sizes[kind][1] / sizes[kind][2] / math.log(2) for kind, loss in losses.items()}
    return sum(per_kind[kind] * share for kind, share in mixture.items()) / sum(mixture.values())


if __name__ == "__main__":
    main()
