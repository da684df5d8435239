#pragma once
// What a layer computes: products of matrices, state space systems, norms. Every output is the same for every batch.

#include <cmath>

#include "weights.h"

namespace {

// NP panels of y = A x + bias for NS rows, kept in registers.
template <int NP, int NS, typename T>
inline void tile(const T* weight, const float* bias, int K, const float* x, int64_t stride, float* y,
                 int64_t ystride) {
    const int64_t size = elements<T>(PANEL, K);
    vf acc[NP][VECTORS][NS];
    for (int p = 0; p < NP; ++p)
        for (int v = 0; v < VECTORS; ++v)
            for (int s = 0; s < NS; ++s) acc[p][v][s] = load(bias + p * PANEL + v * W);
    for (int k = 0; k < K; k += 2) {
        if constexpr (NS == 1) {  // every weight is used once
            for (int p = 0; p < NP; ++p)
                for (int v = 0; v < VECTORS; ++v) {
                    const Columns<T> columns(weight + p * size, k, v);
                    acc[p][v][0] += columns.even() * x[k];
                    acc[p][v][0] += columns.odd() * x[k + 1];
                }
            continue;
        }
        // A column of weights into registers, then one input after the other: two columns at a time, or all inputs,
        // would leave no room for the sums.
        {
            vf w[NP][VECTORS];
            for (int p = 0; p < NP; ++p)
                for (int v = 0; v < VECTORS; ++v) keep(w[p][v] = Columns<T>(weight + p * size, k, v).even());
            for (int s = 0; s < NS; ++s)
                for (int p = 0; p < NP; ++p)
                    for (int v = 0; v < VECTORS; ++v) acc[p][v][s] += w[p][v] * x[s * stride + k];
        }
        {
            vf w[NP][VECTORS];
            for (int p = 0; p < NP; ++p)
                for (int v = 0; v < VECTORS; ++v) keep(w[p][v] = Columns<T>(weight + p * size, k, v).odd());
            for (int s = 0; s < NS; ++s)
                for (int p = 0; p < NP; ++p)
                    for (int v = 0; v < VECTORS; ++v) acc[p][v][s] += w[p][v] * x[s * stride + k + 1];
        }
    }
    for (int p = 0; p < NP; ++p)
        for (int v = 0; v < VECTORS; ++v)
            for (int s = 0; s < NS; ++s) store(y + s * ystride + p * PANEL + v * W, acc[p][v][s]);
}

// Sizes of tiles: of one row, 8 chains of multiply-adds that hide each other's latency; of many, what fills the
// registers with sums and leaves room for a weight and an input.
constexpr int ALONE = 8 / VECTORS;
constexpr int PANELS = W == 16 ? 4 : 1, ROWS = W == 4 ? 3 : 6;

// NP panels for `rows` rows.
template <int NP, int NS, typename T>
inline void strip(const T* weight, const float* bias, int K, int rows, const float* x, int64_t stride, float* y,
                  int64_t ystride) {
    for (; rows >= NS; rows -= NS, x += NS * stride, y += NS * ystride)
        tile<NP, NS>(weight, bias, K, x, stride, y, ystride);
    if constexpr (NS > 1)
        if (rows) strip<NP, NS - 1>(weight, bias, K, rows, x, stride, y, ystride);
}

// Panels first .. last - 1 of y = A x + bias for every row.
template <typename T>
void multiply(const Dense<T>& m, int first, int last, int rows, const float* x, int64_t stride, float* y,
              int64_t ystride) {
    const int K = m.columns;
    const auto strips = [&](auto panels, auto most, int p) {
        constexpr int NP = decltype(panels)::value, NS = decltype(most)::value;
        for (; p + NP <= last; p += NP)
            strip<NP, NS>(m.weight + p * elements<T>(PANEL, K), m.bias + p * PANEL, K, rows, x, stride, y + p * PANEL,
                          ystride);
        return p;
    };
    using One = std::integral_constant<int, 1>;
    using Some = std::integral_constant<int, ROWS>;
    int p = first;
    if (rows == 1) {
        p = strips(std::integral_constant<int, ALONE>(), One(), p);
        p = strips(std::integral_constant<int, ALONE / 2>(), One(), p);
    } else
        p = strips(std::integral_constant<int, PANELS>(), Some(), p);
    strips(One(), Some(), p);
}

// One step of W systems: x' = Abar x + b u, returns c . x'. Abar is diag(a), less p q for low rank.
template <bool LOW>
inline vf advance(const float* a, const float* b, const float* c, const float* p, const float* q, float* x, vf u,
                  int modes) {
    vf w{};
    if constexpr (LOW) {
        vf w0{}, w1{};
        for (int i = 0; i < 2 * modes * W; i += 2 * W) {
            w0 += load(q + i) * load(x + i);
            w1 += load(q + i + W) * load(x + i + W);
        }
        w = w0 + w1;
    }
    vf y[4] = {};
    const auto mode = [&](int i, vf& y0, vf& y1) {
        const vf ar = load(a + i), ai = load(a + i + W), xr = load(x + i), xi = load(x + i + W);
        vf re, im;
        if constexpr (LOW) {
            re = ar * xr - ai * xi - load(p + i) * w + load(b + i) * u;
            im = ar * xi + ai * xr - load(p + i + W) * w + load(b + i + W) * u;
        } else {
            re = (ar * xr + u) - ai * xi;
            im = ar * xi + ai * xr;
        }
        store(x + i, re);
        store(x + i + W, im);
        y0 += load(c + i) * re;
        y1 += load(c + i + W) * im;
    };
    int n = 0;
    for (; n + 2 <= modes; n += 2) {
        mode(2 * n * W, y[0], y[1]);
        mode(2 * (n + 1) * W, y[2], y[3]);
    }
    if (n < modes) mode(2 * n * W, y[0], y[1]);
    return (y[0] + y[1]) + (y[2] + y[3]);
}

// s / sigma (u - mean + m) over the H real channels of Hp, padding kept at zero.
inline void normalise(const float* u, const float* real, int H, int Hp, float m, float s, float* v) {
    vf total{};
    for (int h = 0; h < Hp; h += W) total += load(u + h);
    const float mean = sum(total) / H;
    vf squares{};
    for (int h = 0; h < Hp; h += W) {
        const vf d = (load(u + h) - mean) * load(real + h);
        squares += d * d;
    }
    const float factor = s / std::sqrt(sum(squares) / H);
    for (int h = 0; h < Hp; h += W) store(v + h, (load(u + h) - mean + m) * factor * load(real + h));
}

}  // namespace
