// The part of every CPU kernel that does not depend on the step: reading any strides, writing past the cache, and blocks of
// neurons handed to threads. `_cpu.py` puts this text in front of what it prints.
//
// A kernel sees `lanes` neurons in a row. A tensor is contiguous over them, or one number for all, or strided: then the
// row that is needed is copied together first. States live in the block's scratch memory, in the cache, for all T steps.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__AVX__)
#include <immintrin.h>
#endif

typedef int64_t i64;
static const float INF_F = std::numeric_limits<float>::infinity(), NAN_F = std::numeric_limits<float>::quiet_NaN();
static const double INF_D = std::numeric_limits<double>::infinity(), NAN_D = std::numeric_limits<double>::quiet_NaN();

// Half precision is stored in 16 bits and computed in float, rounded after every operation as torch does.
struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

static inline float read(bf16 h) {
    uint32_t u = (uint32_t)h.bits << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
static inline bf16 to_bf16(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    const uint32_t even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return bf16{(uint16_t)(f != f ? 0x7fc0u : even)};
}
#if defined(__FLT16_MANT_DIG__)
static inline float read(f16 h) { _Float16 x; std::memcpy(&x, &h, 2); return (float)x; }
static inline f16 to_f16(float f) { _Float16 x = (_Float16)f; f16 h; std::memcpy(&h, &x, 2); return h; }
static inline float round_f16(float f) { return (float)(_Float16)f; }
#endif
static inline float round_bf16(float f) { return read(to_bf16(f)); }
template <class T> static inline T read(T x) { return x; }

// A truth that is the same for all neurons, as a number that the compiler cannot see through: of an invariant bool in a
// selection it would make no vector mask, and leave the whole loop scalar.
template <class T> static inline T opaque(bool x) {
    T number = x ? 1 : 0;
    asm("" : "+m"(number));
    return number;
}

struct Shape { i64 dims; const i64* size; };
struct Arg { char* data; i64 kind, time; const i64* stride; };   // kind 0: contiguous, 1: one number, 2: strided
enum { CONTIGUOUS, UNIFORM, STRIDED };   // of neurons; any of them may or may not move in time

// dst[i] = the value of neuron lo + i at time t
template <class T> static void gather(T* dst, const Arg& a, const Shape& s, i64 t, i64 lo, i64 n) {
    const T* base = (const T*)a.data + t * a.time;
    if (a.kind == CONTIGUOUS) { std::memcpy((void*)dst, (const void*)(base + lo), n * sizeof(T)); return; }
    if (a.kind == UNIFORM) { for (i64 i = 0; i < n; ++i) dst[i] = *base; return; }
    const i64 inner = s.size[s.dims - 1], step = a.stride[s.dims - 1];
    for (i64 i = 0; i < n;) {
        i64 rest = (lo + i) / inner, at = 0;
        const i64 first = (lo + i) % inner, run = inner - first < n - i ? inner - first : n - i;
        for (i64 d = s.dims - 2; d >= 0; --d) { at += (rest % s.size[d]) * a.stride[d]; rest /= s.size[d]; }
        const T* from = base + at + first * step;
        if (step == 1) std::memcpy((void*)(dst + i), (const void*)from, run * sizeof(T));
        else for (i64 j = 0; j < run; ++j) dst[i + j] = from[j * step];
        i += run;
    }
}

// The neurons lo .. lo + n at time t, where they stand if they stand together, else gathered into tmp. What does not change
// in time is gathered once: `ready` says that tmp holds it.
template <class T>
static inline const T* row(T* tmp, const Arg& a, const Shape& s, i64 t, i64 lo, i64 n, bool& ready) {
    if (a.kind == CONTIGUOUS) return (const T*)a.data + t * a.time + lo;
    if (!ready) gather(tmp, a, s, t, lo, n);
    ready = a.time == 0;
    return tmp;
}

// Copy a finished row to its output without pulling the output into the cache.
template <class T> static inline void put(T* dst, const T* src, i64 n) {
#if defined(__AVX__)
    const i64 bytes = n * sizeof(T);
    char* d = (char*)dst;
    const char* q = (const char*)src;
    i64 head = (32 - ((uintptr_t)d & 31)) & 31;
    if (head > bytes) head = bytes;
    std::memcpy(d, q, head);
    i64 i = head;
    for (; i + 32 <= bytes; i += 32) _mm256_stream_si256((__m256i*)(d + i), _mm256_loadu_si256((const __m256i*)(q + i)));
    std::memcpy(d + i, q + i, bytes - i);
#else
    std::memcpy((void*)dst, (const void*)src, n * sizeof(T));
#endif
}

// Large fresh outputs in huge pages: a page fault every 4 KB would cost more than the arithmetic.
static void huge(void* data, i64 bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 2u << 20, lo = ((uintptr_t)data + page - 1) & ~(page - 1), hi = ((uintptr_t)data + bytes) & ~(page - 1);
    if (hi > lo) madvise((void*)lo, hi - lo, MADV_HUGEPAGE);
#endif
}

struct Scratch {
    std::unique_ptr<char[]> memory;
    i64 used = 0;
    explicit Scratch(i64 bytes) : memory(new char[bytes + 64]) {}
    template <class T> T* take(i64 n) {
        char* p = (char*)(((uintptr_t)memory.get() + 63) & ~(uintptr_t)63) + used;
        used += (n * sizeof(T) + 63) & ~(i64)63;
        return (T*)p;
    }
};

struct Call {
    i64 T, lanes, block, threads, reverse, every, bytes, stream;
    Shape shape;
    Arg args[ARGS];
    explicit Call(const i64* a) : T(a[0]), lanes(a[1]), block(a[2]), threads(a[3]), reverse(a[4]), every(a[5]),
          bytes(a[6]), stream(a[7]) {
        shape = Shape{a[8], a + 9};
        const i64* p = a + 9 + shape.dims;
        for (int i = 0; i < ARGS; ++i, p += 3 + shape.dims) args[i] = Arg{(char*)p[0], p[1], p[2], p + 3};
    }
    i64 at(i64 k) const { return reverse ? T - 1 - k : k; }
    const Arg& operator[](int i) const { return args[i]; }
};

static void one_block(const Call& c, i64 lo, i64 n, i64 index, Scratch& w);

// Threads of their own, gone when the call returns: nothing is left that a fork could break.
static int over_blocks(const Call& c) {
    const i64 blocks = (c.lanes + c.block - 1) / c.block;
    std::atomic<i64> next(0);
    std::atomic<int> failed(0);
    auto work = [&]() {
        try {
            Scratch w(c.bytes);
            for (i64 b; (b = next++) < blocks;) {
                w.used = 0;
                one_block(c, b * c.block, c.lanes - b * c.block < c.block ? c.lanes - b * c.block : c.block, b, w);
            }
        } catch (...) { failed = 1; }
    };
    std::vector<std::thread> others;
    for (i64 i = 1; i < c.threads && i < blocks; ++i) others.emplace_back(work);
    work();
    for (auto& thread : others) thread.join();
    return failed;
}
