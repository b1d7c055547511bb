# make run   serve the page on 127.0.0.1:7860 with the embedded pair
# make pair  train, measure and describe the embedded pair again (hours; needs the text that checkpoints/recipe/sources.toml names)
# make test  everything that CI runs: style, types, import rules, tests (installs Chromium on Debian if there is none)
# make bench the benchmarks of this machine's processor; its tables go to benchmarks/results
# make gpu   all that a GPU must show, with a python3 that has torch, transformers and pydantic, and no .venv

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run test browser bench gpu gpu-packages pair clean

run: $(VENV)/run.stamp
	$(BIN)/python app.py $(FLAGS)

test: $(VENV)/dev.stamp browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist worksteal $(TESTS)

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

# The page tests drive Debian's Chromium. CHROMIUM=/path/to/chrome uses another one.
browser:
	@command -v "$${CHROMIUM:-chromium}" >/dev/null 2>&1 || { \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends chromium; }
