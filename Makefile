# The two commands that matter: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
PRESET ?= laptop
RUN ?= runs/demo
CORPUS ?= auto
BIN := .venv/bin

.PHONY: demo play test test-slow lint notebooks bench bench-ppo clean

demo: .venv/installed
	PYTHON=$(BIN)/python scripts/run_pipeline.sh $(PRESET) $(RUN) $(CORPUS)

play: .venv/installed
	$(BIN)/python -m rlhf.play --run $(RUN)

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/docs/language.py

notebooks: .venv/installed
	$(BIN)/python scripts/docs/notebooks.py

bench: .venv/installed
	$(BIN)/python scripts/bench/bench.py

bench-ppo: .venv/installed
	$(BIN)/python scripts/bench/bench_start.py
	$(BIN)/python scripts/bench/bench_ppo.py $(if $(wildcard $(RUN)),--run $(RUN))
	$(if $(wildcard $(RUN)),$(BIN)/python scripts/bench/bench_aligned.py --run $(RUN))

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[rlhf,ui,dev]'
	touch $@

clean:
	rm -rf .venv notebooks build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
