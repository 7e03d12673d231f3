"""Launches on devices that are not there: what a launch keeps from an earlier one has to be right for it, too."""

import collections
import contextlib
import gc
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import triton
import triton.language as tl
from reinmax_kernels.triton_kernels import launch, row
from triton.backends.compiler import GPUTarget

from bench.static.launches import recorded
from bench.static.specimens import PATHS, Specimen
from reinmax_kernels import triton_kernels

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")
THREADS = {FIRST: 2048, SECOND: 1536}  # that a multiprocessor holds
PROCESSORS = {FIRST: 132, SECOND: 84}


class Some(NamedTuple):
    data: Any
    size: Any


@triton.jit
def copy_kernel(out_ptr, some, n, scale, A: tl.constexpr, B: tl.constexpr):  # noqa: N803
    if some.data is not None:
        i = tl.program_id(0) * A + tl.arange(0, A)
        x = tl.load(some.data + i * some.size.count * some.size.unit + B)
        tl.store(out_ptr + i, x * scale, mask=i < n)


@triton.jit
def twice(x):
    return 2 * x


@triton.jit
def squared(x):
    return x * x


@triton.jit
def map_kernel(out_ptr, F: tl.constexpr):  # noqa: N803
    tl.store(out_ptr, F(tl.load(out_ptr)))


class Driver:
    """Of devices that load kernels and take launches down."""

    def __init__(self):
        self.current = 0
        self.loaded = 0
        self.launches = []
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": 2**20},
            load_binary=self.load,
            unload_module=lambda module: None,
        )

    def load(self, *binary):
        self.loaded += 1
        return self.loaded, self.loaded, 32, 0, 1024  # module, function, registers, spills, threads

    def launcher_cls(self, source, metadata):
        def launcher(x, y, z, stream, function, *rest):
            arguments = tuple(map(id, rest[4:-2]))  # after hooks, and without the two constants
            self.launches.append((self.current, stream, (x, y, z), function, arguments))

        return launcher

    def get_current_device(self):
        return self.current

    def get_current_stream(self, device):
        return 100 + device

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def properties(self, device):
        return SimpleNamespace(
            max_threads_per_multi_processor=THREADS[device], multi_processor_count=PROCESSORS[device]
        )

    @contextlib.contextmanager
    def switched(self, device):
        before, self.current = self.current, device.index
        yield
        self.current = before


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    monkeypatch.setattr(torch.cuda, "current_device", driver.get_current_device)
    monkeypatch.setattr(torch.cuda, "device", driver.switched)
    monkeypatch.setattr(torch.cuda, "get_device_properties", driver.properties)
    monkeypatch.setattr(launch, "_forms", {})
    for kernel in (copy_kernel, map_kernel):
        monkeypatch.setattr(kernel, "device_caches", collections.defaultdict(kernel.create_binder))
    kept = launch._options_on, launch.processors
    for each in kept:
        each.cache_clear()
    yield driver
    for each in kept:
        each.cache_clear()
    launch._forms.clear()
    for kernel in (copy_kernel, map_kernel):
        kernel.device_caches.clear()
    gc.collect()  # kernels, while there is a driver to unload them


def tensor(dtype, offset=0):
    return torch.zeros(64, dtype=dtype)[offset:]


FULL = tensor(torch.float32)
ARGUMENTS = {
    "float32": (FULL, Some(FULL, row.multiple(6)), 40, 0.5),
    "other sizes": (tensor(torch.float32), Some(FULL, row.multiple(10)), 56, 0.5),
    "bfloat16": (tensor(torch.bfloat16), Some(FULL, row.multiple(6)), 40, 0.5),
    "bfloat16 inside": (FULL, Some(tensor(torch.bfloat16), row.multiple(6)), 40, 0.5),
    "unaligned": (tensor(torch.float32, 1), Some(FULL, row.multiple(6)), 40, 0.5),
    "unaligned inside": (FULL, Some(tensor(torch.float32, 1), row.multiple(6)), 40, 0.5),
    "divisible by 16": (FULL, Some(FULL, row.multiple(6)), 48, 0.5),
    "one": (FULL, Some(FULL, row.multiple(6)), 1, 0.5),
    "64 bits": (FULL, Some(FULL, row.multiple(6)), 2**31 + 1, 0.5),
    "64 bits and divisible": (FULL, Some(FULL, row.multiple(6)), 2**31, 0.5),
    "32 bits": (FULL, Some(FULL, row.multiple(6)), -(2**31) + 1, 0.5),
    "another constant inside": (FULL, Some(FULL, row.multiple(12)), 40, 0.5),
    "one inside": (FULL, Some(FULL, row.multiple(4)), 40, 0.5),
    "divisible inside": (FULL, Some(FULL, row.multiple(48)), 40, 0.5),
    "none": (FULL, Some(None, row.multiple(6)), 40, 0.5),
    "another float": (FULL, Some(FULL, row.multiple(6)), 40, 1.0),
    "an integer for a float": (FULL, Some(FULL, row.multiple(6)), 40, 1),
    "a bool for a float": (FULL, Some(FULL, row.multiple(6)), 40, True),
}


def test_a_launch_is_the_one_that_triton_makes(driver):
    constants = [{"A": 16, "B": 32}, {"A": 32, "B": 16}, {"B": 16, "A": 32}]
    cases = [(given, warps, keywords) for given in ARGUMENTS.values() for keywords in constants for warps in (1, 2)]
    for _ in range(2):  # compiled, and found again
        for given, warps, keywords in cases:
            launch.run(copy_kernel, (3,), warps, FIRST, *given, **keywords)
            launched = driver.launches.pop()
            copy_kernel[(3,)](*given, **keywords, **launch.options(warps, THREADS[FIRST]))
            assert launched == driver.launches.pop()


def test_a_form_is_found_again(driver, monkeypatch):
    for given in (ARGUMENTS["float32"], ARGUMENTS["other sizes"]):
        launch.run(copy_kernel, (3, 5), 1, FIRST, *given, A=16, B=0)
        monkeypatch.setattr(type(copy_kernel), "run", None)  # Triton is asked once
    assert [launched[2:4] for launched in driver.launches] == [((3, 5, 1), 1)] * 2


def test_each_function_that_a_kernel_is_given_has_a_form(driver):
    for function in (twice, squared, twice, squared):
        launch.run(map_kernel, (1,), 1, FIRST, FULL, F=function)
    assert [launched[3] for launched in driver.launches] == [1, 2, 1, 2]


def test_launches_go_to_the_device_of_the_tensors(driver):
    for _ in range(2):
        for device in (FIRST, SECOND):
            launch.run(copy_kernel, (1,), 4, device, *ARGUMENTS["float32"], A=16, B=0)
            assert driver.current == 0
    assert [launched[:4] for launched in driver.launches] == [(0, 100, (1, 1, 1), 1), (1, 101, (1, 1, 1), 2)] * 2
    registers = [form.metadata.maxnreg for form in launch._forms.values()]
    assert registers == [launch.options(4, THREADS[device])["maxnreg"] for device in (FIRST, SECOND)]
    assert registers[0] != registers[1]
    assert [launch.processors(device) for device in (FIRST, SECOND, FIRST)] == [132, 84, 132]


def test_registers_are_for_as_many_threads_as_are_to_be_resident(driver):
    shares = launch.HALF, launch.FEW
    for _ in range(2):
        for device in (FIRST, SECOND):
            for resident in shares:
                launch.run(copy_kernel, (1,), 4, device, *ARGUMENTS["float32"], A=16, B=0, resident=resident)
    assert [launched[0::3] for launched in driver.launches] == [(0, 1), (0, 2), (1, 3), (1, 4)] * 2
    registers = [form.metadata.maxnreg for form in launch._forms.values()]
    assert registers == [64, 168, 80, 168]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("categories", [2, 64, 1024, 20000])
def test_what_kernels_are_given_is_known_to_the_key(path, categories):
    """All of a kernel's constants, for they are handed on in any order; nothing that has no traits."""
    specimen = Specimen(path, 4, categories)
    if not specimen.is_possible:
        pytest.skip("so many experts no router has")
    for each in specimen.launches():
        assert {parameter.name for parameter in each.kernel.params if parameter.is_constexpr} == set(each.constants)
        launch._add_traits(each.arguments, lambda trait: None)


@pytest.mark.parametrize("name", ["sample", "sample_dense"])
@pytest.mark.parametrize(
    ("categories", "kernel"),
    [
        (1, "sample_short_kernel"),
        (2, "sample_short_kernel"),
        (1024, "sample_short_kernel"),
        (1025, "sample_long_kernel"),
        (32768, "sample_long_kernel"),
    ],
)
def test_rows_are_drawn_by_the_kernel_for_their_length(name, categories, kernel):
    """Which no result tells: the one for long rows draws short ones too, and takes many times as long."""
    launches = recorded(lambda: Specimen(name, 64, categories).call(triton_kernels), processors=132)
    assert {launch.name for launch in launches} == {kernel}


@pytest.mark.parametrize(
    ("path", "rows", "categories", "dtype", "kernel"),
    [
        ("reinmax_backward", 8192, 1024, torch.float32, "backward_tile_kernel"),
        ("reinmax_backward", 8192, 2048, torch.float32, "backward_long_kernel"),
        ("reinmax_backward", 8192, 512, torch.float64, "backward_long_kernel"),
        ("reinmax_backward", 64, 2048, torch.float32, "backward_tile_kernel"),  # a launch, not one more for the sums
        ("reinmax_backward, tau", 8192, 2048, torch.float32, "backward_tile_kernel"),
        ("straight_through_backward", 8192, 2048, torch.float32, "backward_tile_kernel"),
    ],
)
def test_a_gradient_known_without_sums_is_written_block_by_block(path, rows, categories, dtype, kernel):
    assert [launch.name for launch in Specimen(path, rows, categories, dtype).launches()] == [kernel]
