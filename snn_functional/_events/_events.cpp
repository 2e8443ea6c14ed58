// Products with few events, as sums of rows. See README.md beside this file.
//
// A count, a list of where the events are, z @ w, and z^T @ g. `__init__.py` says what stands in the numbers of each.
//
// C's headers and the compiler's builtins only, as in the kernels of neurons: C++'s would take longer to read than this to build.

#include <stdint.h>
#include <stdlib.h>
#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

// Elsewhere kernels must round as the loop does. These are sums of products, which have no order of their own: one rounding each.
#if defined(__clang__)
#pragma clang fp contract(fast)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast")
#endif

typedef int64_t i64;

#if defined(__AVX512F__)
#define BYTES 64
#define WIDE 8   // vectors whose sums stand in registers while a row is added up
#elif defined(__AVX__)
#define BYTES 32
#define WIDE 8
#elif defined(__aarch64__)
#define BYTES 16
#define WIDE 16
#else
#define BYTES 16
#define WIDE 8
#endif
enum { CHUNK = 512 };   // rows whose part of g is in the cache at once, and which a list by columns is made of

template <class T> struct Vector {
    typedef T type __attribute__((vector_size(BYTES)));
    typedef T loose __attribute__((vector_size(BYTES), aligned(1), may_alias));
    enum { N = BYTES / sizeof(T) };
};

// How numbers are kept, and what they are added up in.
struct Float { typedef float kept, sum; typedef uint32_t bits; };
struct Double { typedef double kept, sum; typedef uint64_t bits; };
struct Half { typedef uint16_t kept; typedef float sum; typedef uint16_t bits; };

static inline float read(float x) { return x; }
static inline double read(double x) { return x; }
static inline float read(uint16_t x) {
    const uint32_t u = (uint32_t)x << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
}
static inline void write(float* at, float x) { *at = x; }
static inline void write(double* at, double x) { *at = x; }
static inline void write(uint16_t* at, float f) {
    uint32_t u;
    __builtin_memcpy(&u, &f, 4);
    const uint32_t even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    *at = (uint16_t)(f != f ? 0x7fc0u : even);
}

static bool finite(const float* x, i64 n) {
    const uint32_t* u = (const uint32_t*)x;
    uint32_t bad = 0;
    for (i64 i = 0; i < n; ++i) bad |= (u[i] & 0x7f800000u) == 0x7f800000u;
    return !bad;
}
static bool finite(const double* x, i64 n) {
    const uint64_t* u = (const uint64_t*)x;
    uint64_t bad = 0;
    for (i64 i = 0; i < n; ++i) bad |= (u[i] & 0x7ff0000000000000u) == 0x7ff0000000000000u;
    return !bad;
}

// Large fresh results in huge pages: a page fault every 4 KB would cost as much as the sums.
static void huge(void* data, i64 bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 2u << 20, lo = ((uintptr_t)data + page - 1) & ~(page - 1), hi = ((uintptr_t)data + bytes) & ~(page - 1);
    if (hi > lo) madvise((void*)lo, hi - lo, MADV_HUGEPAGE);
#endif
}

// `count` pieces of work, taken one by one by threads that are gone when this returns.
struct Work {
    void (*piece)(void* job, i64 i, char* memory);
    void* job;
    i64 count, bytes, next, failed;
};

static void* work(void* given) {
    Work& w = *(Work*)given;
    char* memory = (char*)malloc(w.bytes + 64);
    if (!memory) { __atomic_store_n(&w.failed, 1, __ATOMIC_RELAXED); return 0; }
    for (i64 i; (i = __atomic_fetch_add(&w.next, 1, __ATOMIC_RELAXED)) < w.count;)
        w.piece(w.job, i, (char*)(((uintptr_t)memory + 63) & ~(uintptr_t)63));
    free(memory);
    return 0;
}

// False where there was no memory.
static bool share(void (*piece)(void*, i64, char*), void* job, i64 count, i64 bytes, i64 threads) {
    Work w = {piece, job, count, bytes, 0, 0};
#if defined(_WIN32)
    work(&w);
#else
    pthread_t others[64];
    i64 begun = 0;
    while (begun < 64 && begun + 1 < threads && begun + 1 < count && !pthread_create(&others[begun], 0, work, &w)) ++begun;
    work(&w);
    for (i64 i = 0; i < begun; ++i) pthread_join(others[i], 0);
#endif
    return !w.failed;
}

// ---- Where the events are: of each row, where its list begins and how long it is; which columns.

struct Listing { i64 rows, columns, step, parts, room; const char* z; int32_t *begin, *length, *column; i64 total, graded, full; };

// The columns of a row where z is neither 0 nor -0. Up to 16 entries behind the list are written, too.
template <class B> static inline i64 columns_of(const B* z, i64 n, int32_t* to) {
    const B size = (B)~((B)1 << (8 * sizeof(B) - 1));
    int32_t* const first = to;
    i64 i = 0;
#if defined(__AVX512F__)
    typedef int32_t ints __attribute__((vector_size(64)));
    typedef B some __attribute__((vector_size(16 * sizeof(B)), aligned(1), may_alias));
    ints at = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (; i + 16 <= n; i += 16, at += 16) {
        const auto there = (*(const some*)(z + i) & size) != 0;   // -1 or 0 in each
        const ints truth = __builtin_convertvector(there, ints);
        const unsigned short mask = __builtin_ia32_cmpd512_mask((ints)truth, ints{}, 4, 0xffff);
        *(typename Vector<int32_t>::loose*)to = (ints)__builtin_ia32_compresssi512_mask(at, ints{}, mask);
        to += __builtin_popcount(mask);
    }
#endif
    for (; i < n; ++i) {
        *to = (int32_t)i;
        to += (z[i] & size) != 0;
    }
    return to - first;
}

template <class S> static void list_part(void* job, i64 part, char*) {
    Listing& c = *(Listing*)job;
    const i64 lo = c.rows * part / c.parts, hi = c.rows * (part + 1) / c.parts;
    i64 used = part * c.room, total = 0, graded = 0;
    const i64 end = used + c.room;
    for (i64 r = lo; r < hi; ++r) {
        if (used + c.columns + 16 > end) { __atomic_store_n(&c.full, 1, __ATOMIC_RELAXED); return; }
        const typename S::kept* z = (const typename S::kept*)c.z + r * c.step;
        const i64 n = columns_of((const typename S::bits*)z, c.columns, c.column + used);
        for (i64 e = 0; e < n; ++e) graded |= read(z[c.column[used + e]]) != 1;
        c.begin[r] = (int32_t)used, c.length[r] = (int32_t)n;
        used += n, total += n;
    }
    __atomic_fetch_add(&c.total, total, __ATOMIC_RELAXED);
    if (graded) __atomic_store_n(&c.graded, 1, __ATOMIC_RELAXED);
}

// Of how many among some rows, evenly far apart but for a jitter that follows no period of time or batch.
template <class S> static void sample(const i64* a, const i64* at, i64* result) {
    typedef typename S::bits B;
    const B size = (B)~((B)1 << (8 * sizeof(B) - 1));
    const i64 rows = a[0], columns = a[1], step = a[2], some = a[3];
    i64 found = 0;
    for (i64 s = 0; s < some; ++s) {
        const i64 lo = rows * s / some, hi = rows * (s + 1) / some;
        const B* z = (const B*)at[0] + (lo + (s * 7919) % (hi - lo)) * step;
        for (i64 i = 0; i < columns;) {
            const i64 to = columns - i < 128 ? columns : i + 128;
            B n = 0;
            for (; i < to; ++i) n += (B)((z[i] & size) != 0);
            found += n;
        }
    }
    result[0] = found;
}

template <class S> static void list(const i64* a, const i64* at, i64* found) {
    Listing c = {a[0], a[1], a[2], a[3], a[4], (const char*)at[0], (int32_t*)at[1], (int32_t*)at[2], (int32_t*)at[3], 0, 0, 0};
    huge(c.column, c.parts * c.room * 4);
    if (!share(list_part<S>, &c, c.parts, 0, c.parts)) c.full = 1;
    found[0] = c.full, found[1] = c.total, found[2] = c.graded;
}

// ---- The events in the patch of an image that each pixel of a convolution's result sees, the channels last: lists of rows, as if
// the patches stood in memory. A patch's column is (its row, its column, channel).

struct Patches {
    i64 samples, height, width, channels, rows, columns, kernel[2], stride[2], padding[2], dilation[2], parts, room;
    const char* x;
    int32_t *begin, *length, *column;
    i64 total, graded, full;
};

typedef int32_t sixteen __attribute__((vector_size(64), aligned(4), may_alias));

template <class S> static void list_patches(void* job, i64 part, char* memory) {
    Patches& c = *(Patches*)job;
    const i64 lo = c.samples * part / c.parts, hi = c.samples * (part + 1) / c.parts, line = c.width * c.channels;
    i64 used = part * c.room, total = 0, graded = 0;
    const i64 end = used + c.room;
    int32_t* const first = (int32_t*)memory;                      // of a pixel: where in `events` those of its line begin
    int32_t* const events = first + c.height * (c.width + 1);     // of each line, places in it, one after another
    for (i64 s = lo; s < hi; ++s) {
        const typename S::kept* x = (const typename S::kept*)c.x + s * c.height * line;
        i64 count = 0;
        for (i64 y = 0; y < c.height; ++y) {
            int32_t *const at = events + count, *const starts = first + y * (c.width + 1);
            const i64 n = columns_of((const typename S::bits*)(x + y * line), line, at);
            for (i64 e = 0; e < n; ++e) graded |= read(x[y * line + at[e]]) != 1;
            i64 k = 0;
            for (i64 p = 0; p <= c.width; ++p) {
                while (k < n && at[k] < p * c.channels) ++k;
                starts[p] = (int32_t)(count + k);
            }
            count += n;
        }
        total += count;
        for (i64 r = s * c.rows * c.columns, i = 0; i < c.rows; ++i) {
            for (i64 j = 0; j < c.columns; ++j, ++r) {
                if (used + c.kernel[0] * c.kernel[1] * c.channels + 16 > end) { __atomic_store_n(&c.full, 1, __ATOMIC_RELAXED); return; }
                const i64 left = j * c.stride[1] - c.padding[1];
                c.begin[r] = (int32_t)used;
                for (i64 k = 0; k < c.kernel[0]; ++k) {
                    const i64 y = i * c.stride[0] - c.padding[0] + k * c.dilation[0];
                    if (y < 0 || y >= c.height) continue;
                    const int32_t* const starts = first + y * (c.width + 1);
                    // Neighbours stand side by side, all of a line at once; what is dilated, one by one.
                    const i64 runs = c.dilation[1] == 1 ? 1 : c.kernel[1], each = c.dilation[1] == 1 ? c.kernel[1] : 1;
                    for (i64 l = 0; l < runs; ++l) {
                        i64 from = left + l * c.dilation[1], to = from + each;
                        const int32_t shift = (int32_t)(((k * c.kernel[1] + l) - from) * c.channels);
                        from = from < 0 ? 0 : from;
                        to = to > c.width ? c.width : to;
                        if (from >= to) continue;
                        const int32_t* const here = events + starts[from];
                        const i64 n = starts[to] - starts[from];
                        for (i64 e = 0; e < n; e += 16) *(sixteen*)(c.column + used + e) = *(const sixteen*)(here + e) + shift;
                        used += n;
                    }
                }
                c.length[r] = (int32_t)(used - c.begin[r]);
            }
        }
    }
    __atomic_fetch_add(&c.total, total, __ATOMIC_RELAXED);
    if (graded) __atomic_store_n(&c.graded, 1, __ATOMIC_RELAXED);
}

template <class S> static void patches(const i64* a, const i64* at, i64* found) {
    Patches c = {a[0], a[1], a[2], a[3], a[4], a[5], {a[6], a[7]}, {a[8], a[9]}, {a[10], a[11]}, {a[12], a[13]}, a[14], a[15],
                 (const char*)at[0], (int32_t*)at[1], (int32_t*)at[2], (int32_t*)at[3], 0, 0, 0};
    const i64 bytes = 4 * (c.height * (c.width + 1) + c.height * c.width * c.channels + 64);
    huge(c.column, c.parts * c.room * 4);
    if (!share(list_patches<S>, &c, c.parts, bytes, c.parts)) c.full = 1;
    found[0] = c.full, found[1] = c.total, found[2] = c.graded;
}

// ---- z @ w, in blocks of columns whose weights lie in the second-level cache while all rows pass.

struct Matrix { char* data; i64 group, row, column; };

struct Product {
    i64 groups, rows, columns, outs, threads, graded, apart, step, parts, blocks, infinite;
    const char* z;
    const int32_t *begin, *length, *column;
    Matrix w, bias, y;
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

template <class S, int R> static void product_block(Product& c, i64 group, i64 j, i64 lo, i64 hi, char* memory) {
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

template <class S> static void product_piece(void* job, i64 i, char* memory) {
    Product& c = *(Product*)job;
    const i64 part = i % c.parts, group = i / c.parts / c.blocks, j = i / c.parts % c.blocks * (WIDE * Vector<typename S::sum>::N);
    const i64 lo = c.rows * part / c.parts, hi = c.rows * (part + 1) / c.parts;
    if (__atomic_load_n(&c.infinite, __ATOMIC_RELAXED)) return;
    switch (vectors<S>(c.outs - j)) {
        case 1: return product_block<S, 1>(c, group, j, lo, hi, memory);
        case 2: return product_block<S, 2>(c, group, j, lo, hi, memory);
        case 4: return product_block<S, 4>(c, group, j, lo, hi, memory);
        case 8: return product_block<S, 8>(c, group, j, lo, hi, memory);
        default: return product_block<S, WIDE>(c, group, j, lo, hi, memory);
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
    const bool done = share(product_piece<S>, &c, c.groups * c.blocks * c.parts, (c.columns + 1) * C * (i64)sizeof(T), c.threads);
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

template <class S, int R> static void outer_block(Outer& c, i64 group, i64 j, i64 lo, i64 hi, char* memory) {
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

template <class S> static void outer_piece(void* job, i64 i, char* memory) {
    Outer& c = *(Outer*)job;
    const i64 part = i % c.parts, group = i / c.parts / c.blocks, j = i / c.parts % c.blocks * (WIDE * Vector<typename S::sum>::N);
    const i64 lo = c.columns * part / c.parts, hi = c.columns * (part + 1) / c.parts;
    if (__atomic_load_n(&c.infinite, __ATOMIC_RELAXED)) return;
    switch (vectors<S>(c.outs - j)) {
        case 1: return outer_block<S, 1>(c, group, j, lo, hi, memory);
        case 2: return outer_block<S, 2>(c, group, j, lo, hi, memory);
        case 4: return outer_block<S, 4>(c, group, j, lo, hi, memory);
        case 8: return outer_block<S, 8>(c, group, j, lo, hi, memory);
        default: return outer_block<S, WIDE>(c, group, j, lo, hi, memory);
    }
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
    done = done && share(outer_piece<S>, &c, c.groups * c.blocks * c.parts, (CHUNK + c.columns) * C * (i64)sizeof(T), c.threads);
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
