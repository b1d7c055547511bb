"""Where a model comes from: finding a source by its spec, and bringing its files here."""

import glob
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .. import pairs
from ..errors import UserError
from ..hub import WANTED, Hub, Repository, is_cached
from ..pairs import OnHub, Pair
from ..types import SIDES

ReportProgress = Callable[
    [str, float | None], None
]  # what is going on, and its share that is done (0 to 1) where known


HERE = "on this machine"


@dataclass(frozen=True)
class Source:
    """A model that was found: `here`, a folder or a GGUF file, or in a Hub repository at one commit. `adapter_of` is set for a PEFT adapter."""

    name: str
    origin: str
    revision: str | None
    here: Path | None
    repository: Repository | None
    adapter_of: "Source | None" = None

    @property
    def key(self) -> tuple[str, str | None]:
        return (str(self.here) if self.here else self.origin, self.revision)

    @property
    def is_gguf(self) -> bool:
        return self.here.is_file() if self.here else self.repository is not None and self.repository.file is not None

    def files(self) -> set[str]:
        if self.repository is not None:
            return set(self.repository.files)
        return {path.name for path in self.here.iterdir()} if self.here else set()


def find(spec: str, hub: Hub, base: str | None = None) -> Source:
    """Find a source by its spec; `base` is what a PEFT adapter is merged into when its own config names nothing here.

    Raises:
        UserError: it does not exist, or holds nothing that can be loaded safely.
    """
    here = pairs.here(spec)
    if here is not None:
        source = Source(here.name, here.name, None, here, None)
    else:
        wanted = OnHub.of(spec)
        repository = hub.look_up(wanted.id, wanted.revision)
        if wanted.file is not None:
            repository = _with_file(repository, wanted.file)
        origin = spec.partition("@")[0]
        source = Source(origin.split("/")[-1], origin, repository.revision, None, repository)
    if source.is_gguf:
        return source
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


def _with_file(repository: Repository, file: str) -> Repository:
    """Raises UserError where the repository has no such file; says which it has."""
    if file not in repository.files:
        others = sorted(name for name in repository.files if name.lower().endswith(".gguf"))
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        has = f"it has {', '.join(others[:4])}{more}" if others else "it has no GGUF file"
        raise UserError(f"{repository.id} has no file {file!r}; {has}.")
    return replace(repository, file=file)


def _adapter(source: Source, hub: Hub, base: str | None) -> Source:
    if not any(name.endswith(".safetensors") for name in source.files()):
        raise UserError(
            f"The adapter {source.name} holds no safetensors weights; save it with safe_serialization and try again."
        )
    if base is None:
        raise UserError(f"{source.name} is a PEFT adapter; give the model that it was trained on as --base.")
    under = find(base, hub)
    return Source(source.name, source.origin, source.revision, source.here, source.repository, adapter_of=under)


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
    return pairs.here(spec) is not None or is_cached(*OnHub.of(spec))


def bring(source: Source, hub: Hub, report: ReportProgress) -> Path:
    """The folder with the files of a source, or its GGUF file, downloaded if they are not here yet."""
    if source.here is not None:
        return source.here
    assert source.repository is not None
    file = source.repository.file
    size = sum(source.repository.wanted().values()) / 2**20
    report(f"Downloading {source.name} ({size:,.0f} MB)", 0.0)
    said = lambda done: report(f"Downloading {source.name} ({size:,.0f} MB)", done)  # noqa: E731
    if file is None:
        return hub.download(source.repository, said, WANTED)
    return hub.download(source.repository, said, (glob.escape(file),)) / file


def configuration(source: Source, hub: Hub) -> Path:
    """A folder with the config.json of a source, and with nothing else of it that is not here yet."""
    if source.here is not None:
        return source.here
    assert source.repository is not None
    return hub.download(source.repository, lambda done: None, only=("config.json",))


def reason(error: BaseException, name: str, *places: Path) -> str:
    """The first line of a library's error, with the model's name in place of its path on this machine."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    for place in places:
        line = line.replace(str(place), name)
    return line[:300].rstrip(". ")
