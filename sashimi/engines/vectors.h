#pragma once
// Vectors of floats of the machine this was compiled for, functions of them, and memory to hold them.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

#if defined(LANES)
constexpr int W = LANES;
#elif defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

constexpr int PANEL = 16, VECTORS = PANEL / W;  // vectors in a panel's column

constexpr int padded(int n) { return (n + PANEL - 1) / PANEL * PANEL; }

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));

using Pair = uint32_t;  // two bfloat16, each the upper half of a float

inline vf load(const float* p) {
    vf v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline vf as_float(vu bits) {
    vf v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

// One vector each of two columns that follow each other, of which the first has an even number.
template <typename T>
struct Columns;

template <>
struct Columns<float> {
    const float* at;
    Columns(const float* panel, int k, int v) : at(panel + k * PANEL + v * W) {}
    vf even() const { return load(at); }
    vf odd() const { return load(at + PANEL); }
};

template <>
struct Columns<Pair> {
    vu words;
    Columns(const Pair* panel, int k, int v) { std::memcpy(&words, panel + k / 2 * PANEL + v * W, sizeof words); }
    vf even() const { return as_float(words << 16); }
    vf odd() const { return as_float(words & 0xffff0000u); }
};

inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }

// Compilers read a vector from memory again for every use of it, if they may: a value that may have changed is kept.
inline void keep([[maybe_unused]] vf& v) {
#if defined(__x86_64__) && !defined(LANES)
    asm("" : "+x"(v));
#endif
}

inline vf all(float x) { return vf{} + x; }

inline vf choose(vi mask, vf a, vf b) {
    vi x, y;
    std::memcpy(&x, &a, sizeof x);
    std::memcpy(&y, &b, sizeof y);
    x = (mask & x) | (~mask & y);
    std::memcpy(&a, &x, sizeof x);
    return a;
}

inline vf minimum(vf a, vf b) { return choose(a < b, a, b); }
inline vf maximum(vf a, vf b) { return choose(a > b, a, b); }

inline float sum(vf v) {
    float s = 0;
    for (int i = 0; i < W; ++i) s += v[i];
    return s;
}

// e^x to 2 units in the last place: x = n ln 2 + r, a Taylor polynomial of r, and n into the exponent's bits.
inline vf exponential(vf x) {
    x = minimum(maximum(x, all(-87.0f)), all(88.0f));
    const vf magic = all(12582912.0f);  // 1.5 2^23: adding it rounds to a whole number
    const vf n = (x * 1.44269504088896341f + magic) - magic;
    const vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vf p = all(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const vi scale = (__builtin_convertvector(n, vi) + 127) << 23;
    vf s;
    std::memcpy(&s, &scale, sizeof s);
    return p * s;
}

// x Phi(x) with the error function of Abramowitz and Stegun 7.1.26, which is within 1.5e-7.
inline vf gelu(vf x) {
    const vf zero{}, size = maximum(x, -x), z = size * 0.70710678118654752f;
    const vf t = 1.0f / (z * 0.3275911f + 1.0f);
    vf p = all(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const vf tail = p * t * exponential(-z * z) * 0.5f;  // 1 - Phi(|x|)
    return maximum(x, zero) - size * tail;
}

inline vf sigmoid(vf x) { return 1.0f / (exponential(-x) + 1.0f); }

// --- memory ------------------------------------------------------------------------------------------

struct Free {
    void operator()(void* p) const { std::free(p); }
};

template <typename T>
using Array = std::unique_ptr<T[], Free>;
using Buffer = Array<float>;

// n zeros from a cache line on. Large ones lie in large pages where the system has them: a step walks megabytes of
// weights, and their 4 KiB pages would be more than a processor remembers.
template <typename T = float>
Array<T> zeros(int64_t n) {
    constexpr size_t LARGE = size_t(2) << 20;
    size_t bytes = std::max<size_t>(size_t(n) * sizeof(T), 64), alignment = bytes >= LARGE ? LARGE : 64;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    void* p = std::aligned_alloc(alignment, bytes);
    if (!p) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (alignment == LARGE) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    std::memset(p, 0, bytes);
    return Array<T>(static_cast<T*>(p));
}

template <typename T>
Array<T> copied(const T* from, int64_t n) {
    Array<T> to = zeros<T>(n);
    std::copy_n(from, n, to.get());
    return to;
}

}  // namespace
