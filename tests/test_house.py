"""The house itself: what the README promises exists, imports run downward, pins are exact, and nothing is loaded too early."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from core import cli
from core.engine import sampling
from core.settings import Settings
from tests.engines import FAMILIES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PINS = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text("utf-8").split())
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def tracked() -> list[Path]:
    """Every file that a clone has; those of this folder where it is no clone."""
    try:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        files = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        files = [file for file in ROOT.rglob("*") if not {".venv", "build", "__pycache__"} & set(file.parts)]
    return [file for file in files if file.is_file()]


# --- commands ------------------------------------------------------------------------------------------


def test_the_commands_of_the_readme_are_in_the_makefile():
    commands = re.findall(r"^    make (\w+)", README, re.MULTILINE)
    assert {"run", "test"} <= set(commands)
    for command in commands:
        assert re.search(rf"^{command}:", MAKEFILE, re.MULTILINE), f"make {command} is not in the Makefile"


def test_ci_runs_exactly_what_the_readme_tells_people_to_run():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    lines = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert lines == ["set -e", 'cd "$(dirname "$0")/.."', "exec make test"]
    assert "\n    make test\n" in README
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111, "it can be executed"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_flags_that_are_written_down_exist(page):
    """Every `python app.py ...` of the documentation is understood by the program."""
    lines = re.findall(r"^    python app\.py ?(.*)$", page.read_text("utf-8"), re.MULTILINE)
    for line in lines:
        words = re.findall(r'"[^"]*"|\S+', line.split(" < ")[0].split("   ")[0])
        arguments = [word.strip('"') for word in words]
        cli.parse(arguments)  # SystemExit fails the test


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page):
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("http") or (page.parent / link).exists(), link
    for name in re.findall(r"`((?:core|tests|checkpoints|benchmarks|docs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


# --- a valid Space ---------------------------------------------------------------------------------------


def test_the_readme_begins_as_a_space_wants_it():
    _, matter, _ = README.split("---\n", 2)
    space = yaml.safe_load(matter)
    assert space["sdk"] == "gradio"
    assert str(space["sdk_version"]) == PINS["gradio"]
    assert (ROOT / space["app_file"]).exists()
    assert (
        isinstance(space["python_version"], str)
        and f">={space['python_version']}" == PROJECT["project"]["requires-python"]
    )
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {space["colorFrom"], space["colorTo"]} <= colours
    assert space["title"] and len(space["emoji"]) == 1 and len(space["short_description"]) <= 60


# --- pins ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_exactly(file):
    for line in (ROOT / file).read_text("utf-8").splitlines():
        assert line == "-r requirements.txt" or re.fullmatch(r"[\w-]+==\d+(\.\w+)+", line), line


def test_everything_that_is_imported_is_pinned():
    names = {name.lower() for name in PINS}
    for file in [ROOT / "app.py", *(ROOT / "core").rglob("*.py")]:
        for module in imported(file):
            if module not in {*sys.stdlib_module_names, "core"}:
                assert module in names, f"{module} of {file.name} is not in requirements.txt"


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


# --- imports ---------------------------------------------------------------------------------------------------


def test_core_names_itself_by_relative_imports_so_that_it_can_be_installed_under_another_name():
    assert not [str(file) for file in (ROOT / "core").rglob("*.py") if "core" in imported(file)]


def test_the_import_rules_hold():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_no_part_of_the_product_escapes_the_import_rules():
    parts = {f"core.{path.stem}" for path in (ROOT / "core").iterdir() if path.name[:1].isalpha()}
    layers, no_gradio, no_torch, *_ = PROJECT["tool"]["importlinter"]["contracts"]
    assert {name for layer in layers["layers"] for name in layer.split(" | ")} == parts
    assert set(no_gradio["source_modules"]) == parts - {"core.ui", "core.cli"}
    assert parts - set(no_torch["source_modules"]) == {"core.engine", "core.lens", "core.checkpoints"}


def test_every_room_of_the_page_and_everything_that_they_share_stands_in_the_contracts():
    rooms = {f"core.ui.{path.parent.name}" for path in (ROOT / "core" / "ui").glob("*/tab.py")}
    shared = {f"core.ui.{path.stem}" for path in (ROOT / "core" / "ui").glob("*.py") if path.stem != "__init__"}
    independent, unknowing = PROJECT["tool"]["importlinter"]["contracts"][-2:]
    assert set(independent["modules"]) == set(unknowing["forbidden_modules"]) == rooms
    assert set(unknowing["source_modules"]) == shared


def test_importing_the_app_loads_no_weights_and_its_demo_can_be_built():
    script = (
        "import safetensors, transformers\n"
        "def refuse(*arguments, **options): raise SystemExit('weights were loaded')\n"
        "safetensors.safe_open = refuse\n"
        "transformers.PreTrainedModel.from_pretrained = refuse\n"
        "import app, sys\n"
        "assert 'gradio' not in sys.modules, 'the command line waits for the page'\n"
        "import gradio\n"
        "assert isinstance(app.demo, gradio.Blocks)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_help_and_the_list_of_pairs_wait_for_no_library():
    heavy = {"torch", "transformers", "gradio", "huggingface_hub"}
    for arguments in (["--help"], ["pairs"]):
        script = (
            "import sys, app\n"
            "try: app.main(sys.argv[1:])\n"
            "except SystemExit: pass\n"
            f"assert not {heavy} & set(sys.modules), sorted({heavy} & set(sys.modules))\n"
        )
        command = [sys.executable, "-c", script, *arguments]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert "embedded" in ended.stdout or "list the model pairs" in ended.stdout


# --- names ---------------------------------------------------------------------------------------------------------


def public_names(file: Path) -> set[str]:
    """The public classes and type aliases of a module."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.add(node.targets[0].id)
    return {name for name in found if name[0].isupper() and not name.isupper()}


def test_no_two_classes_or_aliases_share_a_name():
    """Outside of the page, whose rooms each have a View of their own."""
    owners: dict[str, Path] = {}
    for file in sorted((ROOT / "core").rglob("*.py")):
        for name in () if "ui" in file.parts else public_names(file):
            assert owners.setdefault(name, file) == file, f"{name} is in {owners[name]} and in {file}"


# --- files ---------------------------------------------------------------------------------------------------------


def test_every_python_file_says_what_it_is_for():
    for file in tracked():
        if file.suffix == ".py":
            assert ast.get_docstring(ast.parse(file.read_text("utf-8"))), f"{file} has no docstring"


def test_a_clone_stays_small():
    sizes = {file: file.stat().st_size for file in tracked()}
    assert sum(sizes.values()) < 200e6
    for file, size in sizes.items():
        assert size < (60e6 if file.suffix == ".safetensors" else 2e6), f"{file.name} has {size:,} bytes"


# --- the map ------------------------------------------------------------------------------------------------------


def test_the_map_names_every_module():
    """Those of the page stand in a section of their own."""
    names = set(re.findall(r"`(core/[\w/]+\.py)`", (ROOT / "docs" / "architecture.md").read_text("utf-8")))
    for file in (ROOT / "core").rglob("*.py"):
        if "ui" not in file.parts and file.name != "__init__.py":
            assert str(file.relative_to(ROOT)) in names, f"{file} is missing in docs/architecture.md"


def test_an_afternoon_is_enough_for_the_reading_path():
    rows = [
        (name.strip("`"), int(lines))
        for name, lines in (row for row in table("architecture.md") if len(row) == 2 and row[1].isdigit())
    ]
    for name, lines in rows:
        assert len((ROOT / name).read_text("utf-8").splitlines()) == pytest.approx(lines, rel=0.1, abs=20), name
    assert 2_500 < sum(lines for _, lines in rows) < 3_500


# --- documentation that is data --------------------------------------------------------------------------------------


def table(page: str) -> list[list[str]]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_families_that_are_written_down_are_those_that_are_tested():
    assert [family for family, _ in table("families.md")[1:]] == list(FAMILIES)


def test_the_noise_that_is_written_down_is_the_noise():
    rows = [row for row in table("sampling.md") if row[0].isdigit()]
    assert len(rows) == 3
    for seed, step, noise in rows:
        keys = torch.tensor([sampling.key(int(seed), int(step))])
        expected = sampling.gumbel(keys, torch.tensor([0, 1, 2, 151_935]))[0].tolist()
        assert [float(value) for value in noise.split(",")] == pytest.approx(expected, abs=1e-11)


def test_the_address_that_is_written_down_is_the_default():
    assert f"http://{Settings().host}:{Settings().port}" in README
