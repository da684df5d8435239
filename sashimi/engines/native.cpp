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
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "products.h"
#include "sampler.h"

namespace {

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
    const double none[6] = {1, 0, 1, 0, 0, 0};
    const double* d = sampling ? sampling : none;
    const Sampling drawing{d[0], d[1], d[2], d[3], d[4], d[5]};
    const Job job{steps, position, keys, drawing, forced, pending, states, tokens, logp, logits};
    const auto* p = static_cast<const Player*>(player);
    try {
        return p->full ? run(*p->full, job, streams, threads) : run(*p->half, job, streams, threads);
    } catch (const std::bad_alloc&) {
        return -1;
    }
}
}
