# Every target sets up .venv by itself on a fresh machine. PYTHON chooses the interpreter for that.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Before torch is imported: one thread in tests, so that two runs add numbers in the same order.
TEST_ENV := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

# Two processes, a module's tests in one of them: fixtures are made once.
SPREAD := -n 2 --dist loadscope

# pytest's exit code when no test has the mark.
NONE_FOUND := 5

.PHONY: setup demo test test-long test-deploy bench lint

setup: $(READY)

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/climb-sim demo --out runs/demo

test: $(READY)
	$(TEST_ENV) $(BIN)/pytest -q $(SPREAD) -m "not long and not deploy"

test-long: $(READY)
	$(TEST_ENV) $(BIN)/pytest -q -m long || test $$? -eq $(NONE_FOUND)

test-deploy: $(READY)
	$(TEST_ENV) $(BIN)/pytest -q -m deploy || test $$? -eq $(NONE_FOUND)

bench: $(READY)
	$(TEST_ENV) $(BIN)/python benchmarks/bench.py --out runs/bench

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# torch first and by its plain version: a CPU build that is already there satisfies it.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $(READY)
