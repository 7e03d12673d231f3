// The draw for few categories: lanes are rows. Included once per level.

// What decides the draws of a block of rows: row i draws the first category whose inclusive prefix sum of integer
// weights exceeds target[i].
struct BlockDraw {
  alignas(kRegisterBytes) Block<float> weights;  // relative to the largest logit, scaled by 2^39
  alignas(kRegisterBytes) float max[kBlockRows];
  alignas(kRegisterBytes) double total[kBlockRows];
  alignas(kRegisterBytes) double target[kBlockRows];
};

static void weigh_block(const Block<float>& x, int64_t categories, BlockDraw& block) {
  using Vector = Pack<float>;
  for (int lane = 0; lane < kBlockRows; lane += Vector::kLanes) {
    Vector largest = Vector::load(&x[0][lane]);
    for (int64_t j = 1; j < categories; ++j) largest = maximum(Vector::load(&x[j][lane]), largest);
    largest.store(block.max + lane);
    SplitSum sum{};
    for (int64_t j = 0; j < categories; ++j) {
      const Vector w = weight(Vector::load(&x[j][lane]), largest);
      w.store(&block.weights[j][lane]);
      sum.add(SplitWeights(w));
    }
    sum.store(categories, block.total + lane);
  }
}

static void choose_in_block(const BlockDraw& block, int64_t categories, int64_t* index) {
  constexpr int kHalf = kRegisterLanes<double>;
  for (int lane = 0; lane < kBlockRows; lane += kRegisterLanes<float>) {
    const auto target_low = load_register<Register<double>>(block.target + lane);
    const auto target_high = load_register<Register<double>>(block.target + lane + kHalf);
    DoublePair prefix{};
    Register<int64_t> low{}, high{};
    for (int64_t j = 0; j + 1 < categories; ++j) {  // counts the prefix sums that do not exceed the target
      const DoublePair q = integers(load_register<Float>(&block.weights[j][lane]));
      prefix.low += q.low;
      prefix.high += q.high;
      low -= prefix.low <= target_low;
      high -= prefix.high <= target_high;
    }
    store_register(index + lane, low);
    store_register(index + lane + kHalf, high);
  }
}

// Weights to probabilities, where they lie.
static void normalise_block(BlockDraw& block, int64_t categories) {
  for (int lane = 0; lane < kBlockRows; lane += kRegisterLanes<float>) {
    const auto* total = block.total + lane;
    const Float scale = 1.0f / narrow({load_register<Register<double>>(total),
                                       load_register<Register<double>>(total + kRegisterLanes<double>)});
    for (int64_t j = 0; j < categories; ++j) {
      float* weights = &block.weights[j][lane];
      store_register(weights, load_register<Float>(weights) * scale);
    }
  }
}

static void sample_few(const SampleArguments& a, int64_t begin, int64_t end) {
  const int64_t categories = a.logits.categories;
  alignas(kRegisterBytes) Block<float> x;
  alignas(kRegisterBytes) int64_t index[kBlockRows];
  BlockDraw block;
  BlockUniforms uniforms;
  std::memset(x, 0, categories * sizeof(x[0]));
  std::memset(block.target, 0, sizeof(block.target));
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int64_t count = end - row < kBlockRows ? end - row : kBlockRows;
    read_block(a.logits.values, &a.logits.mask, row, count, categories, x);
    uniforms.draw(a, row, count);
    weigh_block(x, categories, block);
    for (int64_t i = 0; i < count; ++i) {
      if (block.total[i] > 0) {
        block.target[i] = double(scale_uniform(uniforms.element[i], block.total[i]));
      } else {  // NaN: the row has no distribution, and gets index 0
        report_invalid_row(*a.first_invalid_row, row + i);
        block.total[i] = 1;
        block.target[i] = -1;
      }
    }
    choose_in_block(block, categories, index);
    std::memcpy(a.index + row, index, count * sizeof(int64_t));
    if (a.log_sum_exp == nullptr) continue;
    if (a.one_hot != nullptr) write_one_hot(a, row, count);
    if (a.logits.values.dtype == DType::kFloat64) {
      for (int64_t i = 0; i < count; ++i) softmax_double(a, row + i);
    } else {
      if (a.probs != nullptr) {
        normalise_block(block, categories);
        write_block(block.weights, a.logits.values.dtype, row, count, categories, a.probs);
      }
      log_sum_exps(block.max, block.total, count, a.log_sum_exp + row);
    }
  }
}
