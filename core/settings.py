"""Flags and environment -> one frozen Settings. The only reader of the environment."""

import argparse
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from .errors import UserError
from .installation import COMMAND

DEVICES = ("auto", "cuda", "mps", "cpu")
DTYPES = ("auto", "bfloat16", "float16", "float32")
ARITHMETICS = ("fast", "portable")
OWN_PAIRS = ("everyone", "nobody")  # who may bring models of their own through the page, where the operator says it
MCP = "mcp>=2.3,<3"  # what speaks the protocol, where --mcp asks for it
CLUSTER = "requirements-cluster.txt"  # what --cluster needs
EMBEDDED = "embedded"  # the id of the pair that ships in checkpoints/

# Set before the libraries that read them are imported; what the person has set stays.
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "FORWARDED_ALLOW_IPS": "",  # whose X-Forwarded-For the server below Gradio would believe
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
}


OF_MODELS = (
    "base",
    "post",
    "device",
    "dtype",
    "arithmetic",
    "slots",
    "threads",
    "context",
)  # settings that are flags as they stand


@dataclass(frozen=True)
class Settings:
    """How this process runs. Nothing here changes what a comparison means; what it changes is in the engine fingerprint."""

    host: str = "127.0.0.1"
    port: int = 7860
    root_path: str = ""
    address: str = ""  # of the page, where the environment says it
    address_header: str = ""  # in which a proxy says from where a request comes; "" is the connection itself
    share: bool = False
    auth: tuple[tuple[str, str], ...] = ()
    api_key: str = ""  # that programs bring under /v1 and /mcp; "" is none, and then none get in where there are logins
    mcp: bool = False  # whether agents find tools under /mcp
    embed_in: tuple[str, ...] = ()  # origins of pages that may show this one in a frame; () is as it always was
    pair: str = EMBEDDED
    pairs: tuple[str, ...] = ()  # the only ones of pairs.toml that there are here; () is all of them
    base: str | None = None
    post: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    arithmetic: str | None = None  # None is what the pair's row says
    slots: int | None = None
    threads: int | None = None
    context: int | None = None
    characters: int | None = None  # of a conversation with its prompt; None is as many as one may have
    hang_seconds: float = 300.0  # that one step of a model may take before it is given up
    hang_again: float = 3600.0  # seconds within which a second one ends the server
    cluster: str = (
        ""  # "local", "auto" or the address of a Ray cluster whose replicas have the models (core/cluster); "" is none
    )
    replicas: int = 1  # of "local"
    busy_seconds: float = 60.0  # that an ask waits for a replica of a cluster
    pins: tuple[tuple[str, str], ...] = ()  # pairs by their ids, and the only fingerprints that may answer for them
    zero_gpu: bool = False  # a Space on ZeroGPU, which lends its GPU for a request at a time (core/zerogpu.py)
    # Who may bring models of their own through the page: "local" are those who sit at this machine.
    own_pairs: Literal["everyone", "local", "nobody"] = "nobody"

    @classmethod
    def read(cls, flags: argparse.Namespace, environment: Mapping[str, str]) -> "Settings":
        """Flags win over the environment, the environment over the defaults. A command need not have every flag.

        Raises:
            UserError: a value that cannot be used.
        """
        given = {name: value for name, value in vars(flags).items() if value is not None}
        if ("base" in given) != ("post" in given):
            raise UserError(
                f"--base and --post go together: name both models, or neither for the pairs that `{COMMAND} pairs` lists."
            )
        if not (given.get("base", "?") and given.get("post", "?")):
            raise UserError("--base and --post each name a model: a folder, a Hub id, or a PEFT adapter.")
        for name in (
            "slots",
            "threads",
            "context",
            "characters",
            "hang_seconds",
            "hang_again",
            "replicas",
            "busy_seconds",
        ):
            if given.get(name, 1) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be 1 or more.")
        host, share = given.get("host") or environment.get("GRADIO_SERVER_NAME") or cls.host, given.get("share", False)
        root_path = environment.get("GRADIO_ROOT_PATH", "")
        pairs = _listed(given.get("pairs"), environment) if hasattr(flags, "pairs") else ()
        local = is_loopback(host) and not share and not root_path and not pairs
        return cls(
            host=host,
            port=given["port"] if "port" in given else _port(environment.get("GRADIO_SERVER_PORT")),
            root_path=root_path,
            address=root_path if "://" in root_path else _space(environment.get("SPACE_HOST")),
            address_header=given.get("address_header") or environment.get("SAME_SEED_ADDRESS_HEADER", ""),
            share=share,
            auth=read_auth(given.get("auth"), environment),
            api_key=environment.get("SAME_SEED_API_KEY", "").strip(),
            mcp=_mcp(given.get("mcp", False)),
            embed_in=tuple(_origin(each) for said in given.get("embed_in", ()) for each in said.split(",")),
            pair=given.get("pair") or cls.pair,
            pairs=pairs,
            characters=given.get("characters"),
            hang_seconds=given.get("hang_seconds", cls.hang_seconds),
            hang_again=given.get("hang_again", cls.hang_again),
            cluster=_cluster(given.get("cluster", "")),
            replicas=given.get("replicas", cls.replicas),
            busy_seconds=given.get("busy_seconds", cls.busy_seconds),
            pins=tuple(_pin(each) for said in given.get("pin", ()) for each in said.split(",")),
            zero_gpu=zero_gpu(environment),
            own_pairs=_own_pairs(given.get("own_pairs"), environment) or ("local" if local else "nobody"),
            **{name: given[name] for name in OF_MODELS if name in given},
        )

    def model_flags(self) -> list[str]:
        """The flags that make another process run its models as this one does."""
        chosen = {name: getattr(self, name) for name in ("pair", *OF_MODELS)}
        return [f"--{name}={value}" for name, value in chosen.items() if value is not None]


def add_own_pair_flags(parser: argparse.ArgumentParser) -> None:
    """The person's own pair: every command knows it."""
    own = parser.add_argument_group("your own pair")
    own.add_argument(
        "--base",
        metavar="SPEC",
        help="a base model: a folder, a GGUF file, a Hub id, owner/name@revision, owner/name/file.gguf, or a PEFT adapter",
    )
    own.add_argument("--post", metavar="SPEC", help="its post-trained sibling, likewise")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which models run, and how: of every command that runs them."""
    add_own_pair_flags(parser)
    models = parser.add_argument_group("models")
    models.add_argument(
        "--pair", metavar="ID", help=f"a pair that `{COMMAND} pairs` lists (default: your own, else {EMBEDDED})"
    )
    models.add_argument("--device", choices=DEVICES, default="auto", help="default: cuda, then mps, then cpu")
    models.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="default: bfloat16 where the machine computes in it, else float16 on a GPU, float32 on a processor",
    )
    models.add_argument(
        "--arithmetic",
        choices=ARITHMETICS,
        help="portable gives the same bits on every machine and takes about twice as long (default: what the pair's row says; fast for your own)",
    )
    models.add_argument(
        "--slots",
        type=int,
        metavar="N",
        help="replies written at once by each model (default: 4 on cpu, 16 on a GPU or as few as 4 where memory is tight)",
    )
    models.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads of each model (default: half of the cores)"
    )
    models.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="longest prompt and reply together, in tokens (default: 4096 on cpu, 16384 on a GPU, where the model and the memory allow it)",
    )


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("server")
    server.add_argument("--host", help=f"address to listen on (default: GRADIO_SERVER_NAME, else {Settings.host})")
    server.add_argument(
        "--port", type=int, help=f"port to listen on (default: GRADIO_SERVER_PORT, else {Settings.port})"
    )
    server.add_argument("--share", action="store_true", help="also open a public link through Gradio's tunnel")
    server.add_argument(
        "--own-pairs",
        choices=OWN_PAIRS,
        help="who may bring models of their own through the page (or set SAME_SEED_OWN_PAIRS; default: who sits at this machine, where only they can reach it)",
    )
    server.add_argument(
        "--pairs",
        metavar="ID,ID",
        help="the only pairs to offer, of those that the command pairs lists (or set SAME_SEED_PAIRS; default: all of them)",
    )
    server.add_argument(
        "--characters",
        type=int,
        metavar="N",
        help="longest conversation with its prompt, in characters (default and at most: 2,000,000)",
    )
    server.add_argument(
        "--address-header",
        metavar="NAME",
        help="header in which the proxy in front says from where a request comes, such as X-Forwarded-For: addresses take turns (or set SAME_SEED_ADDRESS_HEADER; default: the connection's own)",
    )
    server.add_argument(
        "--hang-seconds",
        type=int,
        metavar="N",
        help=f"seconds that one step of a model may take; then it is given up and the model started again (default: {Settings.hang_seconds:g})",
    )
    server.add_argument(
        "--hang-again",
        type=int,
        metavar="N",
        help=f"where a second step is given up within so many seconds, the server ends with status 75, so that whatever watches over it starts it anew (default: {Settings.hang_again:g})",
    )
    server.add_argument(
        "--mcp", action="store_true", help=f"also serve the tools for agents under /mcp; needs the package {MCP}"
    )
    server.add_argument(
        "--embed-in",
        metavar="ORIGIN",
        action="append",
        help="page that may show this one in a frame, such as https://learn.example.org; may be given several times, and then no other page may",
    )
    cluster = parser.add_argument_group("cluster")
    cluster.add_argument(
        "--cluster",
        metavar="WHERE",
        help=f"have the models in replicas on Ray Serve: local starts them here, auto or an address joins a cluster; needs {CLUSTER}",
    )
    cluster.add_argument("--replicas", type=int, metavar="N", help="how many --cluster local starts (default: 1)")
    cluster.add_argument(
        "--busy-seconds",
        type=int,
        metavar="N",
        help=f"seconds that somebody waits for a free replica before they are told that all are busy (default: {Settings.busy_seconds:g})",
    )
    cluster.add_argument(
        "--pin",
        metavar="ID=FINGERPRINT",
        action="append",
        help=f"the only fingerprint that may answer for a pair, as `{COMMAND} fingerprint` prints it; may be given several times",
    )
    server.add_argument("--auth", metavar="FILE", help="file with lines of user:password (or set SAME_SEED_AUTH)")


def read_auth(file: str | None, environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Who may enter. A password on the command line would show in the process list, so it comes from a file or the environment."""
    if file is not None:
        try:
            text = Path(file).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise UserError(
                f"--auth takes a file with lines of user:password, and {file!r} cannot be read as one."
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


def is_loopback(host: str) -> bool:
    """Whether this address is only reached from this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _listed(flag: str | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The ids that the operator lists, if any: of the page alone, a command of one's own machine knows all pairs."""
    said = environment.get("SAME_SEED_PAIRS") or None if flag is None else flag
    ids = tuple(dict.fromkeys(id.strip() for id in (said or "").split(",") if id.strip()))
    if said is not None and not ids:
        raise UserError("--pairs (or SAME_SEED_PAIRS) names the pairs to offer, with commas between them.")
    return ids


def _mcp(wanted: bool) -> bool:
    """Whether to serve tools. The package that speaks the protocol is optional."""
    if wanted:
        try:
            there = version("mcp").partition(".")[0]
        except PackageNotFoundError:
            there = ""
        if there != "2":
            raise UserError(f'--mcp needs the package mcp; install it with: pip install "{MCP}"')
    return wanted


def _cluster(where: str) -> str:
    """Where the replicas are. The package that reaches them is optional."""
    if where:
        try:
            version("ray")
        except PackageNotFoundError:
            raise UserError(f"--cluster needs Ray; install it with: pip install -r {CLUSTER}") from None
    return where


def _pin(said: str) -> tuple[str, str]:
    id, _, digest = said.strip().partition("=")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise UserError(f"--pin takes ID=FINGERPRINT, as `{COMMAND} fingerprint` prints it; {said[:80]!r} is none.")
    return id, digest


def _origin(said: str) -> str:
    """What a browser calls the page that frames another: a scheme and a host, perhaps a port, and nothing else."""
    origin = said.strip().lower().removesuffix("/")
    if not re.fullmatch(r"https?://([a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", origin):
        raise UserError(
            f"--embed-in takes the origin of the page that shows this one, as https://learn.example.org; {said!r} is none."
        )
    return origin


def _space(host: str | None) -> str:
    return f"https://{host}" if host else ""


def _own_pairs(flag: str | None, environment: Mapping[str, str]) -> Any:
    """What the operator says, if anything."""
    said = flag or environment.get("SAME_SEED_OWN_PAIRS") or None
    if said not in (None, *OWN_PAIRS):
        raise UserError(f"SAME_SEED_OWN_PAIRS must be {' or '.join(OWN_PAIRS)}.")
    return said


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


def zero_gpu(environment: Mapping[str, str]) -> bool:
    """Whether this is a Space on ZeroGPU, as its own library `spaces` asks it."""
    return environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def environment() -> Mapping[str, str]:
    return os.environ


def usable_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
