// Blocks of rows of few categories, turned so that lanes are rows. Included once per level.

constexpr int kFewCategories = 32;  // up to here, lanes are rows
constexpr int kBlockRows = 64;
constexpr int kTile = 4;

// Up to kBlockRows rows of few categories, turned so that lanes are rows: [category][row].
template <class Real>
using Block = Real[kFewCategories][kBlockRows];

// The same rows as they lie in memory, one after the other; a tile of the last row may reach beyond it.
template <class Real>
using Lying = Real[kBlockRows * kFewCategories + kTile];

// 4 x 4 elements, turned.
template <class Real>
REINMAX_INLINE void transpose_tile(const Real* from, int64_t from_stride, Real* to, int64_t to_stride) {
  typedef Real Four __attribute__((vector_size(4 * sizeof(Real))));
  Four row[4];
  for (int i = 0; i < 4; ++i) __builtin_memcpy(&row[i], from + i * from_stride, sizeof(Four));
  const Four low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
  const Four high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const Four low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  const Four high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  const Four column[4] = {
      __builtin_shufflevector(low01, low23, 0, 1, 4, 5), __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
      __builtin_shufflevector(high01, high23, 0, 1, 4, 5), __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
  for (int j = 0; j < 4; ++j) __builtin_memcpy(to + j * to_stride, &column[j], sizeof(Four));
}

// Lanes beyond the rows keep what they held, or become 0.
template <class Real>
static void read_block(const Rows& rows, const Rows* mask, int64_t row, int64_t count, int64_t categories,
                       Block<Real>& to) {
  Lying<Real> values;
  const auto is_dense = [categories](const Rows& given) {
    return given.category_stride == 1 && given.dims <= 1 && (given.dims == 0 || given.stride[0] == categories);
  };
  if (is_dense(rows)) {
    read(element(rows, row, 0), rows.dtype, count * categories, values);
  } else {
    for (int64_t i = 0; i < count; ++i) read_row(rows, row + i, 0, categories, values + i * categories);
  }
  const bool masked = mask != nullptr && mask->data != nullptr;
  if (masked && is_dense(*mask)) {
    apply_mask(*mask, row, 0, count * categories, values);
  } else if (masked) {
    for (int64_t i = 0; i < count; ++i) apply_mask(*mask, row + i, 0, categories, values + i * categories);
  }
  const int64_t missing = (kTile - count % kTile) % kTile;
  std::memset(values + count * categories, 0, (missing * categories + kTile) * sizeof(Real));
  for (int64_t i = 0; i < count; i += kTile) {
    for (int64_t j = 0; j < categories; j += kTile) {
      transpose_tile(values + i * categories + j, categories, &to[j][i], kBlockRows);
    }
  }
}

// A tile's rows that reach beyond the last category are written over by the next row's first tile, which comes later.
template <class Real>
static void write_block(const Block<Real>& from, DType dtype, int64_t row, int64_t count, int64_t categories,
                        void* to) {
  Lying<Real> values;
  for (int64_t i = 0; i < count; i += kTile) {
    for (int64_t j = (categories - 1) / kTile * kTile; j >= 0; j -= kTile) {
      transpose_tile(&from[j][i], kBlockRows, values + i * categories + j, categories);
    }
  }
  write(values, dtype, count * categories, static_cast<char*>(to) + row * categories * size_of(dtype));
}
