// The norm of a residual block over the channels of every row, and its gradient, on a CPU.
//
//   v = s r (u - mean + m)     r = 1 / sigma, sigma^2 the mean of (u - mean)^2
//
// Rows lie one after another, H channels each. A task is BLOCK of them, so sums over rows have one order whatever the
// number of threads.

#include <cmath>

#include "lanes.h"

namespace {

constexpr int64_t BLOCK = 256;

template <typename F>
struct Rows : Vector<F> {
    using vec = typename Vector<F>::vec;
    using Vector<F>::W, Vector<F>::load, Vector<F>::store, Vector<F>::sum;

    int64_t H;
    F m, s;

    // The sum of term(channel, channels there) over a row.
    template <typename Term>
    F over(const Term& term) const {
        vec total{};
        int64_t h = 0;
        for (; h + W <= H; h += W) total += term(h, W);
        if (h < H) total += term(h, int(H - h));
        return sum(total);
    }

    template <typename Each>
    void each(const Each& each) const {
        int64_t h = 0;
        for (; h + W <= H; h += W) each(h, W);
        if (h < H) each(h, int(H - h));
    }

    // u - mean, zero beyond the last channel.
    vec centred(const F* u, F mean, int64_t h, int n) const {
        vec c = load(u + h, n) - mean;
        for (int i = n; i < W; ++i) c[i] = 0;
        return c;
    }

    F mean(const F* u) const { return over([&](int64_t h, int n) { return load(u + h, n); }) / F(H); }

    F inverse_sigma(const F* u, F mean) const {
        const F squares = over([&](int64_t h, int n) {
            const vec c = centred(u, mean, h, n);
            return c * c;
        });
        return F(1) / std::sqrt(squares / F(H));
    }

    void forward(const F* u, F* v) const {
        const F mu = mean(u), scale = s * inverse_sigma(u, mu), shift = m - mu;
        each([&](int64_t h, int n) { store(v + h, (load(u + h, n) + shift) * scale, n); });
    }

    // du = passed + the gradient through the norm; adds to dm and ds.
    void backward(const F* u, const F* dv, const F* passed, F* du, F& dm, F& ds) const {
        const F mu = mean(u), r = inverse_sigma(u, mu);
        vec plain{}, product{};
        each([&](int64_t h, int n) {
            const vec d = load(dv + h, n);
            plain += d;
            product += d * centred(u, mu, h, n);
        });
        const F total = sum(plain), with_shift = sum(product) + m * total;
        dm += s * r * total;
        ds += r * with_shift;
        // c = u - mean: dc = s r dv - s r^3 / H (sum of dv (c + m)) c, and du = dc - mean(dc); the c's have mean 0.
        const F scale = s * r, slope = s * r * r * r / F(H) * with_shift, away = scale * total / F(H);
        each([&](int64_t h, int n) {
            const vec through = load(dv + h, n) * scale - centred(u, mu, h, n) * slope - away;
            store(du + h, load(passed + h, n) + through, n);
        });
    }
};

template <typename F>
int forward(int64_t rows, int64_t H, const F* m, const F* s, const F* u, F* v, int threads) try {
    const Rows<F> norm{{}, H, *m, *s};
    for_each<F>((rows + BLOCK - 1) / BLOCK, threads, 0, [&](int64_t task, F*) {
        for (int64_t i = task * BLOCK; i < std::min(rows, (task + 1) * BLOCK); ++i) norm.forward(u + i * H, v + i * H);
    });
    return 0;
} catch (const std::bad_alloc&) {
    return -1;
}

// dms: [task][2], each task's share of dm and ds.
template <typename F>
int backward(int64_t rows, int64_t H, const F* m, const F* s, const F* u, const F* dv, const F* passed, F* du, F* dms,
             int threads) try {
    const Rows<F> norm{{}, H, *m, *s};
    for_each<F>((rows + BLOCK - 1) / BLOCK, threads, 0, [&](int64_t task, F*) {
        F dm = 0, ds = 0;
        for (int64_t i = task * BLOCK; i < std::min(rows, (task + 1) * BLOCK); ++i)
            norm.backward(u + i * H, dv + i * H, passed + i * H, du + i * H, dm, ds);
        dms[2 * task] = dm, dms[2 * task + 1] = ds;
    });
    return 0;
} catch (const std::bad_alloc&) {
    return -1;
}

}  // namespace

extern "C" {

int norm_block() { return int(BLOCK); }

// 0; -1: there is no memory.
int norm_forward_float(int64_t rows, int64_t H, const float* m, const float* s, const float* u, float* v, int threads) {
    return forward(rows, H, m, s, u, v, threads);
}
int norm_forward_double(int64_t rows, int64_t H, const double* m, const double* s, const double* u, double* v,
                        int threads) {
    return forward(rows, H, m, s, u, v, threads);
}
int norm_backward_float(int64_t rows, int64_t H, const float* m, const float* s, const float* u, const float* dv,
                        const float* passed, float* du, float* dms, int threads) {
    return backward(rows, H, m, s, u, dv, passed, du, dms, threads);
}
int norm_backward_double(int64_t rows, int64_t H, const double* m, const double* s, const double* u, const double* dv,
                         const double* passed, double* du, double* dms, int threads) {
    return backward(rows, H, m, s, u, dv, passed, du, dms, threads);
}

}
