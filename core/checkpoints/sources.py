"""Where a model comes from: finding a source by its spec, and bringing its files here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import pairs
from ..errors import UserError
from ..hub import Hub, Repository, is_cached
from ..pairs import Pair
from ..types import SIDES

ReportProgress = Callable[
    [str, float | None], None
]  # what is going on, and its share that is done (0 to 1) where known


HERE = "on this machine"


@dataclass(frozen=True)
class Source:
    """A model that was found: a folder here, or a Hub repository at one commit. `adapter_of` is set for a PEFT adapter."""

    name: str
    origin: str
    revision: str | None
    folder: Path | None
    repository: Repository | None
    adapter_of: "Source | None" = None

    @property
    def key(self) -> tuple[str, str | None]:
        return (str(self.folder) if self.folder else self.origin, self.revision)

    def files(self) -> set[str]:
        if self.repository is not None:
            return set(self.repository.files)
        return {path.name for path in self.folder.iterdir()} if self.folder else set()


def find(spec: str, hub: Hub, base: str | None = None) -> Source:
    """Find a source by its spec; `base` is what a PEFT adapter is merged into when its own config names nothing here.

    Raises:
        UserError: it does not exist, or holds nothing that can be loaded safely.
    """
    folder = pairs.folder(spec)
    if folder is not None:
        source = Source(folder.name, folder.name, None, folder, None)
    else:
        id, _, revision = spec.partition("@")
        repository = hub.look_up(id, revision or None)
        source = Source(id.split("/")[-1], id, repository.revision, None, repository)
    files = source.files()
    if "adapter_config.json" in files:
        return _adapter(source, hub, base)
    if "config.json" not in files:
        raise UserError(
            f"{source.name} has no config.json, so it is not a model that transformers can load; name the folder or repository that holds the weights."
        )
    if not any(name.endswith(".safetensors") for name in files):
        pickled = any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in files)
        reason = (
            "holds its weights only as pickle files, which can run code when they are loaded"
            if pickled
            else "holds no safetensors weights"
        )
        raise UserError(f"{source.name} {reason}; convert it to safetensors first.")
    return source


def _adapter(source: Source, hub: Hub, base: str | None) -> Source:
    if not any(name.endswith(".safetensors") for name in source.files()):
        raise UserError(
            f"The adapter {source.name} holds no safetensors weights; save it with safe_serialization and try again."
        )
    if base is None:
        raise UserError(f"{source.name} is a PEFT adapter; give the model that it was trained on as --base.")
    under = find(base, hub)
    return Source(source.name, source.origin, source.revision, source.folder, source.repository, adapter_of=under)


def whereabouts(pair: Pair) -> str:
    """Where the weights of a pair are: "on this machine", or what is to be downloaded. Asks nobody.

    Raises:
        UserError: the pair names a path to nothing.
    """
    if all(_is_here(pair.spec(side)) for side in SIDES):
        return HERE
    size = pairs.megabytes(pair)
    return f"{pairs.spelled(size)} to download" if size is not None else "to be downloaded"


def _is_here(spec: str) -> bool:
    id, _, revision = spec.partition("@")
    return pairs.folder(spec) is not None or is_cached(id, revision or None)


def bring(source: Source, hub: Hub, report: ReportProgress) -> Path:
    """The folder with the files of a source, downloaded if they are not here yet."""
    if source.folder is not None:
        return source.folder
    assert source.repository is not None
    size = sum(source.repository.wanted().values()) / 2**20
    report(f"Downloading {source.name} ({size:,.0f} MB)", 0.0)
    return hub.download(source.repository, lambda done: report(f"Downloading {source.name} ({size:,.0f} MB)", done))


def configuration(source: Source, hub: Hub) -> Path:
    """A folder with the config.json of a source, and with nothing else of it that is not here yet."""
    if source.folder is not None:
        return source.folder
    assert source.repository is not None
    return hub.download(source.repository, lambda done: None, only=("config.json",))


def reason(error: BaseException, name: str, *folders: Path) -> str:
    """The first line of a library's error, with the model's name in place of its path on this machine."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    for folder in folders:
        line = line.replace(str(folder), name)
    return line[:300].rstrip(". ")
