// Registers of warps, and what the instructions of `instructions.py` compute with them. Its table is written as calls of
// the macros at the end: number of the instruction, types of the result and of the operands, and an expression.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <limits>
#include <string>
#include <unordered_map>
#include <vector>

constexpr int LANES = 32, SLOT = 256;  // a register has a slot of 32 lanes of 8 bytes; of 4 bytes, half of it
constexpr uint32_t EVERY_LANE = 0xffffffffu, CONSTANT = 0x80000000u, NO_PREDICATE = 0xffffffffu;
constexpr uint64_t SHARED_WINDOW = 0x7a00000000000000ull, LOCAL_WINDOW = 0x7b00000000000000ull;
constexpr uint64_t WINDOW = 1ull << 32;
constexpr int END = -1;

enum Kind { COMPUTE, NOTHING, BRANCH, BARRIER, EXIT, LOAD, STORE, ATOMIC_OPERATION, PARAMETER };
enum Space { ANY, GLOBAL, SHARED, LOCAL };
enum Special { THREAD, THREADS, BLOCK_X, BLOCK_Y, BLOCKS_X, BLOCKS_Y, N_SPECIAL };  // the first registers

struct Instruction {
    int32_t kind, operation, is_free, is_float64;
    uint32_t predicate;
    int32_t negated;
    uint32_t result[4], source[5];
    int64_t offset;
    int32_t target, meeting, phase, space, bytes, register_bytes, is_signed, width, is_strong, address_bytes, line;
};

struct Trouble : std::exception {
    std::string text;
    explicit Trouble(std::string text) : text(std::move(text)) {}
};

struct Path {
    int at, until;
    uint32_t lanes;
};

struct Warp {
    char* registers;
    const char* constants;
    int first_thread, phase, waiting;  // waiting: the phase after the barrier, 0 if it runs
    uint32_t lanes;
    std::vector<Path> paths;
};

template <class T> static inline T* lanes_of(const Warp& warp, uint32_t slot) {
    return (T*)(slot & CONSTANT ? warp.constants + (size_t)(slot & ~CONSTANT) * SLOT
                                : warp.registers + (size_t)slot * SLOT);
}

// -- what instructions compute -------------------------------------------------------------------------------------

static inline uint32_t bits_of(float x) { uint32_t b; memcpy(&b, &x, 4); return b; }
static inline uint64_t bits_of(double x) { uint64_t b; memcpy(&b, &x, 8); return b; }
static inline bool is_nan(float x) { return x != x; }
static inline bool is_nan(double x) { return x != x; }
static inline float flushed(float x) {
    const uint32_t b = bits_of(x), kept = b & 0x7f800000u ? b : b & 0x80000000u;
    float out;
    memcpy(&out, &kept, 4);
    return out;
}
static inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
static inline float root(float x) { return __builtin_sqrtf(x); }
static inline double root(double x) { return __builtin_sqrt(x); }
static inline float magnitude(float x) { return __builtin_fabsf(x); }
static inline double magnitude(double x) { return __builtin_fabs(x); }
template <class T> static inline T nearest(T x) { return std::nearbyint(x); }
template <class T> static inline T truncated(T x) { return std::trunc(x); }
template <class T> static inline T floor_of(T x) { return std::floor(x); }
template <class T> static inline T ceiling_of(T x) { return std::ceil(x); }
template <class T> static inline T smaller(T a, T b) {  // -0 under 0; a number rather than none
    if (is_nan(a)) return b;
    if (is_nan(b) || a < b) return a;
    return b < a || std::signbit(b) ? b : a;
}
template <class T, class F> static inline T saturated(F x) {
    constexpr bool wide = sizeof(T) == 8 || sizeof(F) == 8;
    if (is_nan(x)) return wide ? (T)1 << (8 * sizeof(T) - 1) : 0;
    if (x <= (F)std::numeric_limits<T>::min()) return std::numeric_limits<T>::min();
    if (x >= (F)std::numeric_limits<T>::max()) return std::numeric_limits<T>::max();
    return (T)x;
}
template <class T> static inline T divided(T a, T b) {
    if (b == 0) throw Trouble("division of an integer by 0");
    return std::is_signed<T>::value && b == (T)-1 ? (T)-a : (T)(a / b);
}
template <class T> static inline T remainder_of(T a, T b) {
    if (b == 0) throw Trouble("division of an integer by 0");
    return std::is_signed<T>::value && b == (T)-1 ? (T)0 : (T)(a % b);
}
template <class T> static inline T shifted_left(T a, uint32_t n) { return n < 8 * sizeof(T) ? (T)(a << n) : (T)0; }
template <class T> static inline T shifted_right(T a, uint32_t n) {
    if (n < 8 * sizeof(T)) return (T)(a >> n);
    return std::is_signed<T>::value && a < 0 ? (T)-1 : (T)0;
}
static inline double coarse_reciprocal(double x) {  // the upper half of 1 / x; subnormal numbers are 0
    auto coarse = [](double y) {
        uint64_t b = bits_of(y);
        b = (b >> 52 & 0x7ff ? b : b & 1ull << 63) & 0xffffffff00000000ull;
        memcpy(&y, &b, 8);
        return y;
    };
    return coarse(1.0 / coarse(x));
}

// A loop over lanes, plain where all of them run, so that the compiler can make it one of vectors.
#define FOR_LANES(statement)                                                             \
    if (lanes == EVERY_LANE) {                                                           \
        _Pragma("GCC ivdep") for (int l = 0; l < LANES; ++l) { statement; }              \
    } else {                                                                             \
        for (uint32_t m = lanes; m; m &= m - 1) { const int l = __builtin_ctz(m); statement; } \
    }

typedef void (*Operation)(const Warp&, const Instruction&, uint32_t lanes);
typedef uint64_t (*Atomic)(char* place, uint64_t b, uint64_t c);  // what was there before

#define BEGIN(n) static void operation_##n(const Warp& warp, const Instruction& i, uint32_t lanes) {
#define OPERATION1(n, D, A, ...)                                                                          \
    BEGIN(n)                                                                                              \
        D* d = lanes_of<D>(warp, i.result[0]);                                                            \
        const A* pa = lanes_of<A>(warp, i.source[0]);                                                     \
        FOR_LANES(const A a = pa[l]; d[l] = (D)(__VA_ARGS__))                                             \
    }
#define OPERATION2(n, D, A, B, ...)                                                                       \
    BEGIN(n)                                                                                              \
        D* d = lanes_of<D>(warp, i.result[0]);                                                            \
        const A* pa = lanes_of<A>(warp, i.source[0]);                                                     \
        const B* pb = lanes_of<B>(warp, i.source[1]);                                                     \
        FOR_LANES(const A a = pa[l]; const B b = pb[l]; d[l] = (D)(__VA_ARGS__))                          \
    }
#define OPERATION3(n, D, A, B, C, ...)                                                                    \
    BEGIN(n)                                                                                              \
        D* d = lanes_of<D>(warp, i.result[0]);                                                            \
        const A* pa = lanes_of<A>(warp, i.source[0]);                                                     \
        const B* pb = lanes_of<B>(warp, i.source[1]);                                                     \
        const C* pc = lanes_of<C>(warp, i.source[2]);                                                     \
        FOR_LANES(const A a = pa[l]; const B b = pb[l]; const C c = pc[l]; d[l] = (D)(__VA_ARGS__))       \
    }
#define CHOICE(n, D, A, B, ...)                                                                           \
    BEGIN(n)                                                                                              \
        D* d = lanes_of<D>(warp, i.result[0]);                                                            \
        const A* pa = lanes_of<A>(warp, i.source[0]);                                                     \
        const B* pb = lanes_of<B>(warp, i.source[1]);                                                     \
        const uint32_t chosen = *lanes_of<uint32_t>(warp, i.source[2]);                                   \
        FOR_LANES(const A a = pa[l]; const B b = pb[l]; const bool c = chosen >> l & 1; d[l] = (D)(__VA_ARGS__)) \
    }
#define COMPARISON(n, A, B, ...)                                                                          \
    BEGIN(n)                                                                                              \
        uint32_t* d = lanes_of<uint32_t>(warp, i.result[0]);                                              \
        const A* pa = lanes_of<A>(warp, i.source[0]);                                                     \
        const B* pb = lanes_of<B>(warp, i.source[1]);                                                     \
        uint32_t out = 0;                                                                                 \
        FOR_LANES(const A a = pa[l]; const B b = pb[l]; out |= (uint32_t)(bool)(__VA_ARGS__) << l)        \
        *d = (*d & ~lanes) | (out & lanes);                                                               \
    }
#define MASKS1(n, ...)                                                                                    \
    BEGIN(n)                                                                                              \
        uint32_t* d = lanes_of<uint32_t>(warp, i.result[0]);                                              \
        const uint32_t a = *lanes_of<uint32_t>(warp, i.source[0]);                                        \
        *d = (*d & ~lanes) | ((__VA_ARGS__) & lanes);                                                     \
    }
#define MASKS2(n, ...)                                                                                    \
    BEGIN(n)                                                                                              \
        uint32_t* d = lanes_of<uint32_t>(warp, i.result[0]);                                              \
        const uint32_t a = *lanes_of<uint32_t>(warp, i.source[0]), b = *lanes_of<uint32_t>(warp, i.source[1]); \
        *d = (*d & ~lanes) | ((__VA_ARGS__) & lanes);                                                     \
    }
#define ATOMIC(n, T, ...)                                                                                 \
    static uint64_t atomic_##n(char* place, uint64_t first, uint64_t second) {                            \
        T a, b = (T)first, c = (T)second;                                                                 \
        (void)c;                                                                                          \
        memcpy(&a, place, sizeof(T));                                                                     \
        const T after = (T)(__VA_ARGS__);                                                                 \
        memcpy(place, &after, sizeof(T));                                                                 \
        return (uint64_t)a;                                                                               \
    }
