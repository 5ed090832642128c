// What every kernel uses: types, atomics, shared memory. The only place that knows whether this is compiled for a
// GPU or, by the tests, for a CPU (tests/cuda_on_cpu/cuda_on_cpu.hpp), where a block is a team of threads.
//
// Rules for all kernels: right for every number of threads a block may have, 1 included; barriers in uniform flow;
// words that several threads may touch between two barriers only through load, glance, store, swap, add and raise; no
// contraction of a * b + c (compiled with -fmad=false; fused where fmaf says so), so that a CPU gets the same bits.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)

#define KERNEL __global__ void
// From compute capability 10 on, ptxas takes more registers than four blocks of 128 threads leave to each: three blocks,
// rather than a spill.
#if __CUDA_ARCH__ >= 1000
#define RESIDENT(blocks) ((blocks) == 4 ? 3 : (blocks))
#else
#define RESIDENT(blocks) (blocks)
#endif
#define KERNEL_FOR(threads, blocks) __global__ void __launch_bounds__(threads, RESIDENT(blocks))
#define DEVICE __device__ __forceinline__
#define SHARED(type, name, size) __shared__ type name[size]
#define DYNAMIC_SHARED(name) extern __shared__ unsigned long long name[]

using int64 = long long;
using uint64 = unsigned long long;
using uint32 = unsigned int;

DEVICE void barrier() { __syncthreads(); }

#ifdef GPUVOX_PROFILE
extern "C" { __device__ uint64 gpuvox_phases[16] = {}; }
DEVICE int64 ticks() { return clock64(); }
#endif

template <class T> DEVICE T load(const T* p) { return *(const volatile T*)p; }
// Any value that a word of the block has had since the last barrier: the cache of the block's own processor may serve it.
DEVICE int glance(const int* p) {
    int value;
    asm volatile("ld.relaxed.cta.b32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
    return value;
}
template <class T> DEVICE void store(T* p, T value) { *(volatile T*)p = value; }
template <class T> DEVICE T add(T* p, T value) { return atomicAdd(p, value); }
DEVICE int64 add(int64* p, int64 value) { return (int64)atomicAdd((uint64*)p, (uint64)value); }
template <class T> DEVICE T swap(T* p, T expected, T value) { return atomicCAS(p, expected, value); }
template <class T> DEVICE T raise(T* p, T value) { return atomicMax(p, value); }

#else

#include "cuda_on_cpu.hpp"

#endif

// A clock by phase, for bench/device alone: ticks of the first thread of every block, from barrier to barrier.
#ifdef GPUVOX_PROFILE
#define START_OF_PHASES int64 phase_began = ticks()
#define END_OF_PHASE(k)                                               \
    do {                                                              \
        const int64 phase_ended = ticks();                            \
        if (threadIdx.x == 0) add(gpuvox_phases + (k), (uint64)(phase_ended - phase_began)); \
        phase_began = phase_ended;                                    \
    } while (0)
#else
#define START_OF_PHASES (void)0
#define END_OF_PHASE(k) (void)0
#endif

// Threads of the whole grid, for loops over independent items.
DEVICE int64 grid_thread() { return (int64)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE int64 grid_threads() { return (int64)gridDim.x * blockDim.x; }

// Bits of a float32 such that integers compare as the floats do.
DEVICE int ordered(float value) {
    union { float f; int i; } bits;
    bits.f = value;
    return bits.i < 0 ? (int)(0x80000000u - (uint32)bits.i) : bits.i;
}

DEVICE int float_bits(float value) {
    union { float f; int i; } bits;
    bits.f = value;
    return bits.i;
}

DEVICE int64 double_bits(double value) {
    union { double d; int64 i; } bits;
    bits.d = value;
    return bits.i;
}

// Shuffles are signed row numbers, see gpuvox/signed_rows.py: the row of one, and its value in a column of a table whose
// rows are `width` apart.
DEVICE int row_of(int shuffled) { return shuffled ^ (shuffled >> 31); }

DEVICE double signed_row(const double* column, int shuffled, int width) {
    union { double d; uint64 i; } value;
    value.d = column[(int64)row_of(shuffled) * width];
    value.i ^= (uint64)(unsigned)(shuffled & 0x80000000) << 32;
    return value.d;
}

// Join the trees of two nodes of a union-find forest that several threads work on: the root with the larger number is
// hooked under the other one. Returns the root that was hooked, or -1 if both nodes are in one tree already.
// find(node): the root of its tree; hook(root, below): whether `root` was a root still, and now hangs below the other.
template <class Find, class Hook> DEVICE int join_trees(int a, int b, Find find, Hook hook) {
    a = find(a);
    b = find(b);
    while (a != b) {
        if (a < b) {
            const int c = a;
            a = b;
            b = c;
        }
        if (hook(a, b)) return a;
        a = find(a);
        b = find(b);
    }
    return -1;
}

// f(offset) for every neighbour before a voxel in the padded box, then for every one after it, ascending. C is the
// connectivity; a row of the box has px positions, a plane pxy.
template <int C, class F> DEVICE void neighbours_before(int px, int pxy, F f) {
#pragma unroll
    for (int dz = -1; dz <= 0; ++dz)
#pragma unroll
        for (int dy = -1; dy <= 1; ++dy)
#pragma unroll
            for (int dx = -1; dx <= 1; ++dx) {
                const int moved = (dx != 0) + (dy != 0) + (dz != 0);
                const bool before = dz < 0 || (dz == 0 && (dy < 0 || (dy == 0 && dx < 0)));
                if (before && moved <= (C == 6 ? 1 : C == 18 ? 2 : 3)) f(dx + dy * px + dz * pxy);
            }
}

template <int C, class F> DEVICE void neighbours_after(int px, int pxy, F f) {
#pragma unroll
    for (int dz = 0; dz <= 1; ++dz)
#pragma unroll
        for (int dy = -1; dy <= 1; ++dy)
#pragma unroll
            for (int dx = -1; dx <= 1; ++dx) {
                const int moved = (dx != 0) + (dy != 0) + (dz != 0);
                const bool after = dz > 0 || (dz == 0 && (dy > 0 || (dy == 0 && dx > 0)));
                if (after && moved <= (C == 6 ? 1 : C == 18 ? 2 : 3)) f(dx + dy * px + dz * pxy);
            }
}
