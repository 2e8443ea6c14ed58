// Products with few events, as sums of rows. See README.md beside this file. Here: what all share, and where the events are;
// `_sums.cpp` goes on from here, in one text.
//
// A count, a list of where the events are, z @ w, and z^T @ g. `__init__.py` says what stands in the numbers of each.
//
// C's headers and the compiler's builtins only, as in the kernels of neurons: C++'s would take longer to read than this to build.

#include <stdint.h>
#include <stdlib.h>
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

// `count` pieces of work, taken one by one by threads (`kernels/_threads.cpp`).
struct Work {
    void (*piece)(void* job, i64 i, char* memory);
    void* job;
    i64 count, bytes, next, failed;
};

static void work(void* given) {
    Work& w = *(Work*)given;
    char* memory = (char*)malloc(w.bytes + 64);
    if (!memory) { __atomic_store_n(&w.failed, 1, __ATOMIC_RELAXED); return; }
    for (i64 i; (i = __atomic_fetch_add(&w.next, 1, __ATOMIC_RELAXED)) < w.count;)
        w.piece(w.job, i, (char*)(((uintptr_t)memory + 63) & ~(uintptr_t)63));
    free(memory);
}

// False where there was no memory.
static bool share(void (*piece)(void*, i64, char*), void* job, i64 count, i64 bytes, i64 threads) {
    Work w = {piece, job, count, bytes, 0, 0};
    together(work, &w, threads < count ? threads : count);
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
