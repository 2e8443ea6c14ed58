// Products of a block's rows with a matrix, inside the loop over time: u = z W, for z [n, in] and u [n, out].
//
// W is packed once a call: panels of 256 bytes of columns, each `in` rows long, so that a panel stays in the cache while all rows pass.
// A row of z that is mostly zeros (spikes) is a sum of the few rows of W that it names. Both ways add in the order of W's rows, with
// the same roundings, and an addition of 0 * w changes nothing where w is finite: so which of them is taken cannot be seen in the result.

#if defined(__AVX512F__)
enum { VECTOR = 64, TILE = 4 };   // bytes of a vector, vectors of a tile's columns
#elif defined(__AVX__)
enum { VECTOR = 32, TILE = 2 };
#else
enum { VECTOR = 16, TILE = 4 };
#endif
enum { ROWS = 6 };   // of a tile: its sums, a row of W and a factor fill the registers

// A multiplication and an addition in one, which the rest of the text may not have: there the loop's bits are promised.
#if defined(__clang__)
#define FUSED
#define CONTRACT _Pragma("clang fp contract(fast)")
#else
#define FUSED __attribute__((optimize("fp-contract=fast")))
#define CONTRACT
#endif

template <class F> struct Panel {
    enum { width = 256 / sizeof(F), lane = VECTOR / sizeof(F) };
    typedef F vector __attribute__((vector_size(VECTOR), may_alias));
    typedef F loose __attribute__((vector_size(VECTOR), may_alias, aligned(sizeof(F))));
};

struct Matrix { void* data; i64 in, out, groups; bool finite; };

static inline i64 panels(i64 out, i64 width) { return (out + width - 1) / width; }

template <class F> static i64 packed(const Matrix& m) { return m.groups * panels(m.out, Panel<F>::width) * Panel<F>::width * m.in; }

// From W [groups, in, out] to panels; with `transposed` of what lies there as [groups, out, in].
template <class F, class K> static char* pack(Matrix& m, char* to, const Arg& a, bool transposed) {
    const i64 width = Panel<F>::width, rows = a.stride[transposed], columns = a.stride[!transposed];
    m = Matrix{to, a.size[transposed], a.size[!transposed], a.kind, true};
    F* out = (F*)to;
    F sum = 0;
    for (i64 g = 0; g < m.groups; ++g)
        for (i64 first = 0; first < m.out; first += width)
            for (i64 k = 0; k < m.in; ++k, out += width) {
                const K* from = (const K*)a.data + g * a.time + k * rows + first * columns;
                const i64 n = m.out - first < width ? m.out - first : width;
                if (columns == 1) for (i64 c = 0; c < n; ++c) out[c] = read(from[c]);
                else for (i64 c = 0; c < n; ++c) out[c] = read(from[c * columns]);
                for (i64 c = n; c < width; ++c) out[c] = 0;
                for (i64 c = 0; c < width; ++c) sum += out[c] - out[c];   // NaN where one is not finite
            }
    m.finite = sum == 0;
    return (char*)out;
}

template <class F, int M> FUSED static void tile(F* u, i64 apart, const F* z, const F* w, i64 in) {
    CONTRACT
    typedef typename Panel<F>::vector V;
    V sum[M][TILE];
    for (int m = 0; m < M; ++m) for (int v = 0; v < TILE; ++v) sum[m][v] = V{};
    for (i64 k = 0; k < in; ++k, w += Panel<F>::width) {
        V row[TILE];
        for (int v = 0; v < TILE; ++v) row[v] = ((const V*)w)[v];
        for (int m = 0; m < M; ++m) {
            const F factor = z[m * in + k];
            for (int v = 0; v < TILE; ++v) sum[m][v] = sum[m][v] + factor * row[v];
        }
    }
    for (int m = 0; m < M; ++m) for (int v = 0; v < TILE; ++v) ((V*)(u + m * apart))[v] = sum[m][v];
}

// One row: all of a panel's columns at once, the rows of W that `list` names.
template <class F> FUSED static void sum_rows(F* u, const F* z, const F* w, const int* list, const int* end) {
    CONTRACT
    typedef typename Panel<F>::vector V;
    enum { all = 256 / VECTOR };
    V sum[all];
    for (int v = 0; v < all; ++v) sum[v] = V{};
    for (; list < end; ++list) {
        const F factor = z[*list];
        const V* row = (const V*)(w + (i64)*list * Panel<F>::width);
        for (int v = 0; v < all; ++v) sum[v] = sum[v] + factor * row[v];
    }
    for (int v = 0; v < all; ++v) ((V*)u)[v] = sum[v];
}

// Bit i: is z[i] not zero?
#if defined(__AVX__)
typedef float eight __attribute__((vector_size(32), aligned(4)));
typedef double four __attribute__((vector_size(32), aligned(8)));
static inline uint32_t not_zero(const float* z) { return __builtin_ia32_movmskps256((eight)(*(const eight*)z != eight{})); }
static inline uint32_t not_zero(const double* z) {
    const four *a = (const four*)z;
    return __builtin_ia32_movmskpd256((four)(a[0] != four{})) | __builtin_ia32_movmskpd256((four)(a[1] != four{})) << 4;
}
#else
template <class F> static inline uint32_t not_zero(const F* z) {
    uint32_t bits = 0;
    for (int i = 0; i < 8; ++i) bits |= (uint32_t)(z[i] != 0) << i;
    return bits;
}
#endif

// Which places of each row are not zero; false as soon as it is plain that a sum of rows would take longer than the product.
template <class F> static bool spikes(const F* z, i64 n, i64 in, int* list, int* first) {
    int count = 0;
    for (i64 r = 0; r < n; ++r, z += in) {
        first[r] = count;
        i64 k = 0;
        for (; k + 8 <= in; k += 8)
            for (uint32_t bits = not_zero(z + k); bits; bits &= bits - 1) list[count++] = (int)k + __builtin_ctz(bits);
        for (; k < in; ++k) if (z[k] != 0) list[count++] = (int)k;
        if (count > (r + 5) * in * DENSE / 100) return false;
    }
    first[n] = count;
    return true;
}

template <class F> static inline const F* as(F*, const F* z, i64) { return z; }
template <class F, class K> static inline const F* as(F* to, const K* z, i64 n) {
    for (i64 i = 0; i < n; ++i) to[i] = read(z[i]);
    return to;
}
template <class F> static inline void keep_as(F* to, const F* from, i64 n) { __builtin_memcpy((void*)to, (const void*)from, n * sizeof(F)); }
static inline void keep_as(bf16* to, const float* from, i64 n) { for (i64 i = 0; i < n; ++i) to[i] = to_bf16(from[i]); }
static inline void keep_as(f16* to, const float* from, i64 n) { for (i64 i = 0; i < n; ++i) to[i] = to_f16(from[i]); }

// `lists`, `converted`, `line`: scratch for the places of spikes, for z as F, and for a panel of all rows.
template <class F, class U, class K>
static void product(U* u, const K* stored, const Matrix& m, i64 group, i64 n, bool events, int* lists, F* converted, F* line) {
    const i64 width = Panel<F>::width, in = m.in;
    const F* z = as(converted, stored, n * in);
    const F* w = (const F*)m.data + (m.groups > 1 ? group : 0) * panels(m.out, width) * width * in;
    int *first = lists, *list = lists + n + 1;
    const bool few = events && m.finite && spikes(z, n, in, list, first);
    for (i64 c = 0; c < m.out; c += width, w += width * in) {
        if (few)
            for (i64 r = 0; r < n; ++r) sum_rows(line + r * width, z + r * in, w, list + first[r], list + first[r + 1]);
        else
            for (i64 s = 0; s < width && c + s < m.out; s += TILE * Panel<F>::lane) {
                i64 r = 0;
                for (; r + ROWS <= n; r += ROWS) tile<F, ROWS>(line + r * width + s, width, z + r * in, w + s, in);
                for (; r + 2 <= n; r += 2) tile<F, 2>(line + r * width + s, width, z + r * in, w + s, in);
                for (; r < n; ++r) tile<F, 1>(line + r * width + s, width, z + r * in, w + s, in);
            }
        const i64 columns = m.out - c < width ? m.out - c : width;
        for (i64 r = 0; r < n; ++r) keep_as(u + r * m.out + c, line + r * width, columns);
    }
}
