// The draw by the sampling contract, index alone or dense: one-hot, probabilities and log-sum-exp. Included once per
// level.

constexpr int kGroup = 64;  // elements between two prefix sums that are kept
constexpr double kLn2 = 0.693147180559945309417;

// 2^39 E((x - largest) log2 e): the weight before it is rounded. A row with NaN or +inf gives NaN.
REINMAX_INLINE Float weight(Float x, Float largest) {
  return contract::exp2<contract::kWeightBits, Simd<float>>((x - largest) * contract::kLog2E);
}

REINMAX_INLINE DoublePair integers(Float weight) { return widen(Simd<float>::round(weight)); }

// The uniforms of a block of rows. The loop is vectorised: a row costs a few cycles, not Philox's full latency.
struct BlockUniforms {
  uint64_t chunk[kBlockRows], element[kBlockRows];

  void draw(const SampleArguments& a, int64_t row, int64_t count) {
    uint64_t seeds[kBlockRows], numbers[kBlockRows];
    int64_t group = row / a.rows_per_seed, within = row % a.rows_per_seed;
    for (int64_t i = 0; i < count; ++i) {
      seeds[i] = uint64_t(a.seeds[group]);
      numbers[i] = uint64_t(a.row_offset) + uint64_t(within);
      if (++within == a.rows_per_seed) within = 0, ++group;
    }
    for (int64_t i = count; i < kBlockRows; ++i) seeds[i] = numbers[i] = 0;
    const uint64_t offset = uint64_t(a.offset);
    for (int i = 0; i < kBlockRows; ++i) {
      const contract::Uniforms u = contract::uniforms(seeds[i], numbers[i], offset);
      chunk[i] = u.chunk;
      element[i] = u.element;
    }
  }
};

// The weights of one chunk, of n <= 1024 elements: their sum, and the running sum after each group of elements.
struct ChunkWeights {
  DoublePair prefix[kChunk / kGroup];
  double sum;
};

// Calls body(vector, first element) on n elements; lanes beyond the end hold `pad`.
template <class Body>
REINMAX_INLINE void for_vectors(const float* x, int64_t n, float pad, Body body) {
  constexpr int kLanes = Simd<float>::kLanes;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(load<Float>(x + i), i);
  if (i < n) body(load_first(x + i, n - i, pad), i);
}

REINMAX_INLINE float largest_of(const float* x, int64_t n) {
  Float result = Simd<float>::broadcast(kMinusInfinity<float>);
  for_vectors(x, n, kMinusInfinity<float>, [&](Float v, int64_t) { result = maximum(v, result); });
  return largest<float>(result);
}

// `weights`, where given, receives them unscaled and unrounded; it has room for whole vectors.
template <bool kKeep>
static void weigh(const float* x, int64_t n, float max, ChunkWeights& result, float* weights) {
  const Float largest = Simd<float>::broadcast(max);
  DoublePair sums{};
  for (int64_t first = 0; first < n; first += kGroup) {
    const int64_t size = n - first < kGroup ? n - first : kGroup;
    for_vectors(x + first, size, kMinusInfinity<float>, [&](Float v, int64_t i) {
      const Float w = weight(v, largest);
      if (kKeep) store(weights + first + i, w * 0x1p-39f);
      const DoublePair q = integers(w);
      sums.low += q.low;
      sums.high += q.high;
    });
    result.prefix[first / kGroup] = sums;
  }
  result.sum = sum<double>(sums.low + sums.high);
}

// The first element of a chunk whose inclusive prefix sum exceeds the target.
static int64_t select(const float* x, int64_t n, float max, const ChunkWeights& chunk, double target) {
  constexpr int kLanes = Simd<float>::kLanes;
  const Float largest = Simd<float>::broadcast(max);
  double before = 0;
  int64_t first = 0;
  for (; first + kGroup < n; first += kGroup) {
    const DoublePair& prefix = chunk.prefix[first / kGroup];
    const double after = sum<double>(prefix.low + prefix.high);
    if (after > target) break;
    before = after;
  }
  for (int64_t i = first; i < n; i += kLanes) {
    const Float v = n - i >= kLanes ? load<Float>(x + i) : load_first(x + i, n - i, kMinusInfinity<float>);
    const DoublePair q = integers(weight(v, largest));
    const double after = before + sum<double>(q.low + q.high);
    if (after > target) {
      alignas(kVectorBytes) double lanes[kLanes];
      store(lanes, q.low);
      store(lanes + kLanes / 2, q.high);
      for (int lane = 0;; ++lane) {
        before += lanes[lane];
        if (before > target) return i + lane;
      }
    }
    before = after;
  }
  return 0;  // not reached: the target is below the sum
}

// Log-sum-exp from the largest logit and the sum of weights, scaled by 2^39, relative to it.
REINMAX_INLINE void log_sum_exps(const float* max, const double* total, int64_t count, double* result) {
  constexpr int kLanes = Simd<double>::kLanes;
  alignas(kVectorBytes) double logs[kBlockRows];
  for (int64_t i = 0; i < kBlockRows; i += kLanes) store(logs + i, log(load<Double>(total + i)));
  for (int64_t i = 0; i < count; ++i) result[i] = double(max[i]) + (logs[i] - contract::kWeightBits * kLn2);
}

static void set_one(void* one_hot, DType dtype, int64_t at) {
  switch (dtype) {
    case DType::kFloat64: static_cast<double*>(one_hot)[at] = 1; return;
    case DType::kFloat32: static_cast<float*>(one_hot)[at] = 1; return;
    case DType::kFloat16: static_cast<uint16_t*>(one_hot)[at] = 0x3C00; return;
    default: static_cast<uint16_t*>(one_hot)[at] = 0x3F80;
  }
}

static void write_one_hot(const SampleArguments& a, int64_t row, int64_t count) {
  const int64_t categories = a.logits.categories;
  const DType dtype = a.logits.values.dtype;
  const int64_t row_bytes = categories * size_of(dtype);
  std::memset(static_cast<char*>(a.one_hot) + row * row_bytes, 0, count * row_bytes);
  for (int64_t i = row; i < row + count; ++i) set_one(a.one_hot, dtype, i * categories + a.index[i]);
}

// float64 logits keep float64 probabilities: the softmax of one row, apart from the draw.
static void softmax_double(const SampleArguments& a, int64_t row) {
  constexpr int kLanes = Simd<double>::kLanes;
  const int64_t categories = a.logits.categories;
  double* probs = static_cast<double*>(a.probs) + row * categories;
  const auto for_chunks = [&](auto body) {
    alignas(kVectorBytes) double buffer[kChunk];
    for (int64_t first = 0; first < categories; first += kChunk) {
      const int64_t n = categories - first < kChunk ? categories - first : kChunk;
      const double* x = logits_chunk(a.logits, row, first, n, buffer);
      for (int64_t i = 0; i < n; i += kLanes) {
        const int64_t size = n - i < kLanes ? n - i : kLanes;
        body(load_first(x + i, size, kMinusInfinity<double>), first + i, size);
      }
    }
  };
  Double running = Simd<double>::broadcast(kMinusInfinity<double>), total{};
  for_chunks([&](Double x, int64_t, int64_t) { running = maximum(x, running); });
  const double max = largest<double>(running);
  for_chunks([&](Double x, int64_t, int64_t) { total += Simd<double>::exp(x - max); });
  const double sum_exp = sum<double>(total);
  for_chunks([&](Double x, int64_t at, int64_t size) {
    const Double p = Simd<double>::exp(x - max) / sum_exp;
    std::memcpy(probs + at, &p, size * sizeof(double));
  });
  a.log_sum_exp[row] = max + log(Simd<double>::broadcast(sum_exp))[0];
}

// Few categories: lanes are rows.
static void sample_few(const SampleArguments& a, int64_t begin, int64_t end) {
  constexpr int kLanes = Simd<float>::kLanes;
  const int64_t categories = a.logits.categories;
  const bool dense = a.one_hot != nullptr;
  alignas(kVectorBytes) Block<float> x, weights;
  alignas(kVectorBytes) float max[kBlockRows];
  alignas(kVectorBytes) double total[kBlockRows], target[kBlockRows];
  alignas(kVectorBytes) int64_t index[kBlockRows];
  BlockUniforms uniforms;
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int64_t count = end - row < kBlockRows ? end - row : kBlockRows;
    read_block(a.logits.values, &a.logits.mask, row, count, categories, x);
    uniforms.draw(a, row, count);
    for (int lane = 0; lane < kBlockRows; lane += kLanes) {
      Float largest = load<Float>(&x[0][lane]);
      for (int64_t j = 1; j < categories; ++j) largest = maximum(load<Float>(&x[j][lane]), largest);
      DoublePair sums{};
      for (int64_t j = 0; j < categories; ++j) {
        const Float w = weight(load<Float>(&x[j][lane]), largest);
        store(&weights[j][lane], w);
        const DoublePair q = integers(w);
        sums.low += q.low;
        sums.high += q.high;
      }
      store(max + lane, largest);
      store(total + lane, sums.low);
      store(total + lane + kLanes / 2, sums.high);
    }
    for (int64_t i = 0; i < kBlockRows; ++i) {
      if (total[i] > 0) {
        target[i] = double(contract::multiply_high(uniforms.element[i], uint64_t(total[i])));
      } else {  // NaN: the row has no distribution, and gets index 0
        report_invalid_row(*a.first_invalid_row, row + i);
        total[i] = 1;
        target[i] = -1;
      }
    }
    for (int lane = 0; lane < kBlockRows; lane += kLanes) {
      const Double target_low = load<Double>(target + lane), target_high = load<Double>(target + lane + kLanes / 2);
      DoublePair prefix{};
      Int64 low{}, high{};
      for (int64_t j = 0; j + 1 < categories; ++j) {  // counts the prefix sums that do not exceed the target
        const DoublePair q = integers(load<Float>(&weights[j][lane]));
        prefix.low += q.low;
        prefix.high += q.high;
        low -= prefix.low <= target_low;
        high -= prefix.high <= target_high;
      }
      store(index + lane, low);
      store(index + lane + kLanes / 2, high);
    }
    std::memcpy(a.index + row, index, count * sizeof(int64_t));
    if (!dense) continue;
    write_one_hot(a, row, count);
    if (a.logits.values.dtype == DType::kFloat64) {
      for (int64_t i = 0; i < count; ++i) softmax_double(a, row + i);
      continue;
    }
    for (int lane = 0; lane < kBlockRows; lane += kLanes) {
      const Float scale = 1.0f / narrow({load<Double>(total + lane), load<Double>(total + lane + kLanes / 2)});
      for (int64_t j = 0; j < categories; ++j) store(&weights[j][lane], load<Float>(&weights[j][lane]) * scale);
    }
    write_block(weights, a.logits.values.dtype, row, count, categories, a.probs);
    log_sum_exps(max, total, count, a.log_sum_exp + row);
  }
}

// The memory a row of many chunks needs, laid out in the caller's scratch.
struct RowScratch {
  RowScratch(void* scratch, int64_t categories) : chunks((categories + kChunk - 1) / kChunk) {
    sums = static_cast<double*>(scratch);
    scaled_sums = sums + chunks;
    max = reinterpret_cast<float*>(scaled_sums + chunks);
    scale = max + chunks;
    weights = scale + chunks;
  }
  int64_t chunks;
  double* sums;         // S of each chunk
  double* scaled_sums;  // W: the same, relative to the largest logit of the row
  float* max;           // of each chunk
  float* scale;         // F of each chunk
  float* weights;       // of the row, each relative to the largest of its chunk; of dense calls alone
};

struct DrawnRow {
  int64_t index;
  float max;
  double total;  // sum of the weights, scaled by 2^39, relative to the largest logit
};
constexpr DrawnRow kInvalidRow = {0, 0, 0};

// Largest logit and weights of one chunk; the sum is NaN where no distribution can be.
template <bool kKeep>
static float weigh_chunk(const float* x, int64_t n, ChunkWeights& result, float* weights) {
  const float max = largest_of(x, n);
  if (max > kMinusInfinity<float>) {
    weigh<kKeep>(x, n, max, result, weights);
  } else {  // nothing but -inf, and NaN, which a maximum drops
    result.sum = 0;
    for (int64_t i = 0; i < n; ++i) result.sum += x[i] == x[i] ? 0 : x[i];
    if (kKeep) std::memset(weights, 0, n * sizeof(float));
  }
  return max;
}

template <bool kKeep>
static DrawnRow draw_row(const SampleArguments& a, int64_t row, uint64_t chunk_uniform, uint64_t element_uniform,
                         RowScratch& scratch) {
  alignas(kVectorBytes) float buffer[kChunk];
  const int64_t categories = a.logits.categories;
  const auto size = [&](int64_t k) { return categories - k * kChunk < kChunk ? categories - k * kChunk : kChunk; };
  const auto logits = [&](int64_t k) { return logits_chunk(a.logits, row, k * kChunk, size(k), buffer); };
  ChunkWeights chunk;
  const float* x = nullptr;
  int64_t last = 0;
  float max = kMinusInfinity<float>;
  for (int64_t k = 0; k < scratch.chunks; ++k, last = k - 1) {
    x = logits(k);
    scratch.max[k] = weigh_chunk<kKeep>(x, size(k), chunk, scratch.weights + (kKeep ? k * kChunk : 0));
    scratch.sums[k] = chunk.sum;
    if (!(chunk.sum >= 0)) return kInvalidRow;
    max = scratch.max[k] > max ? scratch.max[k] : max;
  }
  if (!(max > kMinusInfinity<float>)) return kInvalidRow;

  uint64_t total = 0;
  for (int64_t k = 0; k < scratch.chunks; ++k) {
    const Float distance = Simd<float>::broadcast(scratch.max[k] - max);
    scratch.scale[k] = Simd<float>::exp(distance)[0];
    scratch.scaled_sums[k] = __builtin_rint(scratch.sums[k] * double(scratch.scale[k]));
    total += uint64_t(scratch.scaled_sums[k]);
  }
  const uint64_t target = contract::multiply_high(chunk_uniform, total);
  uint64_t prefix = 0;
  int64_t k = 0;
  for (; k + 1 < scratch.chunks; ++k) {
    prefix += uint64_t(scratch.scaled_sums[k]);
    if (prefix > target) break;
  }
  if (k != last) {  // the running sums of another chunk were overwritten
    x = logits(k);
    weigh<false>(x, size(k), scratch.max[k], chunk, nullptr);
  }
  const double within = double(contract::multiply_high(element_uniform, uint64_t(scratch.sums[k])));
  return {k * kChunk + select(x, size(k), scratch.max[k], chunk, within), max, double(total)};
}

// The kept weights, scaled to probabilities.
static void write_probs(const SampleArguments& a, int64_t row, double total, const RowScratch& scratch) {
  constexpr int kLanes = Simd<float>::kLanes;
  const DType dtype = a.logits.values.dtype;
  const int64_t categories = a.logits.categories;
  for (int64_t k = 0; k < scratch.chunks; ++k) {
    const int64_t n = categories - k * kChunk < kChunk ? categories - k * kChunk : kChunk;
    const float scale = float(double(scratch.scale[k]) * 0x1p39 / total);
    float* weights = scratch.weights + k * kChunk;
    for (int64_t i = 0; i < n; i += kLanes) store(weights + i, load<Float>(weights + i) * scale);
    write(weights, dtype, n, static_cast<char*>(a.probs) + (row * categories + k * kChunk) * size_of(dtype));
  }
}

// Many categories: one row after the other, lanes are categories.
template <bool kProbs>
static void sample_many(const SampleArguments& a, int64_t begin, int64_t end, void* memory) {
  RowScratch scratch(memory, a.logits.categories);
  float max[kBlockRows] = {};
  alignas(kVectorBytes) double total[kBlockRows];
  BlockUniforms uniforms;
  for (int64_t first = begin; first < end; first += kBlockRows) {
    const int64_t count = end - first < kBlockRows ? end - first : kBlockRows;
    uniforms.draw(a, first, count);
    for (int64_t i = 0; i < kBlockRows; ++i) total[i] = 1;
    for (int64_t i = 0; i < count; ++i) {
      const DrawnRow drawn = draw_row<kProbs>(a, first + i, uniforms.chunk[i], uniforms.element[i], scratch);
      a.index[first + i] = drawn.index;
      if (drawn.total == 0) {
        report_invalid_row(*a.first_invalid_row, first + i);
        continue;
      }
      if (a.one_hot != nullptr) write_one_hot(a, first + i, 1);
      if (kProbs) write_probs(a, first + i, drawn.total, scratch);
      if (a.one_hot != nullptr && !kProbs) softmax_double(a, first + i);
      max[i] = drawn.max;
      total[i] = drawn.total;
    }
    if (kProbs) log_sum_exps(max, total, count, a.log_sum_exp + first);
  }
}

static void sample(const SampleArguments& a, int64_t begin, int64_t end, void* scratch) {
  if (a.logits.categories <= kFewCategories) {
    sample_few(a, begin, end);
  } else if (a.one_hot != nullptr && a.logits.values.dtype != DType::kFloat64) {
    sample_many<true>(a, begin, end, scratch);
  } else {
    sample_many<false>(a, begin, end, scratch);
  }
}
