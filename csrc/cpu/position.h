// How an estimator's backward sees rows. Many categories: one row at a time, a chunk after the other, the lanes of a
// vector being categories. Few: a block of rows at a time, the lanes being rows, so that nothing is reduced across
// lanes and no lane is idle. A backward is written once, for both. Included once per level.

// 1 / tau, kept inside the range where 0 times it is 0 and -inf times it is -inf.
template <class Real>
REINMAX_INLINE Real inverse_of(double tau) {
  constexpr double kLeast = std::numeric_limits<Real>::min(), kMost = std::numeric_limits<Real>::max();
  const double inverse = 1 / tau;
  return Real(inverse < kLeast ? kLeast : inverse > kMost ? kMost : inverse);
}

// Whether exponents of x / tau can be relative to a row's log-sum-exp, which is known, and not to its largest logit,
// which has to be looked for. The log-sum-exp is at most ln C above that or, rounded, twice as much.
REINMAX_INLINE bool log_sum_exp_is_near(const BackwardArguments& arguments) {
  constexpr double kFarthest = 16;  // more would cost the largest weight accuracy: 2^-24 of its exponent, in float
  return std::log(double(arguments.logits.categories)) <= kFarthest * arguments.tau;
}

// What a function reads: anew where it is asked for, so that no register waits for its turn, and a pass that does with
// what was kept of the logit does not read it; or at once, where to read it is dear.
template <bool kAnew, class Read>
REINMAX_INLINE auto reading(Read read) {
  if constexpr (kAnew) {
    return read;
  } else {
    return [v = read()]() REINMAX_LAMBDA { return v; };
  }
}

// What a backward sees at one position (a category of a row): the logit, -inf where masked, and the gradients of
// one-hot and probabilities, 0 where the category can't be drawn, whatever arrived there.
template <class Real, class Logit, class OneHot, class Probs>
struct Position {
  Logit logit;  // functions
  OneHot arrived_at_one_hot;
  Probs arrived_at_probs;
  int64_t slot;  // where an array of the estimator's own holds what belongs here

  REINMAX_MEMBER Pack<Real> grad_one_hot() const { return if_drawable(arrived_at_one_hot()); }
  REINMAX_MEMBER Pack<Real> grad_probs() const { return if_drawable(arrived_at_probs()); }

  // The gradient of one-hot by a weight of the logit's, 0 where that is -inf, so that the logit need not be read again:
  // also 0 where the weight underflows, which what it is multiplied with does not tell.
  REINMAX_MEMBER Pack<Real> grad_one_hot_of(const Pack<Real>& weight) const {
    const auto zero = Pack<Real>::broadcast(0);
    return select(weight > zero, arrived_at_one_hot(), zero);
  }

 private:
  REINMAX_MEMBER Pack<Real> if_drawable(const Pack<Real>& gradient) const {
    return select(logit() > kMinusInfinity<Real>, gradient, Pack<Real>::broadcast(0));
  }
};

template <class Real, class Logit, class OneHot, class Probs>
REINMAX_INLINE Position<Real, Logit, OneHot, Probs> position(Logit logit, OneHot one_hot, Probs probs, int64_t slot) {
  return {logit, one_hot, probs, slot};
}

// The same where the drawn category is: of one row a number each, of rows as lanes a vector.
template <class Quantity>
class DrawnPosition {
 public:
  DrawnPosition(const Quantity& logit, const Quantity& grad_one_hot, const Quantity& grad_probs)
      : logit_(logit), grad_one_hot_(grad_one_hot), grad_probs_(grad_probs) {}

  REINMAX_MEMBER Quantity logit() const { return logit_; }
  REINMAX_MEMBER Quantity grad_one_hot() const { return grad_one_hot_; }
  REINMAX_MEMBER Quantity grad_probs() const { return grad_probs_; }

 private:
  Quantity logit_, grad_one_hot_, grad_probs_;
};

template <class Sum, int kSums>
struct Sums {
  Sum values[kSums > 0 ? kSums : 1] = {};
  const auto& operator[](int i) const { return values[i]; }
};

// A sum over lanes too, on its way: one register, so that an estimator may keep several.
template <class Real>
struct LaneSum {
  Register<Real> value;
  REINMAX_MEMBER void operator+=(const Pack<Real>& v) {
    value += v.fold([](auto x, auto y) { return x + y; });
  }
};
