"""What is installed: requirements.txt says what the app runs on, locks/ what it was tested on, and a Space finds a way."""

import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from itertools import product
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.test_house import MAKEFILE, PROJECT, README, imported, recipe_of
from tools import third_party

ROOT = Path(__file__).parent.parent
SPACE = yaml.safe_load(README.split("---\n", 2)[1])
A_SPACE_BRINGS_ITS_OWN = {"pydantic", "torch"}
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = {
    "Linux": {"sys_platform": "linux", "os_name": "posix", "platform_machine": "x86_64"},
    "Darwin": {"sys_platform": "darwin", "os_name": "posix", "platform_machine": "arm64"},
    "Windows": {"sys_platform": "win32", "os_name": "nt", "platform_machine": "AMD64"},
}
ENVIRONMENTS = [
    {"platform_system": system, "python_version": python, "python_full_version": f"{python}.9", **SYSTEMS[system]}
    for system, python in product(SYSTEMS, PYTHONS)
]


def lines(name: str) -> Iterator[str]:
    """What a file asks for, line by line as pip reads it: without comments, continued lines as one."""
    for line in (ROOT / name).read_text("utf-8").replace("\\\n", " ").splitlines():
        if asked := line.partition("#")[0].strip():
            yield asked


def requirements(name: str) -> list[Requirement]:
    return [Requirement(line.partition(" --hash=")[0]) for line in lines(name)]


def pins(name: str, environment: dict[str, str] | None = None) -> dict[str, Version]:
    """The version of each package that a lock gives in an environment (default: this one)."""
    chosen: dict[str, Version] = {}
    for pin in requirements(name):
        if pin.marker is None or pin.marker.evaluate(environment):
            [only] = pin.specifier
            assert only.operator == "==" and "*" not in only.version, pin
            package = canonicalize_name(pin.name)
            assert package not in chosen, f"{package} has two versions in {environment}"
            chosen[package] = Version(only.version)
    return chosen


def installation(environment: dict[str, str] | None = None) -> dict[str, Version]:
    """What `make test` installs. Raises AssertionError where two locks disagree."""
    everything: dict[str, Version] = {}
    for lock in ("locks/run.txt", "locks/dev.txt", "locks/torch.txt"):
        for package, version in pins(lock, environment).items():
            assert everything.setdefault(package, version) == version, f"{package} differs in {lock}"
    return everything


def admits(asked: Requirement, chosen: dict[str, Version]) -> bool:
    """Whether the version that was chosen is one that is asked for."""
    return chosen[canonicalize_name(asked.name)] in asked.specifier


# --- what is asked for -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-cluster.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_exactly_where_a_space_does_not_bring_its_own(file):
    for asked in requirements(file):
        operators = sorted(each.operator for each in asked.specifier)
        assert operators == (["<", ">="] if asked.name in A_SPACE_BRINGS_ITS_OWN else ["=="]), asked


def test_everything_that_is_imported_is_asked_for():
    asked = {requirement.name.lower() for requirement in requirements("requirements.txt")} | {
        "markdown_it",  # of markdown-it-py
        "spaces",  # there is one on ZeroGPU alone, where the builder installs it
        "mcp",  # for --mcp alone, which says what to install
        "ray",  # for --cluster alone, which says so too (requirements-cluster.txt)
    }
    for file in [ROOT / "app.py", *(ROOT / "core").rglob("*.py")]:
        missing = imported(file) - asked - {"core"} - sys.stdlib_module_names
        assert not missing, f"{missing} of {file.name} is not in requirements.txt"


# --- the locks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment", ENVIRONMENTS, ids=lambda each: f"{each['platform_system']} {each['python_version']}"
)
def test_the_locks_hold_everything_that_is_asked_for_and_all_that_this_needs(environment):
    """Followed through what the packages say themselves, as far as they are installed here."""
    chosen = installation(environment)
    waiting = [*requirements("requirements.txt"), *requirements("requirements-dev.txt")]
    seen: set[str] = set()
    while waiting:
        asked = waiting.pop()
        if is_left_out(asked.name) or str(asked) in seen or not applies(asked, environment):
            continue
        seen.add(str(asked))
        assert admits(asked, chosen), f"{asked}, and the lock has {chosen[canonicalize_name(asked.name)]}"
        waiting += needs(asked, environment)
    assert {canonicalize_name(Requirement(each).name) for each in seen} == set(chosen), (
        "the locks hold what nothing needs"
    )


def is_left_out(name: str) -> bool:
    return bool(third_party.LEFT_OUT.match(name)) or canonicalize_name(name) in set(lines("locks/left-out.txt"))


def needs(asked: Requirement, environment: dict[str, str]) -> Iterator[Requirement]:
    try:
        listed = metadata.requires(asked.name) or ()
    except metadata.PackageNotFoundError:  # of another system
        return
    for need in map(Requirement, listed):
        if applies(need, environment, asked.extras):
            need.marker = None  # it is asked for; an extra in it would say that it is not
            yield need


def applies(asked: Requirement, environment: dict[str, str], extras: Iterable[str] = ()) -> bool:
    return asked.marker is None or any(
        asked.marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras)
    )


def test_this_environment_is_what_the_locks_say():
    here = {canonicalize_name(each.name): Version(each.version).public for each in metadata.distributions()}
    locked = {package: version.public for package, version in installation().items()}
    assert here | locked == here, "make check installs what the locks say"


@pytest.mark.parametrize("lock", ["locks/run.txt", "locks/dev.txt"])
def test_every_line_of_a_lock_has_its_hashes_and_names_no_address(lock):
    text = (ROOT / lock).read_text("utf-8")
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    for line in lines(lock):
        pin, *hashes = line.split(" --hash=")
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", each) for each in hashes), pin
        assert not third_party.LEFT_OUT.match(pin) and not pin.startswith("torch="), "torch has a step of its own"


def test_make_installs_from_the_locks_and_nothing_else():
    assert re.findall(r"^(INSTALL\w*) = (.*)$", MAKEFILE, re.MULTILINE) == [
        ("INSTALL", "pip install --quiet --no-compile --require-hashes --no-deps --only-binary :all:"),
        ("INSTALL_TORCH", "pip install --quiet --no-compile -r locks/torch.txt"),
    ]
    run, dev = recipe_of(r"\$\(VENV\)/run.stamp"), recipe_of(r"\$\(VENV\)/dev.stamp")
    assert run[:2] == ["locks/run.txt", "locks/torch.txt"] and run[-3:-1] == [
        "$(INSTALL) -r locks/run.txt",
        "$(INSTALL_TORCH)",
    ]
    assert dev[1] == "locks/dev.txt" and dev[-2] == "$(INSTALL) -r locks/dev.txt"


def test_make_lock_asks_for_wheels_for_every_python_that_is_admitted():
    assert f"\nPYTHONS := {' '.join(PYTHONS)}\n" in MAKEFILE
    admitted = SpecifierSet(PROJECT["project"]["requires-python"])
    assert PYTHONS[0] in admitted and "3.10" not in admitted
    [platforms] = re.findall(r"^PLATFORMS := (.*)$", MAKEFILE, re.MULTILINE)
    assert all(system in platforms for system in ("manylinux", "apple-darwin", "windows"))


def test_the_packages_whose_licences_are_listed_are_those_of_the_lock():
    listed = re.findall(r"^\| ([\w-]+) \| [^|]+ \| [^|]+ \|$", third_party.PAGE.read_text("utf-8"), re.MULTILINE)[1:]
    assert set(listed) == set(pins("locks/run.txt", third_party.MACHINE)) | {"torch"}


# --- a Space --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_a_space_finds_versions_that_all_of_its_wishes_admit(python):
    """The builder's own wishes, ours, and those of gradio's parts that only a Space installs."""
    chosen = pins(f"locks/space-{python}.txt")
    wishes = [*requirements("locks/space.txt"), *requirements("requirements.txt")]
    for wish in wishes:
        assert admits(wish, chosen), f"{wish}: a Space gets {chosen[canonicalize_name(wish.name)]}; try make lock"
    [gradio] = [wish for wish in requirements("locks/space.txt") if wish.name == "gradio"]
    environment = next(each for each in ENVIRONMENTS if each["python_version"] == python)
    for wish in needs(gradio, environment):
        assert admits(wish, chosen), wish


def test_the_space_asks_for_a_gradio_that_we_have_and_a_python_that_was_resolved():
    [gradio] = [wish for wish in requirements("locks/space.txt") if wish.name == "gradio"]
    assert gradio.specifier == SpecifierSet(f"=={SPACE['sdk_version']}")
    assert pins("locks/run.txt")["gradio"] == Version(SPACE["sdk_version"])
    python = Version(SPACE["python_version"])
    assert python in SpecifierSet(PROJECT["project"]["requires-python"])
    assert (ROOT / "locks" / f"space-{python.major}.{python.minor}.txt").exists()
