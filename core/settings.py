"""Flags and environment -> one frozen Settings. The only reader of the environment."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .installation import COMMAND

DEVICES = ("auto", "cuda", "mps", "cpu")
DTYPES = ("auto", "bfloat16", "float16", "float32")
EMBEDDED = "embedded"  # the id of the pair that ships in checkpoints/

# Set before the libraries that read them are imported; what the person has set stays.
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


_OF_MODELS = ("base", "post", "device", "dtype", "slots", "threads", "context")  # settings that are flags as they stand


@dataclass(frozen=True)
class Settings:
    """How this process runs. Nothing here changes what a comparison means; what it changes is in the engine fingerprint."""

    host: str = "127.0.0.1"
    port: int = 7860
    root_path: str = ""
    share: bool = False
    auth: tuple[tuple[str, str], ...] = ()
    pair: str = EMBEDDED
    base: str | None = None
    post: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    slots: int | None = None
    threads: int | None = None
    context: int | None = None

    @classmethod
    def read(cls, flags: argparse.Namespace, environment: Mapping[str, str]) -> "Settings":
        """Flags win over the environment, the environment over the defaults.

        Raises:
            UserError: a value that cannot be used.
        """
        if (flags.base is None) != (flags.post is None):
            raise UserError(
                f"--base and --post go together: name both models, or neither for the pairs that `{COMMAND} pairs` lists."
            )
        for name, value in (("--slots", flags.slots), ("--threads", flags.threads), ("--context", flags.context)):
            if value is not None and value < 1:
                raise UserError(f"{name} must be 1 or more.")
        return cls(
            host=flags.host or environment.get("GRADIO_SERVER_NAME") or cls.host,
            port=flags.port if flags.port is not None else _port(environment.get("GRADIO_SERVER_PORT")),
            root_path=environment.get("GRADIO_ROOT_PATH", ""),
            share=flags.share,
            auth=read_auth(flags.auth, environment),
            pair=flags.pair or cls.pair,
            **{name: getattr(flags, name) for name in _OF_MODELS},
        )

    def model_flags(self) -> list[str]:
        """The flags that make another process run its models as this one does."""
        chosen = {name: getattr(self, name) for name in ("pair", *_OF_MODELS)}
        return [f"--{name}={value}" for name, value in chosen.items() if value is not None]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that runs models, and those of the server."""
    models = parser.add_argument_group("models")
    models.add_argument("--pair", help=f"id of a pair (see `{COMMAND} pairs`)")
    models.add_argument(
        "--base", help="your own base model: a folder, a Hub id, owner/name@revision, or a PEFT adapter"
    )
    models.add_argument("--post", help="its post-trained sibling, likewise")
    models.add_argument("--device", choices=DEVICES, default="auto", help="default: cuda, then mps, then cpu")
    models.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="default: bfloat16 where the machine computes in it, else float32",
    )
    models.add_argument(
        "--slots", type=int, help="replies written at once by each model (default: 4 on cpu, 16 on a GPU)"
    )
    models.add_argument("--threads", type=int, help="CPU threads of each model (default: half of the cores)")
    models.add_argument("--context", type=int, help="longest prompt and reply together, in tokens")
    server = parser.add_argument_group("server")
    server.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    server.add_argument("--port", type=int, help="port to listen on (default: 7860)")
    server.add_argument("--share", action="store_true", help="also open a public link through Gradio's tunnel")
    server.add_argument(
        "--auth", type=Path, metavar="FILE", help="file with lines of user:password (or set SAME_SEED_AUTH)"
    )


def read_auth(file: Path | None, environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Who may enter. A password on the command line would show in the process list, so it comes from a file or the environment."""
    if file is not None:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise UserError(
                f"--auth takes a file with lines of user:password, and {str(file)!r} cannot be read as one."
            ) from None
    else:
        text = environment.get("SAME_SEED_AUTH", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if file is not None and not lines:
        raise UserError("The --auth file is empty; write one user:password a line.")
    pairs = tuple((user, password) for user, _, password in (line.partition(":") for line in lines))
    if not all(user and password for user, password in pairs):
        raise UserError("Every line of the --auth file (or SAME_SEED_AUTH) must be user:password.")
    return pairs


def _port(value: str | None) -> int:
    if value is None:
        return Settings.port
    if not (value.isascii() and value.isdecimal()):
        raise UserError("GRADIO_SERVER_PORT must be a number.")
    return int(value)


def quieten() -> None:
    """No telemetry, no progress bars in the log, reproducible matrix products on CUDA."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def environment() -> Mapping[str, str]:
    return os.environ


def usable_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
