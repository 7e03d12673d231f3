// The draw for many categories: one row after the other, lanes are categories. Included once per level.

// The memory a row needs, laid out in the caller's scratch.
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
  float* weights;       // of the row, each relative to the largest of its chunk, scaled by 2^39
};

struct DrawnRow {
  int64_t index;
  float max;
  double total;  // sum of the weights, scaled by 2^39, relative to the largest logit
};
constexpr DrawnRow kInvalidRow = {0, 0, 0};

// Largest logit and weights of one chunk; the sum is NaN where no distribution can be.
static float weigh_chunk(const Elements<float>& x, int64_t n, ChunkWeights& chunk, float* weights) {
  const float max = largest_of(x, n);
  if (max > kMinusInfinity<float>) {
    x.visit([&](auto load) { weigh(x, load, n, max, chunk, weights); });
  } else {  // nothing but -inf and NaN
    alignas(kRegisterBytes) float values[kChunk];
    read(x.data, x.dtype, n, values);
    chunk.sum = 0;
    for (int64_t i = 0; i < n; ++i) chunk.sum += values[i] == values[i] ? 0 : values[i];
    std::memset(weights, 0, n * sizeof(float));
  }
  return max;
}

// The weight of each chunk beside the others: F, W, and the sum of W.
REINMAX_INLINE int64_t scale_chunks(RowScratch& scratch, float max) {
  if (scratch.chunks == 1) {  // the chunk's largest logit is the row's
    scratch.scale[0] = 1;
    scratch.scaled_sums[0] = scratch.sums[0];
    return int64_t(scratch.sums[0]);
  }
  int64_t total = 0;
  for (int64_t first = 0; first < scratch.chunks; first += Pack<float>::kLanes) {
    const int64_t left = scratch.chunks - first, n = left < Pack<float>::kLanes ? left : Pack<float>::kLanes;
    const auto distance = load_first(scratch.max + first, n, max) - max;
    Simd<float>::exp(distance).store_first(scratch.scale + first, n);
    for (int64_t k = first; k < first + n; ++k) {
      scratch.scaled_sums[k] = __builtin_rint(scratch.sums[k] * double(scratch.scale[k]));
      total += int64_t(scratch.scaled_sums[k]);
    }
  }
  return total;
}

// With `kKeep` the weights of the whole row stay in the scratch, else those of the last chunk.
template <bool kKeep>
static DrawnRow draw_row(const SampleArguments& a, int64_t row, uint64_t chunk_uniform, uint64_t element_uniform,
                         RowScratch& scratch) {
  alignas(kRegisterBytes) float buffer[kChunk];
  const int64_t categories = a.logits.categories;
  const auto size = [&](int64_t k) { return categories - k * kChunk < kChunk ? categories - k * kChunk : kChunk; };
  const auto logits = [&](int64_t k) { return logits_chunk(a.logits, row, k * kChunk, size(k), buffer); };
  const auto weights = [&](int64_t k) { return scratch.weights + (kKeep ? k * kChunk : 0); };
  ChunkWeights chunk;
  int64_t weighed = 0;  // the chunk whose running sums we hold
  float max = kMinusInfinity<float>;
  for (int64_t k = 0; k < scratch.chunks; ++k) {
    scratch.max[k] = weigh_chunk(logits(k), size(k), chunk, weights(k));
    scratch.sums[k] = chunk.sum;
    if (!(chunk.sum >= 0)) return kInvalidRow;
    max = scratch.max[k] > max ? scratch.max[k] : max;
    weighed = k;
  }
  if (!(max > kMinusInfinity<float>)) return kInvalidRow;

  const int64_t total = scale_chunks(scratch, max);
  const auto target = int64_t(contract::multiply_high(chunk_uniform, uint64_t(total)));
  int64_t prefix = 0;
  int64_t k = 0;
  for (; k + 1 < scratch.chunks; ++k) {
    prefix += int64_t(scratch.scaled_sums[k]);
    if (prefix > target) break;
  }
  if (k != weighed) weigh_chunk(logits(k), size(k), chunk, weights(k));
  const double within = double(scale_uniform(element_uniform, scratch.sums[k]));
  return {k * kChunk + choose(weights(k), size(k), chunk, within), max, double(total)};
}

// The kept weights, scaled to probabilities.
static void write_probs(const SampleArguments& a, int64_t row, double total, const RowScratch& scratch) {
  using Vector = Pack<float>;
  const DType dtype = a.logits.values.dtype;
  const int64_t categories = a.logits.categories;
  for (int64_t k = 0; k < scratch.chunks; ++k) {
    const int64_t n = categories - k * kChunk < kChunk ? categories - k * kChunk : kChunk;
    const float scale = float(double(scratch.scale[k]) / total);
    const float* weights = scratch.weights + k * kChunk;
    const Results<float> probs{static_cast<char*>(a.probs) + (row * categories + k * kChunk) * size_of(dtype), dtype};
    int64_t i = 0;
    for (; i + Vector::kLanes <= n; i += Vector::kLanes) probs.store(i, Vector::load(weights + i) * scale);
    if (i < n) probs.store_first(i, n - i, Vector::load(weights + i) * scale);
  }
}

template <bool kProbs>
static void sample_many(const SampleArguments& a, int64_t begin, int64_t end, void* memory) {
  RowScratch scratch(memory, a.logits.categories);
  float max[kBlockRows] = {};
  alignas(kRegisterBytes) double total[kBlockRows];
  BlockUniforms uniforms;
  const bool is_double = a.logits.values.dtype == DType::kFloat64;
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
      if (a.log_sum_exp != nullptr && is_double) softmax_double(a, first + i);
      max[i] = drawn.max;
      total[i] = drawn.total;
    }
    if (a.log_sum_exp != nullptr && !is_double) log_sum_exps(max, total, count, a.log_sum_exp + first);
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
