#pragma once
// What the compiled kernels share: vectors of this processor, and threads.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__) && !defined(OWN_THREADS)
#define OF_TORCH
// The OpenMP pool that torch runs its own loops on, where it is GNU's: a second pool would fight it for the cores.
extern "C" void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned) __attribute__((weak));
#endif

namespace {

#if defined(VECTOR_BYTES)
constexpr int BYTES = VECTOR_BYTES;
#elif defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

// W numbers of type F side by side.
template <typename F>
struct Vector {
    static constexpr int W = BYTES / int(sizeof(F));
    typedef F vec __attribute__((vector_size(BYTES)));

    static vec load(const F* p) {
        vec v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static void store(F* p, vec v) { std::memcpy(p, &v, sizeof v); }

    // The first n of them at most.
    static vec load(const F* p, int n) {
        if (n >= W) return load(p);
        vec v{};
        std::memcpy(&v, p, size_t(n) * sizeof(F));
        return v;
    }
    static void store(F* p, vec v, int n) { std::memcpy(p, &v, n >= W ? sizeof v : size_t(n) * sizeof(F)); }

    static F sum(vec v) {
        F s = 0;
        for (int i = 0; i < W; ++i) s += v[i];
        return s;
    }
};

template <typename Work>
void on_threads(int threads, Work& work) {
    if (threads < 2) return work();
#if defined(OF_TORCH)
    if (GOMP_parallel) return GOMP_parallel([](void* p) { (*static_cast<Work*>(p))(); }, &work, unsigned(threads), 0);
#endif
    std::vector<std::thread> others;
    others.reserve(size_t(threads));
    try {
        for (int i = 1; i < threads; ++i) others.emplace_back([&] { work(); });
    } catch (const std::system_error&) {  // no more threads: those there are do it all
    }
    work();
    for (std::thread& other : others) other.join();
}

// Calls task(i, scratch) for every i < tasks; scratch: `size` elements of each thread's own. Throws std::bad_alloc.
template <typename F, typename Task>
void for_each(int64_t tasks, int threads, size_t size, const Task& task) {
    threads = int(std::max<int64_t>(1, std::min<int64_t>(threads, tasks)));
    std::vector<F> scratch(size_t(threads) * size);
    std::atomic<int64_t> next{0};
    std::atomic<int> joined{0};
    auto work = [&] {
        const int own = joined++;
        if (own >= threads) return;
        for (int64_t i; (i = next++) < tasks;) task(i, scratch.data() + size_t(own) * size);
    };
    on_threads(threads, work);
}

}  // namespace
