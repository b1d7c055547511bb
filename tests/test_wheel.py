"""What `pip wheel .` makes: one package with its data, and a command that does what the checkout does, whatever lies around it."""

import json
import os
import shlex
import subprocess
import sys
import sysconfig
import tarfile
import time
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from core import __version__
from core.receipts import read
from core.replay import replay
from core.steps import finish
from tests.ports import free_port
from tests.test_containers import BUILD, INSTALL, commands
from tests.test_examples import EXAMPLE
from tests.test_house import ROOT, tracked
from tests.test_locks import requirements

pytestmark = [pytest.mark.slow, pytest.mark.first]

# The lines of the Dockerfiles; here no index is asked, and what builds is what the lock brought.
OFFLINE = ["--quiet", "--no-index", "--no-build-isolation"]

NOT_INSTALLED = ROOT / "checkpoints" / "recipe"


def run(*command: str | Path, **options) -> str:
    """What a command prints. Raises AssertionError with what it complained about."""
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def wheel(folder) -> Path:
    *words, source = shlex.split(BUILD)
    run(sys.executable, "-m", *words, ROOT, *OFFLINE, cwd=folder)
    assert source == "."
    [built] = folder.glob(shlex.split(INSTALL)[-1])
    return built


@pytest.fixture(scope="module")
def bin(folder, wheel) -> Path:
    """Where the programs of a fresh environment with the wheel are; it sees the packages of this environment."""
    venv.create(folder / "environment", with_pip=False, symlinks=True)
    places = {"base": str(folder / "environment"), "platbase": str(folder / "environment")}
    Path(sysconfig.get_path("purelib", "venv", places), "packages.pth").write_text(
        sysconfig.get_path("purelib"), "utf-8"
    )
    programs = Path(sysconfig.get_path("scripts", "venv", places))
    pip, *words, _ = shlex.split(INSTALL)
    run(sys.executable, "-m", pip, "--python", programs / "python", *words, wheel, "--quiet", "--no-index", cwd=folder)
    return programs


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder with modules that are called as parts of the checkout are."""
    for name in ("app", "core", "checkpoints", "tests"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('somebody else was imported')", "utf-8")
    return tmp_path


def test_everything_that_runs_is_in_one_package_and_nothing_else_is(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names} == {"same_seed", f"same_seed-{__version__}.dist-info"}
    for file in tracked():
        name = file.relative_to(ROOT).as_posix()
        if name.startswith("core/"):
            assert name.replace("core/", "same_seed/", 1) in names
        if name.startswith(("checkpoints/", "docs/schemas/")):
            assert (f"same_seed/data/{name}" in names) == (NOT_INSTALLED not in file.parents), name


def test_it_asks_for_what_requirements_txt_asks_for_and_states_both_licences(wheel):
    told = message_from_bytes(zipfile.ZipFile(wheel).read(f"same_seed-{__version__}.dist-info/METADATA"))
    asked = {(canonicalize_name(each.name), each.specifier) for each in map(Requirement, told.get_all("Requires-Dist"))}
    assert asked == {(canonicalize_name(each.name), each.specifier) for each in requirements("requirements.txt")}
    assert told["License-Expression"] == "Apache-2.0 AND LicenseRef-Same-Seed-Weights"
    assert set(told.get_all("License-File")) == {"LICENSE", "checkpoints/LICENSE.md", "THIRD_PARTY.md"}


def test_the_command_is_the_checkouts_and_calls_itself_by_its_own_name(bin, elsewhere):
    assert run(bin / "same-seed", "--version", cwd=elsewhere) == f"same-seed {__version__}\n"
    assert run(bin / "same-seed", "pairs", cwd=elsewhere) == run(sys.executable, ROOT / "app.py", "pairs")
    for words in (["--help"], ["pairs", "--help"]):
        there = run(bin / "same-seed", *words, cwd=elsewhere)
        assert "same-seed pairs" in there and "app.py" not in there
    refused = subprocess.run([bin / "same-seed", "pairs", "--base", "x"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "the pairs that `same-seed pairs` lists" in refused.stderr


def test_modules_of_others_with_our_names_are_neither_imported_nor_in_the_way(bin, elsewhere):
    """The process that it starts imports nothing of the folder at all, not even in place of a library."""
    script = (
        "import sys, subprocess\n"
        "assert sys.path[0] == ''\n"
        "import same_seed.ui.page, same_seed.experiments, same_seed.cli.serve\n"
        "assert not {'app', 'core', 'checkpoints', 'tests'} & set(sys.modules)\n"
        "from same_seed import installation\n"
        "open('tomllib.py', 'w').write('raise SystemExit(3)')\n"
        "subprocess.run([*installation.new_process(), 'pairs'], check=True)\n"
    )
    assert "embedded" in run(bin / "python", "-c", script, cwd=elsewhere)


def test_a_notebook_with_modules_of_its_own_called_as_ours_are_imports_both(bin, tmp_path):
    for name in ("app", "core"):
        (tmp_path / f"{name}.py").write_text(f"MINE = {name!r}", "utf-8")
    script = (
        "import same_seed, core\n"
        "from same_seed import Comparison, Settings, compare, serve\n"
        "import app\n"
        "assert (app.MINE, core.MINE, compare.__module__) == ('app', 'core', 'same_seed.python')\n"
        "print(Comparison.of('embedded', 'x').sampling.seed)\n"
    )
    assert run(bin / "python", "-c", script, cwd=tmp_path) == "1234\n"


def test_the_example_gets_the_verdict_that_the_checkout_gives(bin, elsewhere, portable):
    verdict = finish(replay(portable, read(EXAMPLE.read_bytes())))
    there = subprocess.run(
        [bin / "same-seed", "replay", str(EXAMPLE), "--json"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(there.stdout) == json.loads(verdict.model_dump_json()), there.stderr


def test_the_source_distribution_is_small_and_makes_the_same_wheel(folder, wheel):
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder / "source", cwd=ROOT)
    [source] = (folder / "source").iterdir()
    assert source.stat().st_size < 40e6
    with tarfile.open(source) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    [unpacked] = (folder / "unpacked").iterdir()
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder / "again", unpacked, *OFFLINE)
    [again] = (folder / "again").iterdir()
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes(), "the same files, to the last bit"


def test_the_health_check_of_the_containers_tells_whether_the_page_is_served(bin, elsewhere):
    """The installed page, started as they start it, on a port of its own."""
    [start] = commands("Dockerfile", "ENTRYPOINT")
    [(python, *check)] = commands("Dockerfile", "HEALTHCHECK")
    environment = os.environ | {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(free_port()),
        "HF_HOME": str(elsewhere),
    }

    def healthy() -> bool:
        return subprocess.run([bin / python, *check], env=environment, capture_output=True, check=False).returncode == 0

    assert not healthy(), "before it is there"
    server = subprocess.Popen([bin / start[0], *start[1:]], env=environment, cwd=elsewhere, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 180
        while not healthy():
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)  # each check is a process, and the server has work to do
    finally:
        server.kill()
        server.wait()
