// From a backward written over one row to a range of rows. Included once per level.

// Runs an estimator's backward over rows [begin, end) of few categories: `estimator(row)` for each vector of rows.
template <class Lanes, class Estimator>
static void for_each_vector_of_rows(const BackwardArguments& arguments, int64_t begin, int64_t end,
                                    Estimator estimator) {
  Lanes lanes(arguments);
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int64_t count = end - row < kBlockRows ? end - row : kBlockRows;
    lanes.start_block(row, count);
    for (int lane = 0; lane < count; lane += Lanes::kLanes) {
      lanes.start(lane);
      estimator(lanes);
    }
    lanes.finish_block(row, count);
  }
}

// The same of any rows: for each row or vector of rows.
template <class Real, bool kGradProbs, class Estimator>
static void backward_over(const BackwardArguments& arguments, int64_t begin, int64_t end, Estimator estimator) {
  if (arguments.logits.categories <= kFewCategories) {
    for_each_vector_of_rows<RowLanes<Real, kGradProbs>>(arguments, begin, end, estimator);
  } else {
    CategoryLanes<Real, kGradProbs> lanes(arguments, end);
    for (int64_t row = begin; row < end; ++row) {
      lanes.start(row);
      estimator(lanes);
    }
  }
}

// Which gradients arrive is asked here, once.
template <class Real, class Estimator>
static void backward_as(const BackwardArguments& arguments, int64_t begin, int64_t end, Estimator estimator) {
  if (arguments.grad_probs.data == nullptr) {
    backward_over<Real, false>(arguments, begin, end, estimator);
  } else {
    backward_over<Real, true>(arguments, begin, end, estimator);
  }
}

template <class Estimator>
static void for_each_row(const BackwardArguments& arguments, int64_t begin, int64_t end, Estimator estimator) {
  if (arguments.logits.values.dtype == DType::kFloat64) {
    backward_as<double>(arguments, begin, end, estimator);
  } else {
    backward_as<float>(arguments, begin, end, estimator);
  }
}
