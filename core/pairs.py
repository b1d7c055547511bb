"""Which pairs there are: the rows of pairs.toml and the person's own, and where a spec lies on this machine.

Knows names and folders, no model: whoever only asks for the list waits for no library.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from .errors import UserError
from .installation import COMMAND, DATA
from .settings import EMBEDDED, Settings
from .types import SIDES, Side, Value, explain

HOME = DATA / "checkpoints"


class Stage(Value):
    """A point in a lineage where somebody kept the weights: what its makers call it ("SFT"), and what names its model."""

    name: str = Field(min_length=1)
    source: str = Field(min_length=1)


class Pair(Value):
    """One row of pairs.toml. `stages` are all stages of its lineage in order, both models of the pair among them; () is not known."""

    id: str
    title: str
    base: str
    post: str
    arithmetic: Literal["fast", "portable"] = "fast"  # on a processor, where nobody says otherwise
    stages: tuple[Stage, ...] = ()

    @model_validator(mode="after")
    def _from_base_to_post(self) -> "Pair":
        names, sources = ([getattr(stage, of) for stage in self.stages] for of in ("name", "source"))
        if len(set(names)) < len(names) or len(set(sources)) < len(sources):
            raise ValueError("two of its stages have one name or one source")
        if sources and (sources[0], sources[-1]) != (self.base, self.post):
            raise ValueError("its stages must begin with its base and end with its post")
        return self

    def spec(self, side: Side) -> str:
        """What names a side's model: a folder or a GGUF file here, or a Hub id or a GGUF file there with an optional revision."""
        return self.base if side == "base" else self.post

    @property
    def between(self) -> tuple[Stage, ...]:
        """The stages that are neither its base nor its post."""
        return self.stages[1:-1]


class About(Value):
    """What pairs.toml knows of a model that may not be here: `megabytes` (10^6 bytes) are those of its weights. None is not known."""

    parameters: str | None = None
    megabytes: int | None = None
    licence: str | None = None


def about(spec: str) -> About:
    """What is known of a model by its spec, whatever revision it names."""
    known = _file().get("models", {})
    return About.model_validate(known.get(spec.partition("@")[0], {}))


def megabytes(pair: Pair) -> int | None:
    """Of the weights of both models together; None where one is not known."""
    sizes = [about(pair.spec(side)).megabytes for side in SIDES]
    return sum(size for size in sizes if size is not None) if None not in sizes else None


def facts(pair: Pair) -> str:
    """What is known of both models, as "135M parameters each, Apache-2.0, 0.5 GB of weights"; empty where nothing is."""
    models, size = [about(pair.spec(side)) for side in SIDES], megabytes(pair)
    parameters, licences = ({getattr(model, name) for model in models} for name in ("parameters", "licence"))
    known = [
        f"{parameters.pop()} parameters each" if len(parameters) == 1 and None not in parameters else "",
        licences.pop() if len(licences) == 1 else "",
        f"{spelled(size)} of weights" if size is not None else "",
    ]
    return ", ".join(filter(None, known))


def spelled(megabytes: int) -> str:
    """As people read it: "24 MB", "2.7 GB", "13 GB"."""
    if megabytes < 100:
        return f"{megabytes} MB"
    return f"{megabytes / 1000:.1f} GB" if megabytes < 10_000 else f"{megabytes / 1000:,.0f} GB"


def came_with(weights_sha256: str) -> str:
    """The last version of the app that came with these weights, as ", of version 0.1.0 of this app,"; empty where none is known."""
    version = _file().get("earlier", {}).get(weights_sha256)
    return f", of version {version} of this app," if version else ""


def other_weights(whose: str, there: tuple[str, str], here: tuple[str, str]) -> str:
    """Why a receipt cannot be replayed: names and sha256 of the weights in it and of those that are here."""
    (recorded, sha256), (name, found) = there, here
    return f"Other weights on {whose}: {recorded} with fingerprint {sha256[:16]}{came_with(sha256)} in the receipt, {name} with {found[:16]} here."


def known_pairs(settings: Settings) -> tuple[Pair, ...]:
    """The rows of pairs.toml, or those of them that --pairs lists, after the person's own pair when --base and --post name one.

    Raises:
        UserError: --pairs names no row, or a row is not one.
    """
    rows = tuple(map(_row, _file().get("pair", [])))
    if settings.pairs:
        rows = tuple(find_pair(rows, id) for id in settings.pairs)
    if settings.base is None or settings.post is None:
        return rows
    return (_own(settings.base, settings.post), *rows)


def _file() -> dict[str, Any]:
    """pairs.toml. Raises UserError where it is not TOML."""
    try:
        return tomllib.loads((HOME / "pairs.toml").read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"checkpoints/pairs.toml cannot be read: {str(error).rstrip('.')}.") from None


def _row(row: Any) -> Pair:
    """Raises UserError that names the row."""
    name = row.get("id") if isinstance(row, dict) else row
    try:
        return Pair.model_validate(row)
    except ValidationError as error:
        raise UserError(f"The row {name!r} of checkpoints/pairs.toml is no pair; {explain(error)}") from None


def _own(base: str, post: str) -> Pair:
    names = label(base), label(post)
    return Pair(id=" | ".join(names), title=" and ".join(names), base=base, post=post)


def own_pair(base: str, post: str) -> Pair:
    """A pair of what somebody typed: two folders, GGUF files, Hub ids or PEFT adapters.

    Raises:
        UserError: one of them is empty, or a path to nothing.
    """
    base, post = base.strip(), post.strip()
    if not base or not post:
        raise UserError("Name both models, each by a folder, a GGUF file, a Hub id, or a PEFT adapter.")
    for spec in (base, post):
        check_path(spec)
    return _own(base, post)


def against_the_first(specs: Sequence[str], like: Pair | None = None) -> tuple[Pair, ...]:
    """Of checkpoints in their order pairs of the first with each of the others; computed as those of the pair that they are `like`.

    Raises:
        UserError: one is a path to nothing.
    """
    found = [own_pair(specs[0], spec) for spec in dict.fromkeys(specs[1:])]
    return tuple(pair.model_copy(update={"arithmetic": like.arithmetic}) if like else pair for pair in found)


def default_pair(settings: Settings) -> Pair:
    """The pair that the page opens with.

    Raises:
        UserError: --pair names no row.
    """
    rows = known_pairs(settings)
    chosen = settings.base is not None or bool(settings.pairs)
    wanted = rows[0].id if chosen and settings.pair == EMBEDDED else settings.pair
    return find_pair(rows, wanted)


def find_pair(rows: tuple[Pair, ...], id: str) -> Pair:
    """Raises UserError when no row has this id."""
    for row in rows:
        if row.id == id:
            return row
    raise UserError(
        f"There is no pair {str(id)[:80]!r} here; `{COMMAND} pairs` lists them, and --base with --post adds one."
    )


def check_paths(settings: Settings) -> None:
    """Raises UserError, for whoever typed them, when --base or --post is a path to nothing."""
    for spec in (settings.base, settings.post):
        if spec is not None:
            check_path(spec)


def check_path(spec: str) -> None:
    """Raises UserError, for whoever typed it, when a spec is a path to nothing."""
    if _is_path(spec) and not _is_model(spec, Path(spec).expanduser()):
        raise _nothing_there(spec, spec)


def at_commits(pair: Pair, commits: Mapping[Side, str]) -> Pair:
    """The pair with these commits of its Hub repositories; what lies here stays as it is."""

    def pinned(side: Side, spec: str) -> str:
        return f"{spec.partition('@')[0]}@{commits[side]}" if side in commits and here(spec) is None else spec

    return pair.model_copy(update={"base": pinned("base", pair.base), "post": pinned("post", pair.post)})


def places(pair: Pair) -> tuple[Path | str, ...]:
    """Where both models of a pair lie, however that was typed. Raises UserError when one is a path to nothing."""
    return tuple(here(pair.spec(side)) or pair.spec(side) for side in SIDES)


def label(spec: str) -> str:
    """How a source is called where people see it: its own name, never a path of the machine."""
    path = Path(spec).expanduser()
    return _in_full(path).name if _is_model(spec, path) or _is_path(spec) else spec


def _in_full(path: Path) -> Path:
    """The path in full, by the name that was typed: a link is not followed, but `.` and `..` have names of their own."""
    return path.resolve() if path.name in ("", "..") else path.absolute()


def _is_gguf(spec: str) -> bool:
    return spec.partition("@")[0].lower().endswith(".gguf")


def _is_path(spec: str) -> bool:
    return spec.startswith((".", "/", "~")) or (_is_gguf(spec) and spec.count("/") < 2)


def _is_model(spec: str, path: Path) -> bool:
    return path.is_dir() or (_is_gguf(spec) and path.is_file())


def _nothing_there(spec: str, shown: str) -> UserError:
    return UserError(f"There is no {'file' if _is_gguf(spec) else 'folder'} {shown!r} on this machine; check the path.")


def here(spec: str) -> Path | None:
    """Where a spec lies here, a folder or a GGUF file; None for what is on the Hub. Raises UserError when it is a path to nothing."""
    own = Path(spec).expanduser()
    for place in (own,) if _is_path(spec) else (HOME / spec, own):
        if _is_model(spec, place):
            return _in_full(place)
    if _is_path(spec):
        raise _nothing_there(spec, label(spec))
    return None


def folder(spec: str) -> Path | None:
    """The folder here that a spec names, if it names one. Raises UserError when it is a path to nothing."""
    place = here(spec)
    return place if place is not None and place.is_dir() else None


class OnHub(NamedTuple):
    """A spec of what is on the Hub, in its parts: owner/name, owner/name@revision, owner/name/file.gguf, owner/name/file.gguf@revision.

    The revision stands last, so that none, whoever names it, can choose another repository or another file.
    """

    id: str
    revision: str | None
    file: str | None

    @classmethod
    def of(cls, spec: str) -> "OnHub":
        name, _, revision = spec.partition("@")
        owner, *rest = name.split("/")
        if _is_gguf(name) and len(rest) > 1:
            return cls(f"{owner}/{rest[0]}", revision or None, "/".join(rest[1:]))
        return cls(name, revision or None, None)
