// The op table of reinmax_kernels/codebook_ops.py on CPU tensors, as ops.cpp is that of the estimators.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "cpu/dispatch_plan.h"
#include "cpu/kernels.h"
#include "cpu/operands.h"
#include "tensors.h"

namespace reinmax_kernels::cpu {
namespace {

// Runs body(begin, end) over the rows, each of which is `d` elements' work, on the threads that it is worth.
template <class Body>
void parallel_for_vectors(int64_t rows, int64_t d, const Body& body) {
  constexpr int64_t kElementsPerThread = 1 << 15;
  const int64_t grain = kElementsPerThread / d + 1;
  if (rows <= grain) return body(0, rows);
  torch::stable::parallel_for(0, rows, grain, body);
}

std::tuple<Tensor, Tensor, Tensor> codebook_lookup(const Tensor& logits_given, const Tensor& codebook_given,
                                                   const Tensor& seed, const std::optional<Tensor>& mask,
                                                   int64_t offset, int64_t row_offset) {
  const Shape shape(logits_given);
  require(codebook_given.dim() == 2 && codebook_given.size(0) == shape.categories, "codebook: expected [C, d]");
  const Tensor logits = with_adjacent_categories(logits_given), codebook = torch::stable::contiguous(codebook_given);
  Tensor index = empty(shape.leading, ScalarType::Long), log_sum_exp = empty(shape.leading, ScalarType::Double);
  SampleArguments arguments;
  arguments.offset = offset;
  arguments.row_offset = row_offset;
  arguments.index = index.mutable_data_ptr<int64_t>();
  arguments.log_sum_exp = log_sum_exp.mutable_data_ptr<double>();
  draw(arguments, logits, seed, mask, shape);
  std::vector<int64_t> sizes = shape.leading;
  sizes.push_back(codebook.size(1));
  Tensor vectors = dense_output(codebook, sizes);
  const int64_t bytes = codebook.size(1) * int64_t(codebook.element_size());
  const auto* from = static_cast<const char*>(codebook.const_data_ptr());
  auto* to = static_cast<char*>(vectors.mutable_data_ptr());
  parallel_for_vectors(shape.rows, std::max<int64_t>(codebook.size(1), 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(to + i * bytes, from + arguments.index[i] * bytes, size_t(bytes));
    }
  });
  return {vectors, index, log_sum_exp};
}

// The gradients of the vectors, one a row, in the type that is computed in.
Tensor gradient_rows(const Tensor& grad_vectors, int64_t rows, ScalarType dtype) {
  const int64_t d = grad_vectors.size(-1);
  require(d >= 1 && grad_vectors.numel() == rows * d, "grad_vectors: expected [..., d] with d >= 1, a vector a row");
  return torch::stable::reshape(torch::stable::contiguous(torch::stable::to(grad_vectors, dtype)), {rows, d});
}

// Writes `rows @ columns` to `product`. By the CPU's function itself, not by the dispatcher: under autocast that would
// round the product.
void multiply(const Tensor& rows, const Tensor& columns, const Tensor& product) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(product.get(), rows.get(), columns.get()));
}

// A tile of rows at a time, each thread its own: the gradient of their one-hot from a product with the codebook, and
// from it, while it lies in the cache, that of the logits. Tiles are cut by their sizes alone, and none is multiplied
// by more than one thread, so that no thread count shows.
template <Backward* Kernels::* kKernel>
Tensor backward(const Tensor& grad_vectors, const Tensor& codebook, const Tensor& logits_given,
                const Tensor& index_given, const Tensor& log_sum_exp_given, const std::optional<Tensor>& mask,
                const std::optional<Tensor>& tau) {
  constexpr int64_t kTileBytes = 1 << 20, kLeastRows = 4;
  const Shape shape(logits_given);
  const Tensor logits = with_adjacent_categories(logits_given);
  const ScalarType dtype = logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor upstream = gradient_rows(grad_vectors, shape.rows, dtype);
  require(codebook.dim() == 2 && codebook.size(0) == shape.categories && codebook.size(1) == upstream.size(1),
          "codebook: expected [C, d]");
  const Tensor columns = torch::stable::transpose(torch::stable::to(codebook, dtype), 0, 1);
  const Tensor index = checked_categories(index_given, shape);
  const Tensor log_sum_exp = checked_log_sum_exp(log_sum_exp_given, shape);
  Tensor grad_logits = dense_output(logits, shape.sizes);

  BackwardArguments arguments;
  arguments.logits = logits_of(logits, mask, shape);
  arguments.index = index.const_data_ptr<int64_t>();
  arguments.log_sum_exp = log_sum_exp.const_data_ptr<double>();
  arguments.tau = checked_tau_value(tau);
  arguments.grad_logits = grad_logits.mutable_data_ptr();

  const int64_t row_bytes = shape.categories * (dtype == ScalarType::Double ? 8 : 4);
  const int64_t tile_rows = std::max<int64_t>(std::min(std::max(kTileBytes / row_bytes, kLeastRows), shape.rows), 1);
  const int64_t tiles = (shape.rows + tile_rows - 1) / tile_rows;
  std::atomic<bool> failed{false};
  const auto run_tiles = [&](int64_t begin, int64_t end) {
    const Tensor tile = empty({tile_rows, shape.categories}, dtype);
    BackwardArguments of_tile = arguments;
    Rows& gradient = of_tile.grad_one_hot;
    gradient.data = tile.const_data_ptr();
    gradient.dtype = dtype_of(tile);
    gradient.category_stride = 1;
    gradient.dims = 2;  // the second is broadcast: the tile's rows serve every tile
    gradient.size[0] = tile_rows, gradient.stride[0] = shape.categories;
    gradient.size[1] = tiles, gradient.stride[1] = 0;
    for (int64_t t = begin; t < std::min(end, tiles); ++t) {
      const int64_t first = t * tile_rows, count = std::min(tile_rows, shape.rows - first);
      multiply(torch::stable::narrow(const_cast<Tensor&>(upstream), 0, first, count), columns,
               torch::stable::narrow(const_cast<Tensor&>(tile), 0, 0, count));
      (kernels().*kKernel)(of_tile, first, first + count, nullptr);
    }
  };
  const auto guarded = [&](int64_t begin, int64_t end) {
    try {
      run_tiles(begin, end);
    } catch (...) {  // no exception may leave another thread
      failed = true;
    }
  };
  // A lone tile has an empty one beside it: outside of a parallel region its product would be cut among threads.
  if (tiles > 0) torch::stable::parallel_for(0, std::max<int64_t>(tiles, 2), 1, guarded);
  if (failed) throw std::runtime_error("codebook_lookup: the product of a gradient and the codebook failed");
  return grad_logits;
}

// Of each code, the sum over its rows in their order, in double.
template <class Real>
void sum_rows(const Real* rows, int64_t d, const int64_t* counts, const int64_t* order, int64_t codes, Real* sums) {
  std::vector<int64_t> first(size_t(codes) + 1, 0);
  for (int64_t j = 0; j < codes; ++j) first[size_t(j) + 1] = first[size_t(j)] + counts[j];
  parallel_for_vectors(codes, d, [&](int64_t begin, int64_t end) {
    std::vector<double> total(size_t(d), 0.0);
    for (int64_t j = begin; j < end; ++j) {
      std::fill(total.begin(), total.end(), 0.0);
      for (int64_t i = first[size_t(j)]; i < first[size_t(j) + 1]; ++i) {
        const Real* row = rows + order[i] * d;
        for (int64_t c = 0; c < d; ++c) total[size_t(c)] += double(row[c]);
      }
      for (int64_t c = 0; c < d; ++c) sums[j * d + c] = Real(total[size_t(c)]);
    }
  });
}

Tensor codebook_gradient(const Tensor& grad_vectors, const Tensor& index_given, int64_t codes) {
  require(index_given.scalar_type() == ScalarType::Long, "index: expected int64, one a vector");
  const int64_t rows = index_given.numel();
  const Tensor index = torch::stable::contiguous(index_given);
  const ScalarType dtype = grad_vectors.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor upstream = gradient_rows(grad_vectors, rows, dtype);
  const int64_t d = upstream.size(1);
  std::vector<int64_t> counts(static_cast<size_t>(codes)), order(static_cast<size_t>(rows)), inverse(order.size());
  DispatchPlan plan(index.const_data_ptr<int64_t>(), rows, codes);
  for (int64_t part = 0; part < plan.parts(); ++part) {
    require(plan.count(part) < 0, "index: expected categories in [0, C)");
  }
  plan.sum(counts.data());
  for (int64_t part = 0; part < plan.parts(); ++part) plan.place(part, order.data(), inverse.data());
  Tensor sums = empty({codes, d}, dtype);
  if (dtype == ScalarType::Double) {
    sum_rows(upstream.const_data_ptr<double>(), d, counts.data(), order.data(), codes, sums.mutable_data_ptr<double>());
  } else {
    sum_rows(upstream.const_data_ptr<float>(), d, counts.data(), order.data(), codes, sums.mutable_data_ptr<float>());
  }
  return torch::stable::to(sums, grad_vectors.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(reinmax_kernels, CPU, library) {
  library.impl("codebook_lookup", TORCH_BOX(&codebook_lookup));
  library.impl("codebook_reinmax_backward", TORCH_BOX((&backward<&Kernels::reinmax_backward>)));
  library.impl("codebook_straight_through_backward", TORCH_BOX((&backward<&Kernels::straight_through_backward>)));
  library.impl("codebook_gradient", TORCH_BOX(&codebook_gradient));
}

}  // namespace reinmax_kernels::cpu
