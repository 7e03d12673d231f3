# The whole set-up is `make install`; every other target needs it and does it itself.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
NATIVE_SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp')

.PHONY: install bench test lint sanitize gpu wheel clean

install: .venv/installed

# The package is installed in place, so that only a change of the C++ sources or of the metadata installs again.
.venv/installed: pyproject.toml setup.py $(NATIVE_SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH) 'setuptools>=77' ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[bench,test,lint]'
	touch $@

bench: install
	$(BIN)/python -m bench

# Triton's kernels are interpreted in the first run and compiled in the second. More processes would want much memory.
test: WORKERS := -n auto --maxprocesses 4 --dist worksteal
test: install
	$(BIN)/python -m pytest $(WORKERS)
	TRITON_INTERPRET=0 $(BIN)/python -m pytest $(WORKERS) tests/compiled -m 'not slow'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(NATIVE_SOURCES) $(wildcard tests/native/* tests/ptx/kernels/*)
	$(BIN)/mypy

# The native code under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: install
	REINMAX_KERNELS_SANITIZE=1 LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest tests/test_native.py

# On a machine with a GPU, beside the torch that is there: `make gpu PYTHON=python`. Memory and races are checked where
# compute-sanitizer is found; times go to bench/results.
gpu:
	$(PYTHON) -m pip install --quiet --no-build-isolation --editable '.[bench,test]'
	TRITON_INTERPRET=0 $(PYTHON) -m pytest tests/gpu
	if command -v compute-sanitizer > /dev/null; then for tool in memcheck racecheck; do \
		TRITON_INTERPRET=0 compute-sanitizer --tool $$tool --error-exitcode 1 \
			$(PYTHON) -m pytest tests/gpu -k 'contract_vectors and case2' || exit 1; done; fi
	TRITON_INTERPRET=0 $(PYTHON) -m bench kernels --device cuda

wheel: install
	$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

clean:
	rm -rf .venv build dist *.egg-info reinmax_kernels/*.so
