"""What a model's own card says."""

from .. import pairs
from ..errors import UserError
from ..types import Value


class TrainingCost(Value):
    """What a model's card says that its training took."""

    training_tokens: int
    training_seconds: int
    training_machine: str


def training_cost(spec: str) -> TrainingCost | None:
    """From the front matter of the card (README.md) in a model's folder; None when there is none here or it does not tell."""
    try:
        folder = pairs.folder(spec)
        if folder is None:
            return None
        _, front, _ = (folder / "README.md").read_text("utf-8").split("---\n", 2)
        lines = (line.partition(":") for line in front.splitlines())
        told = {key.strip(): value.strip().strip("\"'") for key, _, value in lines}
        return TrainingCost.model_validate({key: told[key] for key in TrainingCost.model_fields})
    except (UserError, OSError, ValueError, KeyError):
        return None
