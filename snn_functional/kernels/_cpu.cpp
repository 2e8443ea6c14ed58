// The part of every CPU kernel that does not depend on the step: reading any strides, writing past the cache, and blocks of
// neurons handed to threads (`_threads.cpp`). `_cpu.py` puts this text in front of what it prints.
//
// A kernel sees `lanes` neurons in a row. A tensor is contiguous over them, or one number for all, or strided: then the
// row that is needed is copied together first. States live in the block's scratch memory, in the cache, for all T steps.
//
// C's headers and the compiler's builtins only: C++'s would take longer to read than the kernel to build.

#include <stdint.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

typedef int64_t i64;
#define INF_F __builtin_inff()
#define NAN_F __builtin_nanf("")
#define INF_D __builtin_inf()
#define NAN_D __builtin_nan("")

// Half precision is stored in 16 bits and computed in float, rounded after every operation as torch does.
struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

static inline float read(bf16 h) {
    uint32_t u = (uint32_t)h.bits << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
}
static inline bf16 to_bf16(float f) {
    uint32_t u;
    __builtin_memcpy(&u, &f, 4);
    const uint32_t even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return bf16{(uint16_t)(f != f ? 0x7fc0u : even)};
}
#if defined(__aarch64__)
typedef __fp16 half;
#define HALF
#elif defined(__FLT16_MANT_DIG__) && (defined(__clang__) || __GNUC__ > 12 || defined(__x86_64__))
typedef _Float16 half;
#define HALF
#endif
#if defined(HALF)
static inline float read(f16 h) { half x; __builtin_memcpy(&x, &h, 2); return (float)x; }
static inline f16 to_f16(float f) { half x = (half)f; f16 h; __builtin_memcpy(&h, &x, 2); return h; }
static inline float round_f16(float f) { return (float)(half)f; }
#else   // GCC before 12 (outside x86 before 13) and clang before 15 have no such type
static inline float read(f16 h) {
    const uint32_t shifted = (h.bits & 0x7fffu) << 13, exponent = shifted & 0xf800000u;
    uint32_t u = shifted + (exponent == 0xf800000u ? 224u << 23 : exponent ? 112u << 23 : 113u << 23);   // inf or NaN, normal, tiny
    float f, tiny;
    __builtin_memcpy(&f, &u, 4);
    u = 113u << 23;
    __builtin_memcpy(&tiny, &u, 4);
    f = exponent ? f : f - tiny;
    __builtin_memcpy(&u, &f, 4);
    u |= (uint32_t)(h.bits & 0x8000u) << 16;
    __builtin_memcpy(&f, &u, 4);
    return f;
}
static inline f16 to_f16(float f) {
    uint32_t u, low;
    __builtin_memcpy(&u, &f, 4);
    const uint32_t sign = u >> 16 & 0x8000u, size = u & 0x7fffffffu;
    const float small = __builtin_fabsf(f) + 0.5f;   // the addition rounds what has fewer bits in a half
    __builtin_memcpy(&low, &small, 4);
    const uint32_t normal = (size + 0xc8000fffu + (size >> 13 & 1u)) >> 13, large = size > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return f16{(uint16_t)(sign | (size >= 0x47800000u ? large : size < 0x38800000u ? low - 0x3f000000u : normal))};
}
static inline float round_f16(float f) { return read(to_f16(f)); }
#endif
static inline float round_bf16(float f) { return read(to_bf16(f)); }
template <class T> static inline T read(T x) { return x; }

// exp and tanh of single precision without a call, to two units in the last place: of the library's the compiler makes no vectors, and
// of one neuron they would take longer than all the rest. The same operations for every neuron, so its place in a block is not seen.
// After Cephes 2.2 (Moshier), which splits x into n ln 2 + r.
static inline float exp_of(float x) {
    const float low = x > -104.0f ? x : -104.0f, bound = low < 89.0f ? low : 89.0f;
    const float n = (bound * 1.44269504088896341f + 12582912.0f) - 12582912.0f;   // the nearest whole number
    const float r = (bound - n * 0.693359375f) - n * -2.12194440e-4f;
    const float p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r
                     + 1.6666665459e-1f) * r + 5.0000001201e-1f;
    const float y = p * (r * r) + r + 1.0f;
    const int32_t whole = (int32_t)n, half = whole >> 1, a = (half + 127) << 23, b = (whole - half + 127) << 23;
    float first, second;   // 2^n, in two parts, because it may be too small or too large for one
    __builtin_memcpy(&first, &a, 4);
    __builtin_memcpy(&second, &b, 4);
    const float scaled = y * first * second;
    return x != x ? x : scaled;
}
static inline float tanh_of(float x) {
    const float size = __builtin_fabsf(x), large = 1.0f - 2.0f / (exp_of(size + size) + 1.0f), z = x * x;
    const float small = ((((-5.70498872745e-3f * z + 2.06390887954e-2f) * z - 5.37397155531e-2f) * z + 1.33314422036e-1f) * z
                         - 3.33332819422e-1f) * z * size + size;
    const float y = size < 0.625f ? small : large;
    return x != x ? x : __builtin_copysignf(y, x);
}
static inline double exp_of(double x) { return __builtin_exp(x); }
static inline double tanh_of(double x) { return __builtin_tanh(x); }

// A truth that is the same for all neurons, as a number that the compiler cannot see through: of an invariant bool in a
// selection it would make no vector mask, and leave the whole loop scalar.
template <class T> static inline T opaque(bool x) {
    T number = x ? 1 : 0;
    asm("" : "+m"(number));
    return number;
}

// A tensor over lanes of the shape `size`, of `dims` axes.
struct Arg { char* data; i64 kind, time, dims; const i64 *size, *stride; };
enum { CONTIGUOUS, UNIFORM, STRIDED };   // of neurons; any of them may or may not move in time

// dst[i] = the value of neuron lo + i at time t
template <class T> static void gather(T* dst, const Arg& a, i64 t, i64 lo, i64 n) {
    const T* base = (const T*)a.data + t * a.time;
    if (a.kind == CONTIGUOUS) { __builtin_memcpy((void*)dst, (const void*)(base + lo), n * sizeof(T)); return; }
    if (a.kind == UNIFORM) { for (i64 i = 0; i < n; ++i) dst[i] = *base; return; }
    const i64 inner = a.size[a.dims - 1], step = a.stride[a.dims - 1];
    for (i64 i = 0; i < n;) {
        i64 rest = (lo + i) / inner, at = 0;
        const i64 first = (lo + i) % inner, run = inner - first < n - i ? inner - first : n - i;
        for (i64 d = a.dims - 2; d >= 0; --d) { at += (rest % a.size[d]) * a.stride[d]; rest /= a.size[d]; }
        const T* from = base + at + first * step;
        if (step == 1) __builtin_memcpy((void*)(dst + i), (const void*)from, run * sizeof(T));
        else for (i64 j = 0; j < run; ++j) dst[i + j] = from[j * step];
        i += run;
    }
}

// The neurons lo .. lo + n at time t, where they stand if they stand together, else gathered into tmp. What does not change
// in time is gathered once: `ready` says that tmp holds it. `next` is the time that will be asked for after this one.
template <class T>
static inline const T* row(T* tmp, const Arg& a, i64 t, i64 next, i64 lo, i64 n, bool& ready) {
    if (a.kind == CONTIGUOUS) {
        const T* here = (const T*)a.data + lo;
        if (next >= 0) for (i64 i = 0; i < n; i += 64 / sizeof(T)) __builtin_prefetch(here + next * a.time + i, 0, 2);
        return here + t * a.time;
    }
    if (!ready) gather(tmp, a, t, lo, n);
    ready = a.time == 0;
    return tmp;
}

// Copy a finished row to its output without pulling the output into the cache. Not inline: a step of many states has it hundreds of times.
template <class T> static __attribute__((noinline)) void put(T* dst, const T* src, i64 n) {
#if defined(__AVX__)
    typedef float line __attribute__((vector_size(32)));
    const i64 bytes = n * sizeof(T);
    char* d = (char*)dst;
    const char* q = (const char*)src;
    i64 head = (32 - ((uintptr_t)d & 31)) & 31;
    if (head > bytes) head = bytes;
    __builtin_memcpy(d, q, head);
    i64 i = head;
    for (; i + 32 <= bytes; i += 32) {
        line x;
        __builtin_memcpy(&x, q + i, 32);
#if defined(__clang__)
        __builtin_nontemporal_store(x, (line*)(d + i));
#else
        __builtin_ia32_movntps256((float*)(d + i), x);
#endif
    }
    __builtin_memcpy(d + i, q + i, bytes - i);
#else
    __builtin_memcpy((void*)dst, (const void*)src, n * sizeof(T));
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
    char* memory;
    i64 used;
    template <class T> T* take(i64 n) {
        char* p = memory + used;
        used += (n * sizeof(T) + 63) & ~(i64)63;
        return (T*)p;
    }
};

// The numbers of a call, as `_cpu.py` lays them out, the addresses of the scratch memory and of each argument, and the values of
// the program's free numbers.
struct Call {
    i64 T, lanes, groups, block, threads, reverse, every, bytes, stream;   // no block has lanes of two groups
    char* scratch;
    const double* free;
    Arg args[ARGS];
    const i64* widths;
    void* extra = 0;
    mutable i64 next, slot;
    Call(const i64* a, const i64* at, const double* free) : T(a[0]), lanes(a[1]), groups(a[2]), block(a[3]), threads(a[4]),
          reverse(a[5]), every(a[6]), bytes(a[7]), stream(a[8]), scratch((char*)((at[0] + 63) & ~(i64)63)), free(free), next(0), slot(0) {
        const i64* p = a + 9;
        for (int i = 0; i < ARGS; ++i, p += 3 + 2 * p[2]) args[i] = Arg{(char*)at[i + 1], p[0], p[1], p[2], p + 3, p + 3 + p[2]};
        widths = p;
    }
    const Arg& operator[](int i) const { return args[i]; }
    i64 group() const { return lanes / groups; }
    i64 blocks() const { return (group() + block - 1) / block; }   // of a group
};

static void one_block(const Call& c, i64 lo, i64 n, i64 index, Scratch& w);

static void work(void* call) {
    const Call& c = *(const Call*)call;
    char* memory = c.scratch + __atomic_fetch_add(&c.slot, 1, __ATOMIC_RELAXED) * c.bytes;
    const i64 blocks = c.blocks(), group = c.group();
    for (i64 b; (b = __atomic_fetch_add(&c.next, 1, __ATOMIC_RELAXED)) < c.groups * blocks;) {
        Scratch w = {memory, 0};
        const i64 first = b % blocks * c.block, rest = group - first;
        one_block(c, b / blocks * group + first, rest < c.block ? rest : c.block, b, w);
    }
#if defined(__AVX__)
    __builtin_ia32_sfence();   // what went past the cache is there before anybody is told
#endif
}
