#pragma once
// Logits to a token, as sampling.py defines it: Philox draws, temperature, truncations.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace {

// The first word of Philox4x64-10 with key (k0, k1) and counter (c0, 0, 0, 0).
uint64_t philox(uint64_t c0, uint64_t k0, uint64_t k1) {
    uint64_t c1 = 0, c2 = 0, c3 = 0;
    for (int round = 0; round < 10; ++round) {
        const unsigned __int128 a = (unsigned __int128)0xD2E7470EE14C6C93u * c0;
        const unsigned __int128 b = (unsigned __int128)0xCA5A826395121157u * c2;
        c0 = uint64_t(b >> 64) ^ c1 ^ k0, c1 = uint64_t(b);
        c2 = uint64_t(a >> 64) ^ c3 ^ k1, c3 = uint64_t(a);
        k0 += 0x9E3779B97F4A7C15u, k1 += 0xBB67AE8584CAA73Bu;
    }
    return c0;
}

// The fields of SamplingConfig, in their order.
struct Sampling {
    double temperature, top_k, top_p, min_p, floor, entropy;
    bool truncates() const { return top_k > 0 || top_p < 1 || min_p > 0 || floor > 0; }
};

struct Sampler {
    int vocab;
    std::vector<float> e, p;
    std::vector<int> order;

    explicit Sampler(int vocab) : vocab(vocab), e(padded(vocab)), p(padded(vocab)), order(vocab) {}

    // out_i = exp((l_i - largest) / temperature); returns their sum.
    double exponentials(const float* logits, float largest, float temperature, std::vector<float>& out) {
        for (int i = 0; i < padded(vocab); i += W)
            store(&out[i], exponential((load(logits + i) - largest) / temperature));
        std::fill(out.begin() + vocab, out.end(), 0.0f);
        double total = 0;
        for (size_t i = 0; i < out.size(); i += PANEL) total += panel_sum(&out[i]);
        return total;
    }

    static double panel_sum(const float* values) {
        double s = 0;
        for (int i = 0; i < PANEL; ++i) s += values[i];
        return s;
    }

    // The temperature of a distribution e with sum `total`, lower where its entropy is above sampling.entropy bits.
    double temperature(const float* logits, float largest, double total, const Sampling& sampling) const {
        if (!(sampling.entropy > 0)) return sampling.temperature;
        double mean = 0;
        for (int i = 0; i < vocab; ++i) mean += double(e[i]) * (double(logits[i]) - largest);
        const double bits = (std::log(total) - mean / total) / std::log(2.0);
        return sampling.temperature * (bits > sampling.entropy ? sampling.entropy / bits : 1.0);
    }

    // The token of the draw u, or `forced` if that is one (-1: none), and its log-probability, untruncated at
    // temperature 1. logits: padded(vocab) of them.
    int draw(const float* logits, const Sampling& sampling, double u, int forced, double& logp) {
        const int best = int(std::max_element(logits, logits + vocab) - logits);
        double total = exponentials(logits, logits[best], 1.0f, e);
        int token = forced;
        if (token < 0) {
            const double t = temperature(logits, logits[best], total, sampling);
            if (t == 0) {
                token = best;
            } else if (t == 1 && !sampling.truncates()) {
                token = invert(e, u * total);
            } else {
                double mass = exponentials(logits, logits[best], float(t), p);
                if (sampling.truncates()) mass = truncate(sampling, mass);
                token = invert(p, u * mass);
            }
        }
        logp = double(logits[token]) - logits[best] - std::log(total);
        return token;
    }

    // Keeps of p, with sum `mass`, what the truncations leave; returns its sum.
    double truncate(const Sampling& sampling, double mass) {
        // The likeliest always stays. Sorting all would take longer than a small model's step, so thresholds go first
        // and the rest is taken from a heap, in order, only where order matters: likeliest first, then by token.
        const int best = int(std::max_element(p.begin(), p.begin() + vocab) - p.begin());
        const double least = std::max(sampling.floor * mass, sampling.min_p * p[best]);
        int count = 0;
        for (int i = 0; i < vocab; ++i)
            if (i == best || p[i] >= least)
                order[count++] = i;
            else
                p[i] = 0;
        if (sampling.top_k > 0 || sampling.top_p < 1) {
            const auto after = [&](int a, int b) { return p[a] != p[b] ? p[a] < p[b] : a > b; };
            const auto begin = order.begin();
            std::make_heap(begin, begin + count, after);
            double before = 0;
            int rank = 0;
            const auto stays = [&] {
                return !rank || (before < sampling.top_p * mass && (!sampling.top_k || rank < sampling.top_k));
            };
            for (; count && stays(); ++rank) {
                std::pop_heap(begin, begin + count, after);
                before += p[order[--count]];
            }
            for (int i = 0; i < count; ++i) p[order[i]] = 0;
        }
        double kept = 0;
        for (size_t i = 0; i < p.size(); i += PANEL) kept += panel_sum(&p[i]);
        return kept;
    }

    // The first token at which the running sum passes the target; by rounding none may, then the last possible one.
    int invert(const std::vector<float>& values, double target) const {
        double before = 0;
        for (int i = 0; i < vocab; i += PANEL) {
            const double here = panel_sum(&values[i]);
            if (before + here > target) {
                for (int j = i; j < std::min(i + PANEL, vocab); ++j)
                    if ((before += values[j]) > target) return j;
            } else {
                before += here;
            }
        }
        int last = vocab - 1;
        while (last > 0 && !(values[last] > 0)) --last;
        return last;
    }
};

}  // namespace
