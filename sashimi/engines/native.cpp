// The whole playing loop of a SaShiMi on a CPU: tiers, head, draw, and the token fed back, for a block of steps.
//
// Data layout
//   lanes    W floats are one vector of the machine this was compiled for. Channels lie along the lanes.
//   panel    16 rows of a matrix, whatever W. Every width H is padded to whole panels, Hp, with zeros that stay zero.
//   dense    a matrix of R rows and K columns is [panel][K][16]: one column of one panel is contiguous, so a product
//            streams through memory once, and each output is one chain of multiply-adds in the order of k. That order
//            is the same for every batch, every number of threads and every tile: outputs are equal bit for bit.
//            In bfloat16 two columns share a word: [panel][K / 2][16], column 2 k in the lower half.
//   system   a, b, c, p, q and the states x of a bank of H systems with N/2 complex coordinates each are
//            [Hp / W][N / 2][re, im][W].
//   states   all streams of a group lie together layer by layer, in the order in which a step walks them.
//   buffers  activations are [row][Hp]; a row is one position of one stream.
//
// Weights come from native.py as two arrays, which the reader below walks in the model's own order: `dense` (float,
// or pairs of bfloat16) and `rest` (float). States come and go in the model's shared layout (SaShiMi.layout).
//
// Threads
//   A team of threads works on a group of streams together: each takes some panels of every layer and waits for the
//   others between layers. With many streams every thread is a team of its own, with its own streams, and never waits.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

// --- vectors -----------------------------------------------------------------------------------------

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

// --- the model ---------------------------------------------------------------------------------------

// Elements of a matrix.
template <typename T>
constexpr int64_t elements(int rows, int columns) {
    return int64_t(rows) * columns / (std::is_same_v<T, Pair> ? 2 : 1);
}

constexpr int padded(int n) { return (n + PANEL - 1) / PANEL * PANEL; }

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

// --- products ----------------------------------------------------------------------------------------

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

// --- drawing a token ---------------------------------------------------------------------------------

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

struct Sampling {
    double temperature, top_k, top_p, min_p, floor;
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

    // The token of the draw u, or `forced` if that is one (-1: none), and its log-probability, untruncated at
    // temperature 1. logits: padded(vocab) of them.
    int draw(const float* logits, const Sampling& sampling, double u, int forced, double& logp) {
        const int best = int(std::max_element(logits, logits + vocab) - logits);
        double total = exponentials(logits, logits[best], 1.0f, e);
        int token = forced;
        if (token < 0) {
            if (sampling.temperature == 0) {
                token = best;
            } else if (sampling.temperature == 1 && !sampling.truncates()) {
                token = invert(e, u * total);
            } else {
                double mass = exponentials(logits, logits[best], float(sampling.temperature), p);
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

// --- a team of threads -------------------------------------------------------------------------------

// Each of the team counts its arrivals on a cache line of its own and watches the others': one transfer between cores.
class Barrier {
  public:
    explicit Barrier(int size) : size(size), arrivals(new Arrivals[size]) {}

    void wait(int rank) {
        const unsigned mine = arrivals[rank].count.load(std::memory_order_relaxed) + 1;
        arrivals[rank].count.store(mine, std::memory_order_release);
        for (int other = 0; other < size; ++other)
            // Layers take microseconds. Whoever waits longer has lost its partner's core, and gives way.
            for (int spins = 0; int(arrivals[other].count.load(std::memory_order_acquire) - mine) < 0; ++spins) {
                if (spins > 2000) std::this_thread::yield();
#if defined(__x86_64__) || defined(__i386__)
                else if (spins > 100) __builtin_ia32_pause();
#endif
            }
    }

  private:
    struct alignas(128) Arrivals {
        std::atomic<unsigned> count{0};
    };
    const int size;
    std::unique_ptr<Arrivals[]> arrivals;
};

// What is asked of a run, for all streams.
struct Job {
    int64_t steps;
    const int64_t* position;  // (B): index of the token that is drawn first
    const uint64_t* keys;     // (B 2)
    Sampling sampling;
    const uint8_t* forced;  // (B steps): given tokens, to be heard; null: tokens are drawn
    int32_t* pending;       // (B), in and out
    float* states;          // (B shared), in and out
    uint8_t* tokens;        // (B steps), of those that are drawn
    double* logp;           // (B steps); null: nobody asks, which hearing may
    float* logits;          // (B steps vocab), or null
};

// A group of streams, and the buffers that its team shares. `rows` of activations lie stream by stream, and of each
// stream position by position: one position when it plays, many when it hears given tokens. Each row is computed
// alike, so hearing is stepping, bit for bit.
template <typename T>
class Group {
  public:
    Group(const Model<T>& model, const Job& job, int first, int streams, int size)
        : model(model), job(job), first(first), S(streams), size(size), longest(job.forced ? int(HEARD) : 1),
          barrier(size), sampler(model.vocab) {
        state = zeros(S * model.working);
        const int64_t rows = int64_t(S) * longest;
        logits = zeros((job.forced && !job.logp ? S : rows) * padded(model.vocab));
        between = zeros(rows * model.widest);
        for (int i = 0; i < 2 * size; ++i) own.push_back(zeros(rows * model.widest));
        int64_t positions = longest;
        for (const auto& tier : model.tiers) {
            x.push_back(zeros(S * positions * tier.Hp));
            u.push_back(zeros(S * positions * tier.Hp));
            if (!tier.pool) break;
            pools.push_back(zeros(S * (positions + tier.pool) * tier.Hp));
            positions = positions / tier.pool + 1;
        }
        for (int s = 0; s < S; ++s) convert<true>(s, job.position[first]);
    }

    // The work of one of the team. Returns the number of steps whose logits were numbers.
    int64_t work(int rank) {
        Mine mine{rank, own[2 * rank].get(), own[2 * rank + 1].get()};
        for (int64_t step = 0; step < job.steps; step += longest) {
            const int L = int(std::min<int64_t>(longest, job.steps - step));
            embed(step, L, mine);
            tier(0, job.position[first] + step, L, mine);
            if (job.logp) {
                const int Hp = model.tiers[0].Hp, V = padded(model.vocab);
                for (int r = 0; r < S * L; ++r) layer_norm(r, mine.own + int64_t(r) * Hp);
                const auto [begin, end] = share(model.head.panels, rank);
                multiply(model.head, begin, end, S * L, mine.own, Hp, logits.get(), V);
                barrier.wait(rank);
                if (rank == 0)
                    for (int r = 0; r < S * L; ++r) draw(r / L, step + r % L, &logits[int64_t(r) * V]);
            }
            barrier.wait(rank);
            if (broken.load(std::memory_order_relaxed)) return step;
        }
        return job.steps;
    }

    void finish() {
        for (int s = 0; s < S; ++s) {
            convert<false>(s, job.position[first] + job.steps);
            if (job.forced) job.pending[first + s] = job.forced[(first + s + 1) * job.steps - 1];
        }
    }

  private:
    static constexpr int HEARD = 256;  // given tokens at a time: a multiple of what pools usually need, within L2

    struct Mine {
        int rank;
        float *own, *more;  // buffers of one thread
    };

    std::pair<int, int> share(int panels, int rank) const {
        return {panels * rank / size, panels * (rank + 1) / size};
    }

    // The states of a layer's W channels from channel h on, of stream s: [N / 2][re, im][W].
    float* systems(const Block<T>& block, int s, int h) {
        return &state[S * block.state + (int64_t(h / W) * S + s) * model.N * W];
    }

    // What a tier's pools hold of stream s, [pool][Hp]; `offset` is the tier's `gathered` or `owed`.
    float* held_by(const Tier<T>& t, int64_t offset, int s) { return &state[S * offset + int64_t(s) * t.pool * t.Hp]; }

    // The tokens that precede those of step .. step + L - 1, to x[0]: each thread its own channels.
    void embed(int64_t step, int L, const Mine& mine) {
        const int Hp = model.tiers[0].Hp;
        const auto [begin, end] = share(Hp / PANEL, mine.rank);
        for (int r = 0; r < S * L; ++r) {
            const int64_t stream = first + r / L, at = step + r % L;
            const int token = job.forced && at ? job.forced[stream * job.steps + at - 1] : job.pending[stream];
            std::copy_n(model.embedding + int64_t(token) * Hp + begin * PANEL, (end - begin) * PANEL,
                        &x[0][int64_t(r) * Hp + begin * PANEL]);
        }
    }

    // L positions of tier i and what the tiers below make of them: reads x[i], of which each thread has written its
    // own channels; leaves u[i] and x[i], whose sum is the output.
    void tier(int i, int64_t position, int L, Mine& mine) {
        const auto& t = model.tiers[i];
        const auto [begin, end] = share(t.Hp / PANEL, mine.rank);
        if (t.pool) from_below(i, position, L, mine);
        for (int r = 0; r < S * L; ++r)
            std::copy_n(&x[i][int64_t(r) * t.Hp + begin * PANEL], (end - begin) * PANEL,
                        &u[i][int64_t(r) * t.Hp + begin * PANEL]);
        barrier.wait(mine.rank);
        for (const auto& block : t.blocks) {
            if (block.kind == FEED_FORWARD)
                feed_forward(i, block, S * L, mine);
            else
                s4(i, block, L, mine);
        }
    }

    // Adds to x[i] what the tiers below contribute: one vector a position, a pooled step late. Pools that become full
    // on the way go down; what comes up is owed to the positions after them.
    void from_below(int i, int64_t position, int L, Mine& mine) {
        const auto& t = model.tiers[i];
        const int Hp = t.Hp, p = t.pool, held = int(position % p), full = (held + L) / p;
        const auto [begin, end] = share(Hp / PANEL, mine.rank);
        const int from = begin * PANEL, count = (end - begin) * PANEL;
        // One stream's gathered vectors, then its new ones: whole pools, and the beginning of the next.
        const int64_t line = int64_t(held + L) * Hp;
        for (int s = 0; s < S; ++s)
            for (int l = 0; l < held + L; ++l) {
                const float* vector =
                    l < held ? held_by(t, t.gathered, s) + l * Hp : &x[i][(int64_t(s) * L + l - held) * Hp];
                std::copy_n(vector + from, count, &pools[i][s * line + int64_t(l) * Hp + from]);
            }
        for (int s = 0; s < S; ++s)
            for (int l = held; l < std::min(p, held + L); ++l) {
                float* input = &x[i][(int64_t(s) * L + l - held) * Hp + from];
                const float* owed = held_by(t, t.owed, s) + l * Hp + from;
                for (int h = 0; h < count; ++h) input[h] += owed[h];
            }
        barrier.wait(mine.rank);
        if (full) {
            const auto& b = model.tiers[i + 1];
            const auto [down_begin, down_end] = share(t.down.panels, mine.rank);
            if (full == 1)
                multiply(t.down, down_begin, down_end, S, pools[i].get(), line, x[i + 1].get(), b.Hp);
            else
                for (int s = 0; s < S; ++s)
                    multiply(t.down, down_begin, down_end, full, &pools[i][s * line], int64_t(p) * Hp,
                             &x[i + 1][int64_t(s) * full * b.Hp], b.Hp);
            tier(i + 1, position / p, full, mine);
            for (int r = 0; r < S * full; ++r) total(i + 1, r, mine.own + int64_t(r) * b.Hp);
            const auto [up_begin, up_end] = share(t.up.panels, mine.rank);
            // Pool g owes its vectors to positions (g + 1) p - held and on; the last pool's wait in the state.
            multiply(t.up, up_begin, up_end, S * full, mine.own, b.Hp, between.get(), int64_t(p) * Hp);
            barrier.wait(mine.rank);
            for (int s = 0; s < S; ++s) {
                const float* risen = &between[int64_t(s) * full * p * Hp];
                for (int l = p - held; l < L; ++l) {
                    float* input = &x[i][(int64_t(s) * L + l) * Hp + from];
                    const float* owed = risen + int64_t(l - (p - held)) * Hp + from;
                    for (int h = 0; h < count; ++h) input[h] += owed[h];
                }
                for (int l = 0; l < p; ++l)
                    std::copy_n(risen + (int64_t(full - 1) * p + l) * Hp + from, count,
                                held_by(t, t.owed, s) + l * Hp + from);
            }
        }
        for (int s = 0; s < S; ++s)
            for (int l = full ? 0 : held; l < held + L - full * p; ++l)
                std::copy_n(&pools[i][s * line + (int64_t(full) * p + l) * Hp + from], count,
                            held_by(t, t.gathered, s) + l * Hp + from);
    }

    // u + x of a row, a tier's output.
    void total(int i, int row, float* out) const {
        const int Hp = model.tiers[i].Hp;
        const float *a = &u[i][int64_t(row) * Hp], *b = &x[i][int64_t(row) * Hp];
        for (int h = 0; h < Hp; h += W) store(out + h, load(a + h) + load(b + h));
    }

    void normed(int i, const Block<T>& block, int rows, float* out) const {
        const auto& t = model.tiers[i];
        for (int r = 0; r < rows; ++r)
            normalise(&u[i][int64_t(r) * t.Hp], t.real, t.H, t.Hp, block.shift, block.scale, out + int64_t(r) * t.Hp);
    }

    void s4(int i, const Block<T>& block, int L, Mine& mine) {
        const int Hp = model.tiers[i].Hp, rows = S * L;
        const auto [begin, end] = share(Hp / PANEL, mine.rank);
        normed(i, block, rows, mine.own);
        for (int h = begin * PANEL; h < end * PANEL; h += W) {
            const int64_t at = int64_t(h) * model.N;
            const vf skip = load(block.skip + h);
            for (int s = 0; s < S; ++s) {
                float* const values = systems(block, s, h);
                for (int r = s * L; r < (s + 1) * L; ++r) {
                    const vf input = load(mine.own + int64_t(r) * Hp + h);
                    const vf y = block.kind == LOW_RANK
                                     ? advance<true>(block.a + at, block.b + at, block.c + at, block.p + at,
                                                     block.q + at, values, input, model.N / 2)
                                     : advance<false>(block.a + at, nullptr, block.c + at, nullptr, nullptr, values,
                                                      input, model.N / 2);
                    store(&between[int64_t(r) * Hp + h], gelu(y + skip * input));
                }
            }
        }
        barrier.wait(mine.rank);
        multiply(block.first, begin, end, rows, between.get(), Hp, mine.own, Hp);
        if (model.glu) multiply(block.gate, begin, end, rows, between.get(), Hp, mine.more, Hp);
        for (int r = 0; r < rows; ++r)
            for (int h = begin * PANEL; h < end * PANEL; h += W) {
                const int64_t at = int64_t(r) * Hp + h;
                vf y = load(mine.own + at);
                if (model.glu) y *= sigmoid(load(mine.more + at));
                store(&u[i][at], load(&u[i][at]) + y);
            }
        barrier.wait(mine.rank);
    }

    void feed_forward(int i, const Block<T>& block, int rows, Mine& mine) {
        const int Hp = model.tiers[i].Hp, hidden = block.first.panels * PANEL;
        normed(i, block, rows, mine.own);
        const auto [begin, end] = share(block.first.panels, mine.rank);
        multiply(block.first, begin, end, rows, mine.own, Hp, between.get(), hidden);
        for (int r = 0; r < rows; ++r)
            for (int h = begin * PANEL; h < end * PANEL; h += W) {
                float* value = &between[int64_t(r) * hidden + h];
                store(value, gelu(load(value)));
            }
        barrier.wait(mine.rank);
        const auto [out_begin, out_end] = share(Hp / PANEL, mine.rank);
        multiply(block.second, out_begin, out_end, rows, between.get(), hidden, mine.more, Hp);
        for (int r = 0; r < rows; ++r)
            for (int h = out_begin * PANEL; h < out_end * PANEL; h += W) {
                const int64_t at = int64_t(r) * Hp + h;
                store(&u[i][at], load(&u[i][at]) + load(mine.more + at));
            }
        barrier.wait(mine.rank);
    }

    void layer_norm(int row, float* out) const {
        const auto& t = model.tiers[0];
        total(0, row, out);
        vf values{}, squares{};
        for (int h = 0; h < t.Hp; h += W) values += load(out + h);
        const float mean = sum(values) / t.H;
        for (int h = 0; h < t.Hp; h += W) {
            const vf d = (load(out + h) - mean) * load(t.real + h);
            squares += d * d;
        }
        const float factor = 1.0f / std::sqrt(sum(squares) / t.H + 1e-5f);
        for (int h = 0; h < t.Hp; h += W)
            store(out + h, (load(out + h) - mean) * factor * load(model.norm_weight + h) + load(model.norm_bias + h));
    }

    void draw(int s, int64_t step, const float* values) {
        const int stream = first + s;
        const int64_t at = stream * job.steps + step;
        if (job.logits) std::copy_n(values, model.vocab, job.logits + at * model.vocab);
        double logp, uniform = 0;
        if (!job.forced) {
            const uint64_t counter = uint64_t(job.position[stream] + step) + 1;  // NumPy counts up before it computes
            uniform = double(philox(counter, job.keys[2 * stream], job.keys[2 * stream + 1]) >> 11) * 0x1p-53;
        }
        const int token = sampler.draw(values, job.sampling, uniform, job.forced ? job.forced[at] : -1, logp);
        if (!std::isfinite(logp)) broken.store(true, std::memory_order_relaxed);
        job.logp[at] = logp;
        if (job.forced) return;
        job.tokens[at] = uint8_t(token);
        job.pending[stream] = token;
    }

    // A stream's state from the shared layout to the working one, or back. `position`: of the next token.
    template <bool IN>
    void convert(int s, int64_t position) {
        float* outside = job.states + (first + s) * model.shared;
        const auto move = [](float& a, float& b) {
            if constexpr (IN)
                a = b;
            else
                b = a;
        };
        for (const auto& t : model.tiers) {
            if (t.pool) {
                const int held = int(position % t.pool);
                for (int part = 0; part < 2; ++part)
                    for (int j = 0; j < t.pool; ++j)
                        for (int h = 0; h < t.H; ++h, ++outside) {
                            float& value = held_by(t, part ? t.owed : t.gathered, s)[j * t.Hp + h];
                            if (!IN && part == 0 && j >= held) value = 0;  // not yet gathered
                            move(value, *outside);
                        }
                position /= t.pool;
            }
            for (const auto& block : t.blocks) {
                if (block.kind == FEED_FORWARD) continue;
                const int modes = model.N / 2;
                for (int h = 0; h < t.H; ++h)
                    for (int part = 0; part < 2; ++part)
                        for (int n = 0; n < modes; ++n, ++outside)
                            move(systems(block, s, h)[(n * 2 + part) * W + h % W], *outside);
            }
        }
    }

    const Model<T>& model;
    const Job& job;
    const int first, S, size;
    const int longest;  // positions at a time
    Barrier barrier;
    Sampler sampler;
    std::atomic<bool> broken{false};
    Buffer state, between, logits;
    std::vector<Buffer> x, u, pools, own;
};

// One thread for each of `threads`; thread t calls work(t). Returns false if the system starts no more threads.
template <typename F>
bool together(int threads, const F& work) {
    // Nobody begins before all are there: a team that lacks one would wait for ever.
    std::atomic<int> go{0};
    const auto wait = [&](int thread) {
        while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
        if (go.load() > 0) work(thread);
    };
    std::vector<std::thread> others;
    try {
        for (int thread = 1; thread < threads; ++thread) others.emplace_back(wait, thread);
        go.store(1, std::memory_order_release);
    } catch (const std::system_error&) {
        go.store(-1, std::memory_order_release);
    }
    wait(0);
    for (auto& other : others) other.join();
    return go.load() > 0;
}

template <typename T>
int64_t run(const Model<T>& model, const Job& job, int streams, int threads) {
    // Given tokens are heard a stream at a time, by all threads; streams that play share out the threads.
    const int rounds = job.forced ? streams : 1, here = streams / rounds;
    const int teams = here >= threads ? threads : 1, size = threads / teams;
    int64_t least = job.steps;
    for (int round = 0; round < rounds; ++round) {
        std::vector<std::unique_ptr<Group<T>>> groups;
        for (int g = 0; g < teams; ++g) {
            const int begin = here * g / teams, end = here * (g + 1) / teams;
            groups.push_back(std::make_unique<Group<T>>(model, job, round + begin, end - begin, size));
        }
        std::vector<int64_t> done(teams * size);
        const auto work = [&](int thread) { done[thread] = groups[thread / size]->work(thread % size); };
        if (!together(teams * size, work)) return -2;
        for (auto& group : groups) group->finish();
        least = std::min(least, *std::min_element(done.begin(), done.end()));
    }
    return least;
}

struct Player {
    std::unique_ptr<Model<float>> full;
    std::unique_ptr<Model<Pair>> half;
};

}  // namespace

// --- what native.py calls ----------------------------------------------------------------------------

extern "C" {

int sashimi_lanes() { return W; }

// Returns null when memory runs out. dense_count: of floats, or of pairs.
void* sashimi_player(const int32_t* description, const float* rest, int64_t rest_count, const void* dense,
                     int64_t dense_count, int half) {
    try {
        auto player = std::make_unique<Player>();
        if (half)
            player->half = std::make_unique<Model<Pair>>(description, rest, rest_count,
                                                         static_cast<const Pair*>(dense), dense_count);
        else
            player->full = std::make_unique<Model<float>>(description, rest, rest_count,
                                                          static_cast<const float*>(dense), dense_count);
        return player.release();
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void sashimi_free(void* player) { delete static_cast<Player*>(player); }

// Plays `steps` tokens of every stream, or hears them. Returns the steps done: fewer if logits were no numbers; -1: out of memory;
// -2: no thread could be started.
int64_t sashimi_run(void* player, int streams, int64_t steps, int threads, const int64_t* position,
                    const uint64_t* keys, const double* sampling, const uint8_t* forced, int32_t* pending,
                    float* states, uint8_t* tokens, double* logp, float* logits) {
    const double none[5] = {1, 0, 1, 0, 0};
    const double* d = sampling ? sampling : none;
    const Job job{steps, position, keys, {d[0], d[1], d[2], d[3], d[4]}, forced, pending, states, tokens, logp, logits};
    const auto* p = static_cast<const Player*>(player);
    try {
        return p->full ? run(*p->full, job, streams, threads) : run(*p->half, job, streams, threads);
    } catch (const std::bad_alloc&) {
        return -1;
    }
}
}
