// How fast threads read memory in the order in which a model's steps walk it, and do nothing else with it.
//
// Sections lie one after another; section s is read in every period[s]-th pass. Every thread reads the first
// whole[s] bytes of it; the threads divide the other divided[s].

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <future>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

typedef uint64_t Half __attribute__((vector_size(32)));

struct Line {  // of a cache
    Half low, high;
};

constexpr size_t LARGE = size_t(2) << 20;  // a large page

struct Free {
    void operator()(void* p) const { std::free(p); }
};

using Lines = std::unique_ptr<Line[], Free>;

Lines filled(int64_t lines) {
    const size_t bytes = (size_t(lines) * sizeof(Line) / LARGE + 1) * LARGE;
    void* p = std::aligned_alloc(LARGE, bytes);
    if (!p) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(p, bytes, MADV_HUGEPAGE);
#endif
    std::memset(p, 1, bytes);
    return Lines(static_cast<Line*>(p));
}

// Four streams at a time: one alone keeps fewer loads under way than the memory can answer.
uint64_t total(const Line* from, const Line* to) {
    const int64_t quarter = (to - from) / 4;
    Half sums[4]{};
    for (int64_t i = 0; i < quarter; ++i)
        for (int s = 0; s < 4; ++s) sums[s] += from[s * quarter + i].low + from[s * quarter + i].high;
    for (from += 4 * quarter; from < to; ++from) sums[0] += from->low + from->high;
    sums[0] += sums[1] + (sums[2] + sums[3]);
    return sums[0][0] + sums[0][1] + sums[0][2] + sums[0][3];
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

// Bytes a second of all threads together, over about that many seconds; 0 where there is no memory or no thread.
extern "C" double bandwidth(int sections, const int64_t* whole, const int64_t* divided, const int64_t* period,
                            int threads, double seconds) {
    try {
        const auto lines = [](int64_t bytes) { return bytes / int64_t(sizeof(Line)); };
        int64_t all = 0, cycle = 1;
        for (int s = 0; s < sections; ++s)
            all += lines(whole[s]) + lines(divided[s]), cycle = std::max(cycle, period[s]);
        const Lines buffer = filled(all);
        std::atomic<uint64_t> sink{0};  // so that no compiler finds the reading pointless
        const auto walk = [&](int thread) {
            int64_t count = 0;
            uint64_t sum = 0;
            double began = 0, end = 0;
            for (int64_t pass = 0;; ++pass) {
                if (pass % cycle == 0) {  // the first cycle only warms up
                    end = now();
                    if (pass <= cycle) began = end, count = 0;
                    if (pass > cycle && end - began >= seconds) break;
                }
                const Line* p = buffer.get();
                for (int s = 0; s < sections; ++s) {
                    const int64_t mine = lines(whole[s]), shared = lines(divided[s]);
                    const int64_t first = shared * thread / threads, last = shared * (thread + 1) / threads;
                    if (pass % period[s] == 0) {
                        sum += total(p, p + mine) + total(p + mine + first, p + mine + last);
                        count += mine + last - first;
                    }
                    p += mine + shared;
                }
            }
            sink += sum;
            return double(count) * sizeof(Line) / (end - began);
        };
        std::vector<std::future<double>> others;
        for (int thread = 1; thread < threads; ++thread) others.push_back(std::async(std::launch::async, walk, thread));
        double rate = walk(0);
        for (auto& other : others) rate += other.get();
        return rate;
    } catch (const std::exception&) {
        return 0;
    }
}
