#pragma once
// The weights of a SaShiMi, read from the two arrays that native.py packs. native.cpp says how they lie.

#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

// Elements of a matrix.
template <typename T>
constexpr int64_t elements(int rows, int columns) {
    return int64_t(rows) * columns / (std::is_same_v<T, Pair> ? 2 : 1);
}

template <typename T>
struct Dense {
    const T* weight;
    const float* bias;
    int panels, columns;
};

enum Kind { FEED_FORWARD = 0, DIAGONAL = 1, LOW_RANK = 2 };

template <typename T>
struct Block {
    Kind kind;
    float shift, scale;                       // of the norm
    const float *a, *b, *c, *p, *q, *skip;    // S4
    Dense<T> first, gate, second;             // S4: values, gates; feed-forward: expand, -, contract
    int64_t state;                            // offset of an S4 layer's states, for one stream
};

template <typename T>
struct Tier {
    int H, Hp, pool;  // pool: 0 for the lowest tier
    Dense<T> down, up;
    int64_t gathered, owed;
    const float* real;  // 1 for channels, 0 for padding
    std::vector<Block<T>> blocks;
};

template <typename T>
struct Model {
    int vocab, N, period = 1;
    bool glu;
    Array<float> everything_else;
    Array<T> matrices;
    const float *embedding, *norm_weight, *norm_bias;
    std::vector<Tier<T>> tiers;
    Dense<T> head;
    int64_t working = 0, shared = 0;  // floats of a stream's state, here and in the shared layout
    int widest = 0;                   // of all buffers

    Model(const int32_t* d, const float* rest, int64_t rest_count, const T* dense, int64_t dense_count)
        : everything_else(copied(rest, rest_count)), matrices(copied(dense, dense_count)) {
        rest = everything_else.get(), dense = matrices.get();
        const auto take = [&](int64_t n) {
            const float* p = rest;
            rest += n;
            return p;
        };
        const auto matrix = [&](int rows, int columns) {
            const Dense<T> m{dense, take(rows), rows / PANEL, columns};
            dense += elements<T>(rows, columns);
            widest = std::max({widest, rows, columns});
            return m;
        };
        vocab = *d++, N = *d++, glu = *d++;
        tiers.resize(*d++);
        for (auto& tier : tiers) tier.H = *d++, tier.Hp = padded(tier.H), tier.pool = *d++;
        embedding = take(int64_t(vocab) * tiers[0].Hp);
        for (size_t i = 0; i < tiers.size(); ++i) {
            auto& tier = tiers[i];
            const int Hp = tier.Hp;
            tier.real = take(Hp);
            if (tier.pool) {
                const int below = tiers[i + 1].Hp;
                period *= tier.pool;
                tier.down = matrix(below, tier.pool * Hp);
                tier.up = matrix(tier.pool * Hp, below);
                tier.gathered = working, tier.owed = working + tier.pool * Hp;
                working += 2 * tier.pool * Hp;
                shared += 2 * tier.pool * tier.H;
            }
            tier.blocks.resize(*d++);
            for (auto& block : tier.blocks) {
                block.kind = Kind(*d++);
                const int hidden = padded(*d++);
                const float* norm = take(2);
                block.shift = norm[0], block.scale = norm[1];
                if (block.kind == FEED_FORWARD) {
                    block.first = matrix(hidden, Hp);
                    block.second = matrix(Hp, hidden);
                    continue;
                }
                const int64_t bank = int64_t(Hp) * N;
                block.a = take(bank), block.c = take(bank);
                if (block.kind == LOW_RANK) block.b = take(bank), block.p = take(bank), block.q = take(bank);
                block.skip = take(Hp);
                block.first = matrix(Hp, Hp);
                if (glu) block.gate = matrix(Hp, Hp);
                block.state = working;
                working += bank;
                shared += int64_t(tier.H) * N;
            }
        }
        norm_weight = take(tiers[0].Hp), norm_bias = take(tiers[0].Hp);
        head = matrix(padded(vocab), tiers[0].Hp);
    }
};

}  // namespace
