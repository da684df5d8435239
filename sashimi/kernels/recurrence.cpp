// The recurrence of a bank of state space systems over whole sequences, and its gradient, on a CPU.
//
//   x_t = A x_{t-1} + b u_t     y_t = c . x_t + D u_t     A = diag(a) (b = 1), or diag(a) - p q
//
// Sequences are [B][L][H] as the layers keep them. A task is one sequence and W channels, which lie along the lanes of a
// vector. It walks the sequence in chunks of CHUNK samples that stay in the nearest cache; the states between chunks are
// all that the gradient needs beside u, because it runs each chunk forward again before it walks it backward.
//
// Diagonal systems are walked mode by mode, a mode's coefficients, state and sums in registers over a whole chunk. In
// systems with a low rank all modes meet at every sample in q . x, so these are walked sample by sample.
//
// Coefficients and states are [H][N] as in system.py, N real coordinates, first all real parts and then all imaginary.
// What comes back of the gradient of coefficients is [B][H][N], each sequence's share.

#include "lanes.h"

namespace {

constexpr int CHUNK = 128;
constexpr int GROUP = 4;  // modes walked together: one alone waits for its own last sample

// --- a task ------------------------------------------------------------------------------------------

// What a call is given; F: float or double. Pointers that do not apply are null.
template <typename F>
struct Job {
    int64_t B, L, H, N;
    const F *a, *b, *c, *D, *p, *q;  // f(H N), D f(H); b, p, q of systems with a low rank
    const F *u, *x;                  // f(B L H), the state before f(B H N)
    F *y, *last, *starts;            // f(B L H), f(B H N), the states before every chunk: [task][chunk][N][W]
};

template <typename F>
struct Gradient {
    const F *dy, *dlast;                  // f(B L H), f(B H N)
    F *du, *dx;                           // f(B L H), f(B H N)
    F *da, *db, *dc, *dD, *dp, *dq;       // f(B H N), dD f(B H)
};

template <typename F>
struct Walk : Vector<F> {
    using vec = typename Vector<F>::vec;
    using Vector<F>::W, Vector<F>::load, Vector<F>::store;

    const Job<F>& job;
    int64_t sequence, channel;  // the first of this task
    int lanes;                  // channels that there are, at most W
    int64_t M, chunks;

    Walk(const Job<F>& job, int64_t task) : job(job) {
        const int64_t banks = (job.H + W - 1) / W;
        sequence = task / banks;
        channel = task % banks * W;
        lanes = int(std::min<int64_t>(W, job.H - channel));
        M = job.N / 2;
        chunks = (job.L + CHUNK - 1) / CHUNK;
    }

    static int64_t tasks(const Job<F>& job) { return job.B * ((job.H + W - 1) / W); }

    static void add(F* p, vec v) { store(p, load(p) + v); }

    // W channels at p, of which the last may not exist.
    vec read(const F* p) const { return load(p, lanes); }
    void write(F* p, vec v) const { store(p, v, lanes); }

    // f(H N) <-> [N][W]; per sequence where `of` says so.
    void gather(const F* from, F* to, int64_t of = 0) const {
        from += (of * job.H + channel) * job.N;
        for (int64_t n = 0; n < job.N; ++n)
            for (int i = 0; i < W; ++i) to[n * W + i] = i < lanes ? from[i * job.N + n] : F(0);
    }
    void scatter(const F* from, F* to) const {
        to += (sequence * job.H + channel) * job.N;
        for (int64_t n = 0; n < job.N; ++n)
            for (int i = 0; i < lanes; ++i) to[i * job.N + n] = from[n * W + i];
    }

    int64_t row(int64_t t) const { return (sequence * job.L + t) * job.H + channel; }
    F* start(int64_t task, int64_t chunk) const { return job.starts + (task * chunks + chunk) * job.N * W; }
    int length(int64_t chunk) const { return int(std::min<int64_t>(CHUNK, job.L - chunk * CHUNK)); }
};

// --- diagonal ----------------------------------------------------------------------------------------

template <typename F>
struct Diagonal : Walk<F> {
    using Base = Walk<F>;
    using vec = typename Base::vec;
    using Base::job, Base::M, Base::W, Base::load, Base::store;
    F *a, *c, *x;                                // [N][W]
    F *h, *da, *dc;                              // of the gradient
    static size_t scratch(int64_t N) { return size_t(6 * N * W); }

    Diagonal(const Job<F>& job, int64_t task, F* own) : Base(job, task) {
        const int64_t size = job.N * W;
        a = own, c = own + size, x = own + 2 * size, h = own + 3 * size, da = own + 4 * size, dc = own + 5 * size;
        this->gather(job.a, a);
        this->gather(job.c, c);
    }

    // G modes from m on over a chunk: y += c . x
    template <int G>
    void run(int64_t m, int T, const vec* u, vec* y) {
        vec ar[G], ai[G], cr[G], ci[G], xr[G], xi[G];
        for (int g = 0; g < G; ++g) {
            ar[g] = load(a + (m + g) * W), ai[g] = load(a + (M + m + g) * W);
            cr[g] = load(c + (m + g) * W), ci[g] = load(c + (M + m + g) * W);
            xr[g] = load(x + (m + g) * W), xi[g] = load(x + (M + m + g) * W);
        }
        for (int t = 0; t < T; ++t) {
            vec sum = y[t];
            for (int g = 0; g < G; ++g) {
                const vec re = (u[t] + ar[g] * xr[g]) - ai[g] * xi[g];
                xi[g] = ar[g] * xi[g] + ai[g] * xr[g];
                xr[g] = re;
                sum += cr[g] * xr[g];
                sum += ci[g] * xi[g];
            }
            y[t] = sum;
        }
        for (int g = 0; g < G; ++g) store(x + (m + g) * W, xr[g]), store(x + (M + m + g) * W, xi[g]);
    }

    void forward(int64_t task) {
        vec u[CHUNK], y[CHUNK];
        const vec D = this->read(job.D + this->channel);
        this->gather(job.x, x, this->sequence);
        for (int64_t k = 0; k < this->chunks; ++k) {
            const int T = this->length(k);
            if (job.starts) std::memcpy(this->start(task, k), x, size_t(job.N * W) * sizeof(F));
            const int64_t row = this->row(k * CHUNK);
            for (int t = 0; t < T; ++t) u[t] = this->read(job.u + row + t * job.H), y[t] = D * u[t];
            int64_t m = 0;
            for (; m + GROUP <= M; m += GROUP) run<GROUP>(m, T, u, y);
            for (; m < M; ++m) run<1>(m, T, u, y);
            for (int t = 0; t < T; ++t) this->write(job.y + row + t * job.H, y[t]);
        }
        this->scatter(x, job.last);
    }

    // The states before and after every sample of a chunk, of G modes from m on, [G][T + 1][re, im].
    // before: those before the chunk, [N][W].
    template <int G>
    void states(int64_t m, int T, const F* before, const vec* u, vec (*to)[CHUNK + 1][2]) {
        vec ar[G], ai[G], xr[G], xi[G];
        for (int g = 0; g < G; ++g) {
            ar[g] = load(a + (m + g) * W), ai[g] = load(a + (M + m + g) * W);
            xr[g] = load(before + (m + g) * W), xi[g] = load(before + (M + m + g) * W);
            to[g][0][0] = xr[g], to[g][0][1] = xi[g];
        }
        for (int t = 0; t < T; ++t)
            for (int g = 0; g < G; ++g) {
                const vec re = (u[t] + ar[g] * xr[g]) - ai[g] * xi[g];
                xi[g] = ar[g] * xi[g] + ai[g] * xr[g];
                xr[g] = re;
                to[g][t + 1][0] = xr[g], to[g][t + 1][1] = xi[g];
            }
    }

    // One mode of the gradient over a chunk, whose states are x.
    void back(int64_t m, int T, const vec (*x)[2], const vec* dy, vec* du) {
        const vec ar = load(a + m * W), ai = load(a + (M + m) * W);
        const vec cr = load(c + m * W), ci = load(c + (M + m) * W);
        // h = A* g of the sample after; g = h + c dy; then h = A* g, written so that only two sums follow each other.
        const vec er = ar * cr + ai * ci, ei = ar * ci - ai * cr;
        vec hr = load(h + m * W), hi = load(h + (M + m) * W);
        vec dar{}, dai{}, dcr{}, dci{};
        for (int t = T; t-- > 0;) {
            const vec gr = hr + cr * dy[t], gi = hi + ci * dy[t];
            const vec re = (er * dy[t] + ar * hr) + ai * hi;
            hi = (ei * dy[t] + ar * hi) - ai * hr;
            hr = re;
            du[t] += gr;
            dcr += dy[t] * x[t + 1][0];
            dci += dy[t] * x[t + 1][1];
            dar += gr * x[t][0];
            dar += gi * x[t][1];
            dai += gi * x[t][0];
            dai -= gr * x[t][1];
        }
        store(h + m * W, hr), store(h + (M + m) * W, hi);
        Base::add(da + m * W, dar), Base::add(da + (M + m) * W, dai);
        Base::add(dc + m * W, dcr), Base::add(dc + (M + m) * W, dci);
    }

    template <int G>
    void back_together(int64_t m, int T, const F* before, const vec* u, const vec* dy, vec* du) {
        vec x[G][CHUNK + 1][2];
        states<G>(m, T, before, u, x);
        for (int g = 0; g < G; ++g) back(m + g, T, x[g], dy, du);
    }

    void backward(int64_t task, const Gradient<F>& to) {
        vec u[CHUNK], dy[CHUNK], du[CHUNK], dD{};
        const vec D = this->read(job.D + this->channel);
        this->gather(to.dlast, h, this->sequence);
        std::fill(da, da + 2 * job.N * W, F(0));
        for (int64_t k = this->chunks; k-- > 0;) {
            const int T = this->length(k);
            const int64_t row = this->row(k * CHUNK);
            for (int t = 0; t < T; ++t) {
                u[t] = this->read(job.u + row + t * job.H), dy[t] = this->read(to.dy + row + t * job.H);
                du[t] = D * dy[t];
                dD += u[t] * dy[t];
            }
            int64_t m = 0;
            for (; m + GROUP <= M; m += GROUP) back_together<GROUP>(m, T, this->start(task, k), u, dy, du);
            for (; m < M; ++m) back_together<1>(m, T, this->start(task, k), u, dy, du);
            for (int t = 0; t < T; ++t) this->write(to.du + row + t * job.H, du[t]);
        }
        this->scatter(h, to.dx), this->scatter(da, to.da), this->scatter(dc, to.dc);
        this->write(to.dD + this->sequence * job.H + this->channel, dD);
    }
};

// --- low rank ----------------------------------------------------------------------------------------

template <typename F>
struct LowRank : Walk<F> {
    using Base = Walk<F>;
    using vec = typename Base::vec;
    using Base::job, Base::M, Base::W, Base::load, Base::store;
    F *a, *b, *c, *p, *q, *h;                // [N][W]
    F *da, *db, *dc, *dp, *dq;               // of the gradient
    F *x, *g;                                // [T + 1][N][W], [T][N][W]
    int64_t size;

    static size_t scratch(int64_t N) { return size_t((11 + 2 * CHUNK + 1) * N * W); }

    LowRank(const Job<F>& job, int64_t task, F* own) : Base(job, task), size(job.N * W) {
        for (F** array : {&a, &b, &c, &p, &q, &h, &da, &db, &dc, &dp, &dq}) *array = own, own += size;
        x = own, g = own + (CHUNK + 1) * size;
        this->gather(job.a, a), this->gather(job.b, b), this->gather(job.c, c);
        this->gather(job.p, p), this->gather(job.q, q);
    }

    vec dot(const F* row, const F* column) const {
        vec re{}, im{};
        for (int64_t m = 0; m < M; ++m) {
            re += load(row + m * W) * load(column + m * W);
            im += load(row + (M + m) * W) * load(column + (M + m) * W);
        }
        return re + im;
    }

    // One sample: the state `from` to `to`, which may be the same. s: q . from, and then q . to. Returns c . to.
    vec step(const F* from, F* to, vec u, vec& s) const {
        vec yr{}, yi{}, nr{}, ni{};
        for (int64_t m = 0; m < M; ++m) {
            const int64_t re = m * W, im = (M + m) * W;
            const vec xr = load(from + re), xi = load(from + im), ar = load(a + re), ai = load(a + im);
            const vec r = ((load(b + re) * u - load(p + re) * s) + ar * xr) - ai * xi;
            const vec i = ((load(b + im) * u - load(p + im) * s) + ar * xi) + ai * xr;
            store(to + re, r), store(to + im, i);
            yr += load(c + re) * r, yi += load(c + im) * i;
            nr += load(q + re) * r, ni += load(q + im) * i;
        }
        s = nr + ni;
        return yr + yi;
    }

    void forward(int64_t task) {
        const vec D = this->read(job.D + this->channel);
        this->gather(job.x, x, this->sequence);
        vec s = dot(q, x);
        for (int64_t t = 0; t < job.L; ++t) {
            if (job.starts && t % CHUNK == 0) std::memcpy(this->start(task, t / CHUNK), x, size_t(size) * sizeof(F));
            const vec u = this->read(job.u + this->row(t));
            this->write(job.y + this->row(t), D * u + step(x, x, u, s));
        }
        this->scatter(x, job.last);
    }

    // One mode's sums over a chunk.
    void sum(int64_t m, int T, const vec* u, const vec* dy, const vec* s, const vec* ps) {
        const int64_t re = m * W, im = (M + m) * W;
        vec dar{}, dai{}, dbr{}, dbi{}, dcr{}, dci{}, dpr{}, dpi{}, dqr{}, dqi{};
        for (int t = 0; t < T; ++t) {
            const F *before = x + t * size, *after = before + size, *at = g + t * size;
            const vec gr = load(at + re), gi = load(at + im), xr = load(before + re), xi = load(before + im);
            dar += gr * xr, dai += gi * xr;
            dar += gi * xi, dai -= gr * xi;
            dbr += u[t] * gr, dbi += u[t] * gi;
            dcr += dy[t] * load(after + re), dci += dy[t] * load(after + im);
            dpr -= s[t] * gr, dpi -= s[t] * gi;
            dqr -= ps[t] * xr, dqi -= ps[t] * xi;
        }
        Base::add(da + re, dar), Base::add(da + im, dai), Base::add(db + re, dbr), Base::add(db + im, dbi);
        Base::add(dc + re, dcr), Base::add(dc + im, dci), Base::add(dp + re, dpr), Base::add(dp + im, dpi);
        Base::add(dq + re, dqr), Base::add(dq + im, dqi);
    }

    void backward(int64_t task, const Gradient<F>& to) {
        vec u[CHUNK], dy[CHUNK], s[CHUNK], ps[CHUNK], dD{};  // s = q . x of the sample before, ps = p . g
        const vec D = this->read(job.D + this->channel);
        this->gather(to.dlast, h, this->sequence);
        std::fill(da, da + 5 * size, F(0));
        for (int64_t k = this->chunks; k-- > 0;) {
            const int T = this->length(k);
            const int64_t row = this->row(k * CHUNK);
            std::memcpy(x, this->start(task, k), size_t(size) * sizeof(F));
            vec next = dot(q, x);
            for (int t = 0; t < T; ++t) {
                u[t] = this->read(job.u + row + t * job.H), dy[t] = this->read(to.dy + row + t * job.H);
                dD += u[t] * dy[t];
                s[t] = next;
                step(x + t * size, x + (t + 1) * size, u[t], next);
            }
            for (int t = T; t-- > 0;) {
                F* at = g + t * size;
                vec bg{}, pg{};
                for (int64_t n = 0; n < job.N * W; n += W) {
                    const vec v = load(h + n) + load(c + n) * dy[t];
                    store(at + n, v);
                    bg += load(b + n) * v, pg += load(p + n) * v;
                }
                ps[t] = pg;
                for (int64_t m = 0; m < M; ++m) {
                    const int64_t re = m * W, im = (M + m) * W;
                    const vec gr = load(at + re), gi = load(at + im), ar = load(a + re), ai = load(a + im);
                    store(h + re, (ar * gr + ai * gi) - load(q + re) * pg);
                    store(h + im, (ar * gi - ai * gr) - load(q + im) * pg);
                }
                this->write(to.du + row + t * job.H, D * dy[t] + bg);
            }
            for (int64_t m = 0; m < M; ++m) sum(m, T, u, dy, s, ps);
        }
        this->scatter(h, to.dx);
        this->scatter(da, to.da), this->scatter(db, to.db), this->scatter(dc, to.dc);
        this->scatter(dp, to.dp), this->scatter(dq, to.dq);
        this->write(to.dD + this->sequence * job.H + this->channel, dD);
    }
};

// --- calls -------------------------------------------------------------------------------------------

template <template <typename> class Kind, typename F>
void run(const Job<F>& job, const Gradient<F>* to, int threads) {
    for_each<F>(Walk<F>::tasks(job), threads, Kind<F>::scratch(job.N), [&](int64_t task, F* own) {
        Kind<F> walk(job, task, own);
        to ? walk.backward(task, *to) : walk.forward(task);
    });
}

template <typename F>
int call(const void* given, const void* gradient, int threads) try {
    const Job<F>& job = *static_cast<const Job<F>*>(given);
    const Gradient<F>* to = static_cast<const Gradient<F>*>(gradient);
    job.p ? run<LowRank>(job, to, threads) : run<Diagonal>(job, to, threads);
    return 0;
} catch (const std::bad_alloc&) {
    return -1;
}

}  // namespace

extern "C" {

int recurrence_chunk() { return CHUNK; }
int recurrence_vector_bytes() { return BYTES; }

// Forward, or with a gradient backward. 0; -1: there is no memory.
int recurrence_float(const void* job, const void* gradient, int threads) { return call<float>(job, gradient, threads); }
int recurrence_double(const void* job, const void* gradient, int threads) { return call<double>(job, gradient, threads); }

}
