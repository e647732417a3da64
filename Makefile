# make demo    set everything up and run the main job: fine-tune the bundled policy, compare before and after
# make test    set everything up and run the tests
# make check   lint, types and import rules, as CI does
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
RUN ?= runs/demo
COMPARISON ?= $(RUN)-comparison
SAMPLES ?= 512
JOBS ?= 2
PYTEST_ARGS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check format clean
.DEFAULT_GOAL := demo

demo: $(READY)
	$(BIN)/materium-rl finetune --config finetune_demo --run $(RUN) --overwrite
	$(BIN)/materium-rl compare nano $(RUN) -n $(SAMPLES) --seed 1 --out $(COMPARISON) --overwrite
	@echo "The run is in $(RUN), the comparison in $(COMPARISON)."

# Processes of one thread each; each file stays in one, so that its models load and its Ray starts once.
test: $(READY)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

# torch first and pinned: left to the resolver, another build with several GB of GPU libraries may come.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "materium_rl needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)
