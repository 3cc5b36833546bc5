// The keys in the windows of each query, walked on a CPU: what torch's flash attention lacks.
//
// Called by cpu.py, which describes the algebra. A row of a window is a run of neighbouring keys.
// Runs are walked in the order of their keys, for the caches. Every number is summed up by one
// thread in that order. Nothing outside the tensors is read, whatever the cells are.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#define INLINED inline __attribute__((always_inline))
// All is compiled for processors with wide vectors and for any, and chosen when it runs.
#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2,fma")))
static const bool is_wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
#define WIDE
static const bool is_wide = false;
#endif

// As cpu.py packs it. D is a multiple of 8, at most max_channels.
template <typename Number>
struct Problem {
    int64_t batch, queries, keys, heads, channels, threads;
    int64_t bev[2], views, view[2];     // rows and columns; 0 without
    int64_t radius[2];                  // on LiDAR and cameras; negative: no windows
    const Number *query, *key, *value;  // (B, N, H, D)
    const int32_t *cells;               // (B, Q, S, 2)
    const Number *strength;             // (B, Q, 2); null: attention to the keys in windows alone
    double sigma[2];                    // 0: gain 1 in the whole window
    double scale;
    // Attention without the bias becomes that with it. Without a strength zeros and a log-sum-exp
    // of -inf become attention to the windows.
    Number *output, *logsumexp;  // (B, Q, H, D), (B, Q, H)
    bool *lost;  // (B, Q): which queries are; in the backward pass they add to grad_strength alone
    // of the backward pass: what is known, and what is added to
    const Number *grad_output, *delta;
    Number *grad_query, *grad_key, *grad_value;
    Number *grad_strength;  // (H, B, Q, 2)
};

namespace {

constexpr int64_t max_channels = 512;
// A query to which a bias leaves less of its mass is lost.
constexpr double smallest_share = 0.5;

// Neighbouring numbers, in a vector register or two.
template <typename Number>
struct Vector {
    typedef Number Lanes __attribute__((vector_size(32)));
    typedef Number Unaligned __attribute__((vector_size(32), aligned(sizeof(Number))));
};
template <typename Number>
using Lanes = typename Vector<Number>::Lanes;

template <typename Number>
INLINED Lanes<Number> load(const Number *from) {
    return *reinterpret_cast<const typename Vector<Number>::Unaligned *>(from);
}

template <typename Number>
INLINED void store(Number *to, Lanes<Number> lanes) {
    *reinterpret_cast<typename Vector<Number>::Unaligned *>(to) = lanes;
}

INLINED float sum(Lanes<float> x) {
    typedef float Half __attribute__((vector_size(16)));
    Half halves[2];
    std::memcpy(halves, &x, sizeof x);
    const Half both = halves[0] + halves[1];
    return (both[0] + both[2]) + (both[1] + both[3]);
}

INLINED double sum(Lanes<double> x) { return (x[0] + x[2]) + (x[1] + x[3]); }

// e^x by the powers of two and a polynomial on [-ln 2 / 2, ln 2 / 2]. Relative error about 1e-7; 0
// below -87, infinite above 88.
INLINED Lanes<float> exponential(Lanes<float> x) {
    typedef int32_t Words __attribute__((vector_size(32)));
    const Lanes<float> zero{};
    const Lanes<float> bounded = x < -87.0f ? zero - 87.0f : x > 88.0f ? zero + 88.0f : x;
    // the last bits of floats of this size are a whole number
    const Lanes<float> shifted = bounded * 1.44269504f + 12582912.0f, whole = shifted - 12582912.0f;
    const Lanes<float> rest = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Lanes<float> polynomial = zero + 1.0f / 5040, power;
    for (const float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
        polynomial = polynomial * rest + term;
    }
    Words words;
    std::memcpy(&words, &shifted, sizeof words);
    words = (words << 23) + (127 << 23);
    std::memcpy(&power, &words, sizeof power);
    const Lanes<float> result = x < -87.0f ? zero : polynomial * power;
    return x > 88.0f ? x * std::numeric_limits<float>::infinity() : result;
}

INLINED Lanes<double> exponential(Lanes<double> x) {
    for (int i = 0; i < 4; ++i) x[i] = std::exp(x[i]);
    return x;
}

// A row of a query's window. Queries and keys are numbered through the batch.
struct Run {
    int64_t key, query;
    int32_t size, modality, down, right;  // of the first cell, from the middle of the window
};

// The bias b on a key: exp(b) - 1 = factor exp(shift), and share = exp(b - shift), without powers
// that overflow. Of a lost query the factor is not used, and shift = b.
template <typename Number>
struct KeyBias {
    Number gain, shift, factor, share;
};

// The work on some queries of one sample. A known number of channels lets the compiler unroll loops
// and keep rows in registers; 0 stands for any.
template <typename Number, int known_channels>
struct Part {
    static constexpr int64_t width = 32 / sizeof(Number);
    static constexpr int64_t most = (known_channels ? known_channels : max_channels) / width;

    const Problem<Number> &problem;
    const int64_t first, last;                     // queries
    const bool is_backward;
    std::vector<KeyBias<Number>> biases = {};      // of gain 1, (queries, 2)
    std::vector<KeyBias<Number>> key_biases = {};  // of a run, (keys,)
    std::vector<Number> terms = {};                // of a run, (keys, heads)
    std::vector<Number> masses = {};               // (queries, heads)

    INLINED int64_t channels() const { return known_channels ? known_channels : problem.channels; }

    // Calls the function with each run's key, counted in the sample, query and other numbers.
    template <typename Function>
    INLINED void each_run(Function function) const {
        const int32_t *cell = problem.cells + 2 * first * (problem.views + (problem.bev[0] > 0));
        for (int64_t query = first; query < last; ++query) {
            int64_t start = 0;
            for (int64_t map = problem.bev[0] ? 0 : 1; map <= problem.views; ++map, cell += 2) {
                const int64_t modality = map > 0, *shape = modality ? problem.view : problem.bev;
                const int64_t radius = problem.radius[modality], row = cell[0], column = cell[1];
                const int64_t left = std::max<int64_t>(column - radius, 0);
                const int64_t size = std::min(column + radius + 1, shape[1]) - left;
                const int64_t bottom = std::min(row + radius + 1, shape[0]);
                for (int64_t r = std::max<int64_t>(row - radius, 0); r < bottom && size > 0; ++r) {
                    const int64_t key = start + r * shape[1] + left;
                    function(key, query, size, modality, r - row, left - column);
                }
                start += shape[0] * shape[1];
            }
        }
    }

    // In the order of their first keys.
    INLINED std::vector<Run> sort_runs() const {
        std::vector<int64_t> places(problem.keys + 1);
        each_run([&](int64_t key, auto...) { ++places[key + 1]; });
        std::partial_sum(places.begin(), places.end(), places.begin());
        std::vector<Run> runs(places.back());
        const int64_t start = first / problem.queries * problem.keys;
        each_run([&](int64_t key, int64_t query, auto... numbers) {
            runs[places[key]++] = {start + key, query, static_cast<int32_t>(numbers)...};
        });
        return runs;
    }

    INLINED KeyBias<Number> bias_of(int64_t query, int64_t modality, Number gain) const {
        if (!problem.strength) return {0, 0, 1, 0};
        const Number b = problem.strength[2 * query + modality] * gain;
        const Number shift = is_backward && problem.lost[query] ? b : std::max(b, Number(0));
        return {gain, shift, b > 0 ? -std::expm1(-b) : std::expm1(b), std::exp(b - shift)};
    }

    INLINED void find_biases() {
        for (int64_t i = 2 * first; i < 2 * last; ++i) biases.push_back(bias_of(i / 2, i % 2, 1));
    }

    // Biases on a run's keys; as terms their logits in some heads, with the shift.
    INLINED void find_logits(const Run &run, int64_t first_head, int64_t last_head) {
        const int64_t heads = problem.heads, channels = this->channels();
        const double sigma = problem.sigma[run.modality];
        const size_t size = run.size * (last_head - first_head) + width;  // vectors reach beyond
        if (terms.size() < size) terms.resize(size);
        key_biases.resize(run.size);
        Number *term = terms.data();
        for (int64_t e = 0; e < run.size; ++e) {
            KeyBias<Number> bias = biases[2 * (run.query - first) + run.modality];
            if (sigma > 0) {
                const double down = run.down, right = run.right + e;
                const double gain = std::exp((down * down + right * right) / (-2 * sigma * sigma));
                bias = bias_of(run.query, run.modality, static_cast<Number>(gain));
            }
            key_biases[e] = bias;
            for (int64_t h = first_head; h < last_head; ++h) {
                const Number *query = problem.query + (run.query * heads + h) * channels;
                const Number *key = problem.key + ((run.key + e) * heads + h) * channels;
                Lanes<Number> products{};
                for (int64_t c = 0; c < channels; c += width) {
                    products += load(query + c) * load(key + c);
                }
                *term++ = static_cast<Number>(problem.scale) * sum(products) + bias.shift;
            }
        }
    }

    // Terms become the exponentials of themselves less an offset of each head.
    INLINED void exponentiate(int64_t keys, int64_t heads, const Number *offset) {
        Number *term = terms.data();
        for (int64_t e = 0; e < keys; ++e) {
            for (int64_t h = 0; h < heads; ++h) term[e * heads + h] -= offset[h];
        }
        for (; term < terms.data() + keys * heads; term += width) {
            store(term, exponential(load(term)));
        }
    }

    // An online softmax; with a bias the largest logit does not matter.
    INLINED void attend_run(const Run &run) {
        const int64_t heads = problem.heads, channels = this->channels(), blocks = channels / width;
        Number *output = problem.output + run.query * heads * channels;
        Number *top = problem.logsumexp + run.query * heads;
        Number *mass = masses.data() + (run.query - first) * heads;
        find_logits(run, 0, heads);
        for (int64_t h = 0; !problem.strength && h < heads; ++h) {
            Number largest = std::max(top[h], std::numeric_limits<Number>::lowest());
            for (int64_t e = 0; e < run.size; ++e) {
                largest = std::max(largest, terms[e * heads + h]);
            }
            if (largest > top[h]) {
                const Number shrink = std::exp(top[h] - largest);
                for (int64_t c = h * channels; c < (h + 1) * channels; ++c) output[c] *= shrink;
                mass[h] *= shrink;
                top[h] = largest;
            }
        }
        exponentiate(run.size, heads, top);
        const Number *value = problem.value + run.key * heads * channels;
        for (int64_t h = 0; h < heads; ++h, output += channels, value += channels) {
            Lanes<Number> sums[most];
            for (int64_t j = 0; j < blocks; ++j) sums[j] = load(output + j * width);
            Number of_run = 0;
            for (int64_t e = 0; e < run.size; ++e) {
                const Number weight = key_biases[e].factor * terms[e * heads + h];
                const Number *of_key = value + e * heads * channels;
                of_run += weight;
                for (int64_t j = 0; j < blocks; ++j) sums[j] += weight * load(of_key + j * width);
            }
            mass[h] += of_run;
            for (int64_t j = 0; j < blocks; ++j) store(output + j * width, sums[j]);
        }
    }

    INLINED void attend() {
        const int64_t heads = problem.heads;
        masses.assign((last - first) * heads, problem.strength ? 1 : 0);
        find_biases();
        for (const Run &run : sort_runs()) attend_run(run);
        for (int64_t row = first * heads; row < last * heads; ++row) {
            const Number mass = masses[row - first * heads];
            Number *output = problem.output + row * channels(), &logsumexp = problem.logsumexp[row];
            const bool has_keys = logsumexp >= std::numeric_limits<Number>::lowest();
            if (!problem.strength && !has_keys) continue;
            for (int64_t c = 0; c < channels(); ++c) output[c] /= mass;
            logsumexp += std::log(mass);
            // not the contrary: NaN counts as lost; so do strengths whose exponential is infinite
            const bool kept = mass >= smallest_share && std::isfinite(logsumexp);
            if (problem.strength && !kept) problem.lost[row / heads] = true;
        }
    }

    // Adds what a run contributes to the gradients in some heads. With a bias: what gradients lack
    // that were computed without it, given the output and log-sum-exp with it.
    INLINED void backward_run(const Run &run, int64_t first_head, int64_t last_head) {
        const int64_t heads = problem.heads, channels = this->channels(), blocks = channels / width;
        const int64_t count = last_head - first_head;
        find_logits(run, first_head, last_head);
        exponentiate(run.size, count, problem.logsumexp + run.query * heads + first_head);
        for (int64_t h = first_head; h < last_head; ++h) {
            const int64_t row = run.query * heads + h;
            Lanes<Number> query[most], grad_query[most], grad_output[most];
            for (int64_t j = 0; j < blocks; ++j) {
                const int64_t at = row * channels + j * width;
                query[j] = load(problem.query + at);
                grad_query[j] = load(problem.grad_query + at);
                grad_output[j] = load(problem.grad_output + at);
            }
            Number of_strength = 0;
            for (int64_t e = 0; e < run.size; ++e) {
                const KeyBias<Number> &bias = key_biases[e];
                const Number term = terms[e * count + h - first_head];
                const int64_t of_key = ((run.key + e) * heads + h) * channels;
                const Number *key = problem.key + of_key, *value = problem.value + of_key;
                Number *grad_key = problem.grad_key + of_key;
                Number *grad_value = problem.grad_value + of_key;
                Lanes<Number> products{};
                for (int64_t j = 0; j < blocks; ++j) {
                    products += grad_output[j] * load(value + j * width);
                }
                const Number of_logit = term * (sum(products) - problem.delta[row]);
                of_strength += of_logit * bias.share * bias.gain;
                if (problem.lost[run.query]) continue;
                const Number weight = bias.factor * term;
                const Number of_score = static_cast<Number>(problem.scale) * bias.factor * of_logit;
                for (int64_t j = 0; j < blocks; ++j) {
                    const int64_t c = j * width;
                    store(grad_value + c, load(grad_value + c) + weight * grad_output[j]);
                    store(grad_key + c, load(grad_key + c) + of_score * query[j]);
                    grad_query[j] += of_score * load(key + c);
                }
            }
            for (int64_t j = 0; j < blocks; ++j) {
                store(problem.grad_query + row * channels + j * width, grad_query[j]);
            }
            const int64_t queries = problem.batch * problem.queries;
            problem.grad_strength[2 * (h * queries + run.query) + run.modality] += of_strength;
        }
    }

    INLINED void backward(int64_t first_head, int64_t last_head) {
        find_biases();
        for (const Run &run : sort_runs()) backward_run(run, first_head, last_head);
    }
};

// One of so many parts of a sample's work.
struct Share {
    int64_t sample, part, parts;

    int64_t first(int64_t size) const { return part * size / parts; }
    int64_t last(int64_t size) const { return (part + 1) * size / parts; }
};

// Some of the queries.
template <typename Number, int channels>
INLINED void attend_share(const Problem<Number> &problem, Share share) {
    const int64_t size = problem.queries, start = share.sample * size;
    const int64_t first = start + share.first(size), last = start + share.last(size);
    Part<Number, channels>{problem, first, last, false}.attend();
}

// Some of the heads, so that each thread has gradients to itself.
template <typename Number, int channels>
INLINED void backward_share(const Problem<Number> &problem, Share share) {
    const int64_t start = share.sample * problem.queries, last = start + problem.queries;
    const int64_t first_head = share.first(problem.heads), last_head = share.last(problem.heads);
    Part<Number, channels>{problem, start, last, true}.backward(first_head, last_head);
}

template <typename Number, void (*work)(const Problem<Number> &, Share)>
WIDE void work_wide(const Problem<Number> &problem, Share share) {
    work(problem, share);
}

// No sample is divided more than the threads need.
template <typename Number, void (*work)(const Problem<Number> &, Share)>
void share_out(const Problem<Number> &problem, int64_t most) {
    const int64_t needed = problem.threads / std::gcd(problem.batch, problem.threads);
    const int64_t parts = std::min(most, needed);
    const auto function = is_wide ? work_wide<Number, work> : work;
#pragma omp parallel for num_threads(problem.threads) schedule(dynamic)
    for (int64_t i = 0; i < problem.batch * parts; ++i) {
        function(problem, {i / parts, i % parts, parts});
    }
}

template <typename Number, int channels>
void attend(const Problem<Number> &problem) {
    share_out<Number, attend_share<Number, channels>>(problem, problem.queries);
}

template <typename Number, int channels>
void backward(const Problem<Number> &problem) {
    share_out<Number, backward_share<Number, channels>>(problem, problem.heads);
}

}  // namespace

#define EXPORT(function, type, Number)                                       \
    extern "C" void function##_##type(const Problem<Number> *problem) {      \
        switch (problem->channels) {                                         \
            case 16: return function<Number, 16>(*problem);                  \
            case 32: return function<Number, 32>(*problem);                  \
            case 64: return function<Number, 64>(*problem);                  \
            default: return function<Number, 0>(*problem);                   \
        }                                                                    \
    }

EXPORT(attend, float32, float)
EXPORT(attend, float64, double)
EXPORT(backward, float32, float)
EXPORT(backward, float64, double)
