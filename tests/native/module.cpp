// The native code as a Python module, for tests: the contract's functions one by one, and every kernel of every SIMD
// level on NumPy arrays, without torch. Inputs and outputs are copied to blocks of their exact size, so that a
// sanitizer sees each access outside of them.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "contract.h"
#include "cpu/kernels.h"
#include "cpu/memory.h"

namespace py = pybind11;
namespace contract = reinmax_kernels::contract;
using namespace reinmax_kernels::cpu;
using reinmax_kernels::DType;

#if defined(__x86_64__)
namespace reinmax_kernels::cpu::avx512_in_halves {
extern const Kernels kKernels;
}
#endif

void float_logarithms(const float* v, int64_t n, float* result);  // logarithm.cpp

namespace {

// What the processor can run, and with AVX2 the AVX-512 text in halves.
std::vector<const Kernels*> tested_levels() {
  const Levels levels = available_levels();
  std::vector<const Kernels*> tested(levels.all, levels.all + levels.count);
#if defined(__x86_64__)
  if (levels.count > 1) tested.push_back(&avx512_in_halves::kKernels);
#endif
  return tested;
}

// The contract's exponential with one lane.
struct Scalar {
  using Float = float;
  static float broadcast(float v) { return v; }
  static float fma(float a, float b, float c) { return std::fma(a, b, c); }
  static float at_least(float limit, float v) { return v < limit ? limit : v; }
  template <int kMore>
  static float power_of_two(float rounded) {
    return std::ldexp(1.0f, int(rounded - contract::kRoundingMagic) + kMore - 127);
  }
};

const Kernels& kernels_of(const std::string& level) {
  for (const Kernels* kernels : tested_levels()) {
    if (level == kernels->level) return *kernels;
  }
  throw std::invalid_argument("unknown level " + level);
}

DType dtype_of(const std::string& name) {
  if (name == "float16") return DType::kFloat16;
  if (name == "bfloat16") return DType::kBFloat16;
  if (name == "float32") return DType::kFloat32;
  if (name == "float64") return DType::kFloat64;
  throw std::invalid_argument("unknown dtype " + name);
}

// A block of exactly the array's bytes.
struct Block {
  explicit Block(const py::array& array) : bytes(array.nbytes()), data(new char[bytes]) {
    std::memcpy(data.get(), array.data(), bytes);
  }
  explicit Block(size_t size) : bytes(size), data(new char[size]) {}
  py::array like(const py::array& array) const {
    py::array result(array.dtype(), std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()));
    std::memcpy(result.mutable_data(), data.get(), bytes);
    return result;
  }
  size_t bytes;
  std::unique_ptr<char[]> data;
};

Rows rows_of(const Block& block, DType dtype, int64_t categories) {
  Rows rows;
  rows.data = block.data.get();
  rows.dtype = dtype;
  rows.category_stride = 1;
  rows.dims = 1;
  rows.size[0] = std::numeric_limits<int64_t>::max();
  rows.stride[0] = categories;
  return rows;
}

template <class T>
py::array_t<T> to_array(const std::unique_ptr<T[]>& from, int64_t n) {
  return py::array_t<T>(n, from.get());
}

py::tuple sample(const std::string& level, const std::string& dtype, const py::array& logits,
                 const std::optional<py::array>& mask, const std::vector<int64_t>& seeds, int64_t offset,
                 int64_t row_offset, bool dense) {
  const int64_t rows = logits.shape(0), categories = logits.shape(1);
  const Block values(logits), one_hot(size_t(logits.nbytes())), probs(size_t(logits.nbytes()));
  const std::optional<Block> allowed = mask ? std::optional<Block>(*mask) : std::nullopt;
  const std::unique_ptr<int64_t[]> index(new int64_t[rows]);
  const std::unique_ptr<double[]> log_sum_exp(new double[rows]());
  const std::unique_ptr<char[]> scratch(new char[sample_scratch_bytes(categories)]);
  std::memset(scratch.get(), 0xD7, sample_scratch_bytes(categories));  // -4.7e14: a weight read here unwritten shows
  std::atomic<int64_t> first_invalid_row{std::numeric_limits<int64_t>::max()};
  SampleArguments a;
  a.logits.values = rows_of(values, dtype_of(dtype), categories);
  if (allowed) a.logits.mask = rows_of(*allowed, DType::kBool, categories);
  a.logits.categories = categories;
  a.seeds = seeds.data();
  a.rows_per_seed = rows / int64_t(seeds.size());
  a.offset = offset;
  a.row_offset = row_offset;
  a.index = index.get();
  if (dense) {
    a.one_hot = one_hot.data.get();
    a.probs = probs.data.get();
    a.log_sum_exp = log_sum_exp.get();
  }
  a.first_invalid_row = &first_invalid_row;
  kernels_of(level).sample(a, 0, rows, scratch.get());
  const bool valid = first_invalid_row == std::numeric_limits<int64_t>::max();
  return py::make_tuple(to_array(index, rows), one_hot.like(logits), probs.like(logits), to_array(log_sum_exp, rows),
                        valid ? -1 : first_invalid_row.load());
}

template <Backward* Kernels::* kKernel>
py::array backward(const std::string& level, const std::string& dtype, const py::array& grad_one_hot,
                   const std::optional<py::array>& grad_probs, const py::array& logits,
                   const py::array_t<int64_t>& index, const py::array_t<double>& log_sum_exp, double tau, double gap,
                   const std::vector<int64_t>& seeds, int64_t offset, int64_t row_offset, int64_t samples) {
  const int64_t rows = logits.shape(0), categories = logits.shape(1);
  const Block values(logits), g(grad_one_hot), indices(index), totals(log_sum_exp), result(size_t(logits.nbytes()));
  const std::optional<Block> h = grad_probs ? std::optional<Block>(*grad_probs) : std::nullopt;
  BackwardArguments a;
  a.logits.values = rows_of(values, dtype_of(dtype), categories);
  a.logits.categories = categories;
  a.grad_one_hot = rows_of(g, dtype_of(dtype), categories);
  if (h) a.grad_probs = rows_of(*h, dtype_of(dtype), categories);
  a.index = reinterpret_cast<const int64_t*>(indices.data.get());
  a.log_sum_exp = reinterpret_cast<const double*>(totals.data.get());
  a.tau = tau;
  a.gap = gap;
  if (samples > 0) a.noise = {seeds.data(), rows / int64_t(seeds.size()), offset, row_offset, samples};
  a.grad_logits = result.data.get();
  const int64_t scratch_bytes = backward_scratch_bytes(a);
  const std::unique_ptr<char[]> scratch(new char[scratch_bytes]);
  std::memset(scratch.get(), 0xFF, scratch_bytes);  // NaN: what is read here unwritten shows
  (kernels_of(level).*kKernel)(a, 0, rows, scratch.get());
  return result.like(logits);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("philox", [](std::vector<uint32_t> counter, std::vector<uint32_t> key) {
    const contract::Words<contract::OneLane> words = {counter.at(0), counter.at(1), counter.at(2), counter.at(3)};
    const auto w = contract::philox(words, key.at(0) | uint64_t{key.at(1)} << 32);
    return std::vector<uint32_t>{uint32_t(w.w0), uint32_t(w.w1), uint32_t(w.w2), uint32_t(w.w3)};
  });
  m.def("multiply_high", [](uint64_t u, uint64_t v) { return contract::multiply_high(u, v); });
  m.def("exp2", py::vectorize([](float t) { return contract::exp2<0, Scalar>(t); }));
  m.def("log", [](const py::array_t<float>& v) {
    py::array_t<float> result(v.size());
    float_logarithms(v.data(), v.size(), result.mutable_data());
    return result;
  });
  m.def("levels", [] {
    std::vector<std::string> names;
    for (const Kernels* kernels : tested_levels()) names.push_back(kernels->level);
    return names;
  });
  m.attr("fresh_bytes") = kFreshBytes;
  m.def("zero_by_discarding",
        [](uintptr_t data, int64_t bytes) { return zero_by_discarding(reinterpret_cast<void*>(data), bytes); });
  m.def("prefer_huge_pages",
        [](uintptr_t data, int64_t bytes) { prefer_huge_pages(reinterpret_cast<void*>(data), bytes); });
  m.def("sample", &sample);
  const auto def_backward = [&m](const char* name, auto function) {
    m.def(name, function, py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(), py::arg(),
          py::arg("gap") = 0.0, py::arg("seeds") = std::vector<int64_t>(), py::arg("offset") = 0,
          py::arg("row_offset") = 0, py::arg("samples") = 0);
  };
  def_backward("reinmax_backward", &backward<&Kernels::reinmax_backward>);
  def_backward("straight_through_backward", &backward<&Kernels::straight_through_backward>);
  def_backward("gapped_straight_through_backward", &backward<&Kernels::gapped_straight_through_backward>);
  def_backward("gumbel_rao_backward", &backward<&Kernels::gumbel_rao_backward>);
}
