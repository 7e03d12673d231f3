// Logarithms of one register. Included once per level.

// Natural logarithm of v > 0, normal: v = 2^e f with f in [sqrt(1/2), sqrt(2)), s = (f - 1) / (f + 1), and
// log f = 2 artanh(s) by its series to s^19: relative error below 1e-16 before rounding.
REINMAX_INLINE Register<double> log(const Register<double>& v) {
  using Int64 = Register<int64_t>;
  const Int64 shifted = bits_as<Int64>(v) - 0x3FE6A09E667F3BCD;  // bits of sqrt(1/2)
  const Int64 exponent = shifted >> 52;
  const auto f = bits_as<Register<double>>((shifted & 0x000FFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD);
  const auto s = (f - 1.0) / (f + 1.0), s2 = s * s;
  Register<double> series = Register<double>{} + 1.0 / 19;
  for (int k = 17; k >= 1; k -= 2) series = series * s2 + 1.0 / k;
  return __builtin_convertvector(exponent, Register<double>) * 0.693147180559945309417 + 2.0 * s * series;
}

// The same of floats, to about one place: f - 1 in [sqrt(1/2) - 1, sqrt(2) - 1) is exact, and log f = (f - 1) +
// (f - 1)^2 Q(f - 1), Q a polynomial whose relative error in the logarithm is 5.2e-9.
template <int kRegisters>
REINMAX_INLINE Pack<float, kRegisters> log(const Pack<float, kRegisters>& v) {
  constexpr int32_t kRootHalf = 0x3F3504F3;  // bits of sqrt(1/2)
  const auto shifted = v.each([](auto u) { return bits_as<Register<int32_t>>(u) - kRootHalf; });
  const auto f = shifted.each([](auto s) { return bits_as<Register<float>>((s & 0x007FFFFF) + kRootHalf) - 1.0f; });
  auto series = Pack<float, kRegisters>::broadcast(-0.07621856033802032f);
  constexpr float kCoefficients[] = {0.12904493510723114f,  -0.13242985308170319f, 0.14181813597679138f,
                                     -0.16609081625938416f, 0.2000197470188141f,   -0.25001582503318787f,
                                     0.33333325386047363f,  -0.49999988079071045f};
  const auto times_plus = [](auto x, auto y, auto z) { return fma(x, y, z); };
  for (const float c : kCoefficients) series = series.each(times_plus, f, Pack<float, kRegisters>::broadcast(c));
  const auto log_f = (f * f).each(times_plus, series, f);
  const auto exponent = shifted.each([](auto s) { return __builtin_convertvector(s >> 23, Register<float>); });
  return exponent.each(times_plus, Pack<float, kRegisters>::broadcast(0.693147180559945309f), log_f);
}

REINMAX_INLINE Pack<double> log(const Pack<double>& v) {
  return v.each([](auto u) { return log(u); });
}

REINMAX_INLINE Register<float> log(const Register<float>& v) { return log(Pack<float, 1>{v}).value; }

// log(1 + x) for x >= 0 with 1 + x finite: what the sum lost to rounding is put back, to first order.
template <class Vector>
REINMAX_INLINE Vector log_1p(const Vector& x) {
  const Vector y = x + 1;
  return log(y) + (x - (y - 1)) / y;
}
