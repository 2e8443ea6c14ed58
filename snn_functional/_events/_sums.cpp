// Goes on where `_lists.cpp` ends: the sums of rows, and the entry.

// ---- z @ w, in blocks of columns whose weights lie in the second-level cache while all rows pass.

struct Matrix { char* data; i64 group, row, column; };

struct Product {
    i64 groups, rows, columns, outs, threads, graded, apart, step, parts, blocks, infinite;
    const char* z;
    const int32_t *begin, *length, *column;
    Matrix w, bias, y;
    i64 shared() const { return rows; }   // what the parts of a piece share between them
};

// w[i, j] to packed[i][j], with zeros behind the last column.
template <class S, class T> static void pack(T* packed, const Matrix& w, const char* data, i64 rows, i64 columns, i64 wide) {
    typedef typename S::kept K;
    const K* from = (const K*)data;
    if (columns < wide) for (i64 i = 0; i < rows; ++i) for (i64 j = columns; j < wide; ++j) packed[i * wide + j] = 0;
    if (w.column == 1) {
        for (i64 i = 0; i < rows; ++i)
            for (i64 j = 0; j < columns; ++j) packed[i * wide + j] = read(from[i * w.row + j]);
        return;
    }
    for (i64 lo = 0; lo < rows; lo += 64) {   // a column is a run in memory, perhaps: some rows at a time, which stay in the cache
        const i64 hi = lo + 64 < rows ? lo + 64 : rows;
        for (i64 j = 0; j < columns; ++j)
            for (i64 i = lo; i < hi; ++i) packed[i * wide + j] = read(from[i * w.row + j * w.column]);
    }
}

template <class T> static inline void put(T* to, const T* from, i64 n) { __builtin_memcpy(to, from, n * sizeof(T)); }
static inline void put(uint16_t* to, const float* from, i64 n) { for (i64 j = 0; j < n; ++j) write(to + j, from[j]); }

template <class S, int R, bool GRADED> static void add_rows(
    const Product& c, i64 group, const typename S::sum* packed, const typename S::sum* bias, char* y, i64 count, i64 lo, i64 hi) {
    typedef typename S::sum T;
    typedef typename S::kept K;
    typedef typename Vector<T>::type V;
    enum { N = Vector<T>::N };
    const i64 first = group * c.apart;
    for (i64 r = lo; r < hi; ++r) {
        const int32_t* e = c.column + c.begin[first + r];
        const int32_t* const end = e + c.length[first + r];
        const K* z = (const K*)c.z + (first + r) * c.step;
        V sum[R];
        for (int k = 0; k < R; ++k) sum[k] = ((const V*)bias)[k];
        for (; e < end; ++e) {
            const V* w = (const V*)(packed + (i64)*e * (R * N));
            if (GRADED) {
                const T x = read(z[*e]);
                for (int k = 0; k < R; ++k) sum[k] += x * w[k];
            } else {
                for (int k = 0; k < R; ++k) sum[k] += w[k];
            }
        }
        K* to = (K*)y + r * c.y.row;
        if (sizeof(K) == sizeof(T) && count == R * N) {
            for (int k = 0; k < R; ++k) ((typename Vector<T>::loose*)to)[k] = sum[k];
        } else {
            put(to, (const T*)sum, count);
        }
    }
}

template <class S, int R> static void block(Product& c, i64 group, i64 j, i64 lo, i64 hi, char* memory) {
    typedef typename S::sum T;
    typedef typename S::kept K;
    enum { C = R * Vector<T>::N };
    const i64 count = c.outs - j < C ? c.outs - j : C;
    T* packed = (T*)memory;
    pack<S>(packed, c.w, c.w.data + (group * c.w.group + j * c.w.column) * (i64)sizeof(K), c.columns, count, C);
    if (!finite(packed, c.columns * C)) { __atomic_store_n(&c.infinite, 1, __ATOMIC_RELAXED); return; }
    T* bias = packed + c.columns * C;
    for (i64 k = 0; k < C; ++k)
        bias[k] = c.bias.data && k < count ? read(((const K*)c.bias.data)[group * c.bias.group + (j + k) * c.bias.column]) : (T)0;
    char* y = c.y.data + (group * c.y.group + j) * (i64)sizeof(K);
    if (c.graded) add_rows<S, R, true>(c, group, packed, bias, y, count, lo, hi);
    else add_rows<S, R, false>(c, group, packed, bias, y, count, lo, hi);
}

// The fewest vectors that hold so many columns: 1, 2, 4, ... or all.
template <class S> static int vectors(i64 columns) {
    const i64 n = Vector<typename S::sum>::N;
    int r = 1;
    while (r < WIDE && r * n < columns) r *= 2;
    return r;
}

// Of a product, or of an outer one: one group, some columns of what comes out, and a part of the rows.
template <class S, class J> static void piece(void* job, i64 i, char* memory) {
    J& c = *(J*)job;
    const i64 part = i % c.parts, group = i / c.parts / c.blocks, j = i / c.parts % c.blocks * (WIDE * Vector<typename S::sum>::N);
    const i64 lo = c.shared() * part / c.parts, hi = c.shared() * (part + 1) / c.parts;
    if (__atomic_load_n(&c.infinite, __ATOMIC_RELAXED)) return;
    switch (vectors<S>(c.outs - j)) {
        case 1: return block<S, 1>(c, group, j, lo, hi, memory);
        case 2: return block<S, 2>(c, group, j, lo, hi, memory);
        case 4: return block<S, 4>(c, group, j, lo, hi, memory);
        case 8: return block<S, 8>(c, group, j, lo, hi, memory);
        default: return block<S, WIDE>(c, group, j, lo, hi, memory);
    }
}

static Matrix matrix(const i64* a, i64 at) { return Matrix{(char*)at, a[0], a[1], a[2]}; }

// So many parts of a piece that all threads have work.
static i64 parts(i64 pieces, i64 threads, i64 most) {
    i64 n = (threads + pieces - 1) / pieces;
    if (n > most) n = most;
    return n < 1 ? 1 : n;
}

template <class S> static void product(const i64* a, const i64* at, i64* found) {
    typedef typename S::sum T;
    enum { C = WIDE * Vector<T>::N };
    Product c = {a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], 1, (a[3] + C - 1) / C, 0,
                 (const char*)at[0], (const int32_t*)at[1], (const int32_t*)at[2], (const int32_t*)at[3],
                 matrix(a + 8, at[4]), matrix(a + 11, at[5]), matrix(a + 14, at[6])};
    c.parts = parts(c.groups * c.blocks, c.threads, c.rows / 64);
    huge(c.y.data, c.groups * c.rows * c.outs * (i64)sizeof(typename S::kept));
    const bool done = share(piece<S, Product>, &c, c.groups * c.blocks * c.parts, (c.columns + 1) * C * (i64)sizeof(T), c.threads);
    found[0] = !done || c.infinite;
}

// ---- z^T @ g: of each column of z the sum of the rows of g in which it has an event. Rows are taken in chunks, so that those of
// g lie in the cache; of each chunk the lists are turned, from columns of rows to rows of columns.

struct Outer {
    i64 groups, rows, columns, outs, threads, graded, apart, step, lists, chunks, parts, blocks, infinite;
    const char* z;
    const int32_t *begin, *length, *column;
    Matrix g, m;
    i64 *place;       // of each chunk: where its events begin
    int32_t *first;   // of each chunk and column: where its rows begin, behind that place
    uint16_t *row;
    char *value;
    i64 shared() const { return columns; }
};

static void chunk_rows(const Outer& c, i64 i, i64& lo, i64& hi) {
    const i64 group = i / c.chunks, k = i % c.chunks;
    lo = group * c.rows + k * CHUNK;
    hi = k + 1 == c.chunks ? (group + 1) * c.rows : lo + CHUNK;
}

template <class S> static void turn(void* job, i64 i, char*) {
    Outer& c = *(Outer*)job;
    i64 lo, hi;
    chunk_rows(c, i, lo, hi);
    int32_t* const first = c.first + i * (c.columns + 1);
    for (i64 k = 0; k <= c.columns; ++k) first[k] = 0;
    for (i64 r = lo; r < hi; ++r)
        for (const int32_t *e = c.column + c.begin[r], *end = e + c.length[r]; e < end; ++e) ++first[*e];
    int32_t before = 0;
    for (i64 k = 0; k <= c.columns; ++k) { const int32_t n = first[k]; first[k] = before; before += n; }
    uint16_t* const row = c.row + c.place[i];
    typename S::sum* const value = (typename S::sum*)c.value + c.place[i];
    for (i64 r = lo; r < hi; ++r) {
        const typename S::kept* z = (const typename S::kept*)c.z + r * c.step;
        for (const int32_t *e = c.column + c.begin[r], *end = e + c.length[r]; e < end; ++e) {
            const int32_t to = first[*e]++;
            row[to] = (uint16_t)(r - lo);
            if (c.graded) value[to] = read(z[*e]);
        }
    }
    for (i64 k = c.columns; k > 0; --k) first[k] = first[k - 1];   // each stands at the next one's beginning
    first[0] = 0;
}

template <class S, int R, bool GRADED> static void add_columns(
    const Outer& c, i64 chunk, const typename S::sum* packed, typename S::sum* sums, bool fresh, i64 lo, i64 hi) {
    typedef typename S::sum T;
    typedef typename Vector<T>::type V;
    enum { N = Vector<T>::N };
    const int32_t* const first = c.first + chunk * (c.columns + 1);
    const uint16_t* const row = c.row + c.place[chunk];
    const T* const value = (const T*)c.value + c.place[chunk];
    for (i64 i = lo; i < hi; ++i) {
        V* const to = (V*)(sums + (i - lo) * (R * N));
        V sum[R];
        for (int k = 0; k < R; ++k) sum[k] = V{};
        for (int32_t e = first[i], end = first[i + 1]; e < end; ++e) {
            const V* g = (const V*)(packed + (i64)row[e] * (R * N));
            if (GRADED) for (int k = 0; k < R; ++k) sum[k] += value[e] * g[k];
            else for (int k = 0; k < R; ++k) sum[k] += g[k];
        }
        for (int k = 0; k < R; ++k) to[k] = fresh ? sum[k] : to[k] + sum[k];   // a chunk's sum, then that of chunks: rounds less
    }
}

template <class S, int R> static void block(Outer& c, i64 group, i64 j, i64 lo, i64 hi, char* memory) {
    typedef typename S::sum T;
    typedef typename S::kept K;
    enum { C = R * Vector<T>::N };
    const i64 count = c.outs - j < C ? c.outs - j : C, list = c.apart ? group : 0;
    T *packed = (T*)memory, *sums = packed + CHUNK * C;
    for (i64 k = 0; k < c.chunks; ++k) {
        const i64 rows = k + 1 == c.chunks ? c.rows - k * CHUNK : CHUNK;
        pack<S>(packed, c.g, c.g.data + (group * c.g.group + k * CHUNK * c.g.row + j * c.g.column) * (i64)sizeof(K), rows, count, C);
        if (!finite(packed, rows * C)) { __atomic_store_n(&c.infinite, 1, __ATOMIC_RELAXED); return; }
        if (c.graded) add_columns<S, R, true>(c, list * c.chunks + k, packed, sums, k == 0, lo, hi);
        else add_columns<S, R, false>(c, list * c.chunks + k, packed, sums, k == 0, lo, hi);
    }
    K* m = (K*)c.m.data + group * c.m.group + j * c.m.column;
    if (c.m.column == 1) {
        for (i64 i = lo; i < hi; ++i) put(m + i * c.m.row, sums + (i - lo) * C, count);
        return;
    }
    for (i64 from = lo; from < hi; from += 64)
        for (i64 k = 0; k < count; ++k)
            for (i64 i = from; i < hi && i < from + 64; ++i) write(m + i * c.m.row + k * c.m.column, sums[(i - lo) * C + k]);
}

template <class S> static void outer(const i64* a, const i64* at, i64* found) {
    typedef typename S::sum T;
    enum { C = WIDE * Vector<T>::N };
    Outer c = {a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[6] ? a[0] : 1, (a[1] + CHUNK - 1) / CHUNK, 1, (a[3] + C - 1) / C, 0,
               (const char*)at[0], (const int32_t*)at[1], (const int32_t*)at[2], (const int32_t*)at[3],
               matrix(a + 8, at[4]), matrix(a + 11, at[5]), 0, 0, 0, 0};
    const i64 chunks = c.lists * c.chunks;
    c.place = (i64*)malloc((chunks + 1) * sizeof(i64));
    i64 total = 0;
    for (i64 i = 0; c.place && i < chunks; ++i) {
        i64 lo, hi;
        chunk_rows(c, i, lo, hi);
        c.place[i] = total;
        for (; lo < hi; ++lo) total += c.length[lo];
    }
    c.first = (int32_t*)malloc(chunks * (c.columns + 1) * sizeof(int32_t));
    c.row = (uint16_t*)malloc((total + 1) * sizeof(uint16_t));
    c.value = c.graded ? (char*)malloc((total + 1) * sizeof(T)) : 0;
    bool done = c.place && c.first && c.row && (c.value || !c.graded);
    c.parts = parts(c.groups * c.blocks, c.threads, c.columns / 32);
    huge(c.m.data, c.groups * c.columns * c.outs * (i64)sizeof(typename S::kept));
    done = done && share(turn<S>, &c, chunks, 0, c.threads);
    done = done && share(piece<S, Outer>, &c, c.groups * c.blocks * c.parts, (CHUNK + c.columns) * C * (i64)sizeof(T), c.threads);
    free(c.place), free(c.first), free(c.row), free(c.value);
    found[0] = !done || c.infinite;
}

template <class S> static void call(i64 what, const i64* numbers, const i64* addresses, i64* found) {
    if (what == 0) sample<S>(numbers, addresses, found);
    else if (what == 1) list<S>(numbers, addresses, found);
    else if (what == 4) patches<S>(numbers, addresses, found);
    else if (what == 2) product<S>(numbers, addresses, found);
    else outer<S>(numbers, addresses, found);
}

extern "C" void run(const i64* numbers, const i64* addresses, i64* found) {
    const i64 what = numbers[0], kind = numbers[1];
    if (kind == 0) call<Float>(what, numbers + 2, addresses, found);
    else if (kind == 1) call<Double>(what, numbers + 2, addresses, found);
    else call<Half>(what, numbers + 2, addresses, found);
}
