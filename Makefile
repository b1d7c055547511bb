# make run   serve the page on 127.0.0.1:7860 with the embedded pair
# make pair  train, measure and describe the embedded pair again (hours; needs the text that checkpoints/recipe/sources.toml names)
# make check style, types, import rules and the quick tests: what to run before every commit; needs no browser
# make format puts the style of the code right
# make test  everything that CI runs: make check's and all the other tests, the page's in a browser too
# make mutants whether the quick tests notice when core is changed in one place (an hour or two; FLAGS="core/links.py --each 40")
# make bench the benchmarks of this machine's processor; its tables go to benchmarks/results
# make gpu   all that a GPU must show, with a python3 that has torch, transformers and pydantic, and no .venv

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run check test style format browser mutants bench gpu gpu-packages pair clean

run: $(VENV)/run.stamp
	$(BIN)/python app.py $(FLAGS)

check: style
	$(BIN)/pytest -n 2 --dist worksteal -m "not browser and not slow" --durations 10 $(TESTS)

test: browser style
	$(BIN)/pytest -n 2 --dist worksteal --durations 10 $(if $(TESTS),,--cov) $(TESTS)

style: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

mutants: $(VENV)/dev.stamp
	$(BIN)/python -m tools.mutants $(FLAGS)

bench: $(VENV)/dev.stamp browser
	$(BIN)/python -m benchmarks.engine --pairs embedded --save
	$(BIN)/python -m benchmarks.engine --pairs 135m --save
	$(BIN)/python -m benchmarks.lens --save
	$(BIN)/python -m benchmarks.page --browser --save
	$(BIN)/python -m benchmarks.start --save

gpu:
	@PYTHONPATH=build/gpu-packages$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) -m benchmarks.gpu $(FLAGS)

# What `make gpu` needs beside torch and transformers, for a GPU machine without a network: carry build/gpu-packages there.
GPU_PYTHON_VERSION ?= 3.12
gpu-packages:
	$(PYTHON) -m pip install --quiet --upgrade --target build/gpu-packages --python-version $(GPU_PYTHON_VERSION) \
		--platform manylinux2014_x86_64 --only-binary=:all: $$(grep '^pydantic==' requirements.txt)

# The recipe of the embedded pair, whole: FLAGS="--corpus FOLDER --config gpu" for another folder, a large GPU.
pair: $(VENV)/dev.stamp
	$(BIN)/python -m checkpoints.recipe $(FLAGS)

clean:
	rm -rf $(VENV) build

$(VENV)/run.stamp: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

# The page tests drive Debian's Chromium. CHROMIUM=/path/to/chrome uses another one. Nothing here asks for rights that it
# does not have: whoever is not root is told what is missing.
browser:
	@command -v "$${CHROMIUM:-chromium}" >/dev/null 2>&1 || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; \
		then apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
		else echo "The page tests need Chromium: install Debian's package chromium as root, or name a browser by CHROMIUM=/path/to/chrome; make check runs without." >&2; exit 1; fi; }
