"""The network: what a Hub repository holds, and bringing its files here. Every way this fails becomes one sentence.

Nothing else in the product talks to the network. `Hub` is an argument wherever it is needed, so a
test hands in its own.
"""

import fnmatch
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx2
from huggingface_hub import HfApi, constants, errors, snapshot_download, try_to_load_from_cache
from tqdm import tqdm

from .errors import UserError

WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
WEIGHTS = "model.safetensors"  # of a model that is not sharded
UNWANTED = ("original/*", "consolidated*.safetensors", "onnx/*", "*/onnx/*", "coreml/*", "runs/*")

# What the Hub's client raises when there is no network, no disk or no answer. Its HTTP library's own errors are not OSErrors.
UNREACHABLE = (OSError, httpx2.HTTPError)

SPARE_DISK = 2**28  # bytes that a download leaves free

ReportFraction = Callable[[float], None]  # fraction of the bytes that are here, 0 to 1


@dataclass(frozen=True)
class Repository:
    """A repository at one commit: the commit's sha, its files with their sizes in bytes, and the SHA-256 of its large files.

    `listed` is False where the Hub could not be asked: then the files are those that lie here. `file` is the only one that is
    asked for, where it is a GGUF file.
    """

    id: str
    revision: str
    files: dict[str, int]
    sha256: dict[str, str] = field(default_factory=dict)
    listed: bool = True
    file: str | None = None

    def wanted(self) -> dict[str, int]:
        if self.file is not None:
            return {self.file: self.files[self.file]}
        matches = lambda name, patterns: any(fnmatch.fnmatch(name, pattern) for pattern in patterns)  # noqa: E731
        return {
            name: size for name, size in self.files.items() if matches(name, WANTED) and not matches(name, UNWANTED)
        }


class Hub(Protocol):
    def look_up(self, id: str, revision: str | None) -> Repository: ...
    def download(self, repository: Repository, report: ReportFraction, only: Sequence[str] = WANTED) -> Path: ...


class HuggingFaceHub:
    """The real Hub, with its cache on disk: what was downloaded once works without a network."""

    def look_up(self, id: str, revision: str | None) -> Repository:
        """The commit that `revision` (default: main) names now, and its files.

        Raises:
            UserError: unknown id or revision, gated, or no network and nothing in the cache.
        """
        try:
            info = HfApi().model_info(id, revision=revision, files_metadata=True, timeout=20)
            # This also notes in the cache which commit the name stands for, so that it is found without a network.
            commit = HfApi().resolve_revision(id, revision=revision).resolved
        except errors.GatedRepoError:
            raise _gated(id) from None
        except errors.RevisionNotFoundError:
            raise UserError(
                f"{id} has no revision {revision!r}; use a branch, a tag or a commit of that repository."
            ) from None
        except errors.RepositoryNotFoundError:
            raise UserError(
                f"There is no model {id!r} on the Hub, or it is private; check the spelling (owner/name)."
            ) from None
        except errors.HFValidationError:
            raise UserError(
                f"{id!r} is neither a folder here nor a Hub id; write a path, owner/name, owner/name@revision or owner/name/file.gguf."
            ) from None
        except (errors.RevisionResolutionError, *UNREACHABLE) as error:
            return self._cached(id, revision, error)
        files = info.siblings or []
        sizes = {file.rfilename: file.size or 0 for file in files}
        return Repository(id, commit, sizes, {file.rfilename: file.lfs.sha256 for file in files if file.lfs})

    def _cached(self, id: str, revision: str | None, error: Exception) -> Repository:
        try:  # no file is asked for: only where those are that came before
            folder = Path(snapshot_download(id, revision=revision, local_files_only=True, allow_patterns=[]))
        except (errors.LocalEntryNotFoundError, errors.HFValidationError):
            answer = f" (it answers {error.response.status_code})" if isinstance(error, errors.HfHubHTTPError) else ""
            raise UserError(
                f"{id} is not on this machine and the Hub cannot be reached{answer}; connect once, or choose a pair that is already here."
            ) from None
        return Repository(
            id,
            folder.name,
            {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()},
            listed=False,
        )

    def download(self, repository: Repository, report: ReportFraction, only: Sequence[str] = WANTED) -> Path:
        """The snapshot folder with the wanted files of this commit, `only` some of them where that is said, downloading what is missing.

        Raises:
            UserError: it does not fit onto the disk, or the download broke off.
        """
        _check_disk(repository, only)
        total = max(1, sum(repository.wanted().values()))
        try:
            return Path(
                snapshot_download(
                    repository.id,
                    revision=repository.revision,
                    allow_patterns=list(only),
                    ignore_patterns=list(UNWANTED),
                    tqdm_class=_silent_bar(lambda done: report(min(1.0, done / total))),
                )
            )
        except errors.GatedRepoError:  # its page and its list of files are public, its files are not
            raise _gated(repository.id) from None
        except (errors.XetDownloadError, *UNREACHABLE) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UserError(
                f"Downloading {repository.id} broke off ({reason}); try again, what has arrived is kept."
            ) from error


def check(repository: Repository, folder: Path, report: ReportFraction) -> None:
    """Hold the wanted files in a snapshot folder against what the Hub lists: their sizes, and the SHA-256 of the large ones.

    Raises:
        UserError: one differs. It is taken away, so that the next download brings it again.
    """
    wanted = repository.wanted()
    total, done = max(1, sum(wanted.values())), 0
    for name, size in wanted.items():
        path, digest = folder / name, hashlib.sha256()
        there = path.stat().st_size if path.exists() else -1
        if there == size and name in repository.sha256:
            with path.open("rb") as file:
                while block := file.read(2**24):
                    digest.update(block)
                    report((done + file.tell()) / total)
        done += size
        if there != size or repository.sha256.get(name, digest.hexdigest()) != digest.hexdigest():
            path.resolve().unlink(missing_ok=True)  # of the snapshot's link, the file that it leads to
            path.unlink(missing_ok=True)
            raise UserError(
                f"{name} of {repository.id} is not what the Hub lists, so it was taken away; run this again to bring it anew."
            )
        report(done / total)


def _check_disk(repository: Repository, only: Sequence[str]) -> None:
    """Raises UserError when what is missing of a repository does not fit onto the disk."""
    missing = sum(
        size
        for name, size in repository.wanted().items()
        if any(fnmatch.fnmatch(name, pattern) for pattern in only)
        and not isinstance(try_to_load_from_cache(repository.id, name, revision=repository.revision), str)
    )
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free - SPARE_DISK
    if missing and missing > free:
        raise UserError(
            f"{repository.id} needs {missing / 1e6:,.0f} MB of disk, and {max(0, free) / 1e6:,.0f} MB can be taken here; make room, or choose a smaller model."
        )


def is_cached(id: str, revision: str | None, file: str | None = None) -> bool:
    """Whether all weights of a repository, or one file of it, were downloaded before. Asks nobody."""
    try:
        config = try_to_load_from_cache(id, file or "config.json", revision=revision)
    except errors.HFValidationError:
        return False
    if file or not isinstance(config, str):
        return isinstance(config, str)
    index = Path(config).with_name("model.safetensors.index.json")
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values()) if index.exists() else {WEIGHTS}
    except (OSError, ValueError, KeyError):
        return False
    return all(index.with_name(name).exists() for name in names)


def _gated(id: str) -> UserError:
    return UserError(
        f"{id} is gated: accept its licence on its model page, then set HF_TOKEN to a token of that account and start again."
    )


def _silent_bar(report: Callable[[float], None]) -> type[tqdm]:
    """A progress bar that draws nothing and reports the bytes that arrived."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any):
            options.pop("name", None)
            self.counts_files = options.get("desc", "").startswith("Reconstruct")
            self.arrived = 0.0
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.arrived += n or 0
            if self.counts_files:
                report(self.arrived)

    return Bar
