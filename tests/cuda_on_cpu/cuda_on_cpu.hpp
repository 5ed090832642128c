// Kernels as plain functions: a block is a team of OS threads, its barrier one that sleeps, and words that threads
// share go through std::atomic_ref, relaxed, so that a thread sanitizer sees what a GPU would do. Blocks run one after
// another. Shared memory is poisoned before each block.
#pragma once

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#define KERNEL static void
#define KERNEL_FOR(threads, blocks) static void
#define DEVICE static inline
#define SHARED(type, name, size) static type name[size]
#define DYNAMIC_SHARED(name) unsigned long long* name = cuda_on_cpu::memory

using int64 = long long;
using uint64 = unsigned long long;
using uint32 = unsigned int;

namespace cuda_on_cpu {
struct Index { unsigned x = 0, y = 0, z = 0; };

// std::barrier spins before it sleeps, which takes many times as long where other programs want the processors.
struct Team {
    const unsigned size;
    unsigned waiting = 0, round = 0;
    std::mutex mutex;
    std::condition_variable all_here;

    void arrive_and_wait() {
        std::unique_lock<std::mutex> lock(mutex);
        const unsigned mine = round;
        if (++waiting == size) {
            waiting = 0;
            ++round;
            all_here.notify_all();
        } else {
            all_here.wait(lock, [&] { return round != mine; });
        }
    }
};

inline Team* team = nullptr;
inline unsigned long long* memory = nullptr;
}  // namespace cuda_on_cpu

inline thread_local cuda_on_cpu::Index threadIdx, blockIdx, blockDim, gridDim;

#ifdef GPUVOX_PROFILE
extern "C" { unsigned long long gpuvox_phases[16] = {}; }
static inline long long ticks() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
#endif

static inline void barrier() { cuda_on_cpu::team->arrive_and_wait(); }

// T of the value is not deduced, so that `add(p, 1)` works on any word, as on the GPU.
template <class T> struct Same { using type = T; };
template <class T> static inline T load(const T* p) {
    return std::atomic_ref<T>(*const_cast<T*>(p)).load(std::memory_order_relaxed);
}
template <class T> static inline T glance(const T* p) { return load(p); }
template <class T> static inline void store(T* p, typename Same<T>::type value) {
    std::atomic_ref<T>(*p).store(value, std::memory_order_relaxed);
}
template <class T> static inline T add(T* p, typename Same<T>::type value) {
    return std::atomic_ref<T>(*p).fetch_add(value, std::memory_order_relaxed);
}
template <class T> static inline T swap(T* p, typename Same<T>::type expected, typename Same<T>::type value) {
    std::atomic_ref<T>(*p).compare_exchange_strong(expected, value, std::memory_order_relaxed);
    return expected;
}
template <class T> static inline T raise(T* p, typename Same<T>::type value) {
    T seen = load(p);
    while (seen < value && !std::atomic_ref<T>(*p).compare_exchange_weak(seen, value, std::memory_order_relaxed)) {}
    return seen;
}

namespace cuda_on_cpu {

template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}

template <class... A>
void launch(void (*kernel)(A...), const unsigned* shape, std::size_t shared, void** arguments) {
    const unsigned blocks_x = shape[0], blocks_y = shape[1], threads = shape[2];
    std::vector<unsigned long long> words(shared / 8 + 1);
    Team team_of_block{threads};
    team = &team_of_block;
    memory = words.data();
    auto work = [&](unsigned thread) {
        threadIdx = {thread, 0, 0};
        blockDim = {threads, 1, 1};
        gridDim = {blocks_x, blocks_y, 1};
        for (unsigned y = 0; y < blocks_y; ++y)
            for (unsigned x = 0; x < blocks_x; ++x) {
                blockIdx = {x, y, 0};
                if (thread == 0) std::memset(words.data(), 0xCD, words.size() * 8);
                barrier();
                call(kernel, arguments, std::index_sequence_for<A...>());
                barrier();
            }
    };
    std::vector<std::thread> others;
    for (unsigned thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
    work(0);
    for (auto& other : others) other.join();
}

}  // namespace cuda_on_cpu
