// The keys in the windows of each query, walked on a CPU: what torch's flash attention lacks.
//
// Called by cpu.py, which describes the algebra. A window's row is a run of consecutive keys. Every
// number is summed up by one thread in a fixed order. Nothing outside the tensors is read, whatever
// the cells are.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

// One compilation for processors with and without wide vectors; the loader chooses by what they can
// do ("arch=haswell" would be chosen on a Haswell alone). A function that is called keeps its own
// instructions; one that is inlined has the caller's.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_PROCESSORS __attribute__((target_clones("avx2", "default")))
#else
#define FOR_PROCESSORS
#endif
#if defined(__GNUC__)
#define INLINED inline __attribute__((always_inline))
#else
#define INLINED inline
#endif

// As cpu.py packs it.
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
    Number *logsumexp, *output;  // (B, Q, H), (B, Q, H, D)
    // of the backward pass: what is known, and what is added to
    const bool *lost;  // (B, Q): queries that add to the strength's gradient alone
    const Number *grad_output, *delta;
    Number *grad_query, *grad_key, *grad_value;
    Number *grad_strength;  // (B, Q, 2, H)
};

namespace {

// e^x by the powers of two and a polynomial on [-ln 2 / 2, ln 2 / 2]: without branches, for loops that
// the compiler turns into vector instructions. Relative error about 1e-7; 0 below -87.
INLINED float exponential(float x) {
    const float bounded = std::min(std::max(x, -87.0f), 88.0f);
    const float whole = std::nearbyintf(bounded * 1.44269504f);
    const float rest = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float sum = 1.0f / 5040;
    for (const float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
        sum = sum * rest + term;
    }
    const int32_t word = (static_cast<int32_t>(whole) + 127) << 23;
    float power;
    std::memcpy(&power, &word, sizeof power);
    const float result = x < -87.0f ? 0.0f : sum * power;
    return x <= 88.0f ? result : x * std::numeric_limits<float>::infinity();
}

INLINED double exponential(double x) { return std::exp(x); }

template <typename Number>
INLINED void exponentiate(std::vector<Number> &numbers) {
    Number *values = numbers.data();
    const size_t size = numbers.size();
#pragma omp simd
    for (size_t i = 0; i < size; ++i) values[i] = exponential(values[i]);
}

template <typename Number>
INLINED Number dot(const Number *left, const Number *right, int64_t channels) {
    Number sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < channels; ++c) sum += left[c] * right[c];
    return sum;
}

// target += factor * row
template <typename Number>
INLINED void add(Number *target, Number factor, const Number *row, int64_t channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) target[c] += factor * row[c];
}

// A row of a query's window: neighbouring keys. Queries and keys are numbered through the batch.
struct Run {
    int64_t query, key, size;
    int64_t modality, down, right;  // of the first cell, from the middle of the window
};

// The runs of each query that has any; neighbouring queries one after the other, for the caches.
template <typename Number>
std::vector<std::vector<Run>> find_runs(const Problem<Number> &problem) {
    std::vector<std::vector<Run>> found;
    const int32_t *cell = problem.cells;
    for (int64_t query = 0; query < problem.batch * problem.queries; ++query) {
        std::vector<Run> runs;
        int64_t start = query / problem.queries * problem.keys;
        for (int64_t map = problem.bev[0] ? 0 : 1; map <= problem.views; ++map, cell += 2) {
            const int64_t modality = map > 0, *shape = modality ? problem.view : problem.bev;
            const int64_t radius = problem.radius[modality], row = cell[0], column = cell[1];
            const int64_t left = std::max<int64_t>(column - radius, 0);
            const int64_t size = std::min(column + radius + 1, shape[1]) - left;
            const int64_t bottom = std::min(row + radius + 1, shape[0]);
            for (int64_t r = std::max<int64_t>(row - radius, 0); r < bottom && size > 0; ++r) {
                runs.push_back({query, start + r * shape[1] + left, size, modality, r - row, left - column});
            }
            start += shape[0] * shape[1];
        }
        if (!runs.empty()) found.push_back(std::move(runs));
    }
    const auto last_key = [](const std::vector<Run> &runs) { return runs.back().key; };
    std::stable_sort(found.begin(), found.end(),
                     [&](const auto &left, const auto &right) { return last_key(left) < last_key(right); });
    return found;
}

// The bias b on a key: exp(b) - 1 = factor exp(shift), and share = exp(b - shift), without powers
// that overflow. Of a lost query the factor is not used, and shift = b.
template <typename Number>
struct KeyBias {
    Number gain, shift, factor, share;
};

template <typename Number>
struct Scratch {
    std::vector<KeyBias<Number>> biases;
    std::vector<Number> logits, mass, sums;
};

// Some of the heads: in the backward pass those of a thread.
struct Heads {
    int64_t first, last;
};

// Appends the biases of a run's keys, and their logits with the shift, (keys, heads).
template <typename Number, int fixed_channels>
INLINED void find_logits(const Problem<Number> &problem, const Run &run, Heads part, Scratch<Number> &scratch) {
    const int64_t heads = problem.heads, channels = fixed_channels ? fixed_channels : problem.channels;
    const Number *query = problem.query + run.query * heads * channels;
    const Number *key = problem.key + run.key * heads * channels, *strength = problem.strength;
    const double sigma = problem.sigma[run.modality];
    const bool lost = problem.lost && problem.lost[run.query];
    KeyBias<Number> bias{0, 0, 1, 0};
    size_t end = scratch.logits.size();
    scratch.logits.resize(end + run.size * (part.last - part.first));
    for (int64_t e = 0; e < run.size; ++e) {
        if (strength && (e == 0 || sigma > 0)) {
            const double down = run.down, right = run.right + e;
            const double exponent = sigma > 0 ? (down * down + right * right) / (-2 * sigma * sigma) : 0;
            bias.gain = static_cast<Number>(std::exp(exponent));
            const Number b = strength[2 * run.query + run.modality] * bias.gain;
            bias.shift = lost ? b : std::max(b, Number(0));
            bias.factor = b > 0 ? -std::expm1(-b) : std::expm1(b);
            bias.share = std::exp(b - bias.shift);
        }
        scratch.biases.push_back(bias);
        for (int64_t h = part.first; h < part.last; ++h) {
            const int64_t of_key = (e * heads + h) * channels;
            const Number product = dot(key + of_key, query + h * channels, channels);
            scratch.logits[end++] = static_cast<Number>(problem.scale) * product + bias.shift;
        }
    }
}

// With a bias: corrects the output and log-sum-exp of attention without it. Without: the output and
// log-sum-exp of attention to the keys in the windows alone.
// fixed_channels: the compiler unrolls loops of a known length; 0 for any other.
template <typename Number, int fixed_channels>
FOR_PROCESSORS void attend_query(const Problem<Number> &problem, const std::vector<Run> &runs,
                                 Scratch<Number> &scratch) {
    const int64_t heads = problem.heads, channels = fixed_channels ? fixed_channels : problem.channels;
    Number *output = problem.output + runs[0].query * heads * channels;
    Number *logsumexp = problem.logsumexp + runs[0].query * heads;
    scratch.biases.clear();
    scratch.logits.clear();
    for (const Run &run : runs) find_logits<Number, fixed_channels>(problem, run, {0, heads}, scratch);
    const int64_t size = scratch.biases.size();
    Number *terms = scratch.logits.data();
    if (!problem.strength) {
        std::copy(terms, terms + heads, logsumexp);
        for (int64_t i = heads; i < size * heads; ++i) {
            logsumexp[i % heads] = std::max(logsumexp[i % heads], terms[i]);
        }
    }
    for (int64_t e = 0; e < size; ++e) {
        for (int64_t h = 0; h < heads; ++h) terms[e * heads + h] -= logsumexp[h];
    }
    exponentiate(scratch.logits);
    scratch.mass.assign(heads, Number(0));
    scratch.sums.assign(heads * channels, Number(0));
    Number *mass = scratch.mass.data(), *sums = scratch.sums.data();
    const KeyBias<Number> *bias = scratch.biases.data();
    for (const Run &run : runs) {
        const Number *value = problem.value + run.key * heads * channels;
        for (int64_t e = 0; e < run.size; ++e, ++bias) {
            for (int64_t h = 0; h < heads; ++h, value += channels) {
                const Number weight = bias->factor * *terms++;
                mass[h] += weight;
                add(sums + h * channels, weight, value, channels);
            }
        }
    }
    const Number rest = problem.strength ? 1 : 0;
    for (int64_t h = 0; h < heads; ++h) {
        for (int64_t c = h * channels; c < (h + 1) * channels; ++c) {
            output[c] = (rest * output[c] + sums[c]) / (rest + mass[h]);
        }
        logsumexp[h] += problem.strength ? std::log1p(mass[h]) : std::log(mass[h]);
    }
}

template <typename Number, int fixed_channels>
void attend(const Problem<Number> &problem) {
    const std::vector<std::vector<Run>> found = find_runs(problem);
#pragma omp parallel num_threads(problem.threads)
    {
        Scratch<Number> scratch;
#pragma omp for schedule(dynamic, 8)
        for (size_t i = 0; i < found.size(); ++i) {
            attend_query<Number, fixed_channels>(problem, found[i], scratch);
        }
    }
}

// Adds what a run contributes to the gradients in some heads. With a bias: what the gradients of
// attention lack that were computed without it, given the output and log-sum-exp with it.
template <typename Number, int fixed_channels>
FOR_PROCESSORS void backward_run(const Problem<Number> &problem, const Run &run, Heads part,
                                 Scratch<Number> &scratch) {
    const int64_t heads = problem.heads, channels = fixed_channels ? fixed_channels : problem.channels;
    const int64_t queries = run.query * heads * channels, keys = run.key * heads * channels;
    const Number *query = problem.query + queries, *key = problem.key + keys;
    const Number *value = problem.value + keys, *grad_output = problem.grad_output + queries;
    const Number *logsumexp = problem.logsumexp + run.query * heads;
    const Number *delta = problem.delta + run.query * heads;
    Number *grad_query = problem.grad_query + queries;
    Number *grad_key = problem.grad_key + keys, *grad_value = problem.grad_value + keys;
    Number *grad_strength = problem.grad_strength + (2 * run.query + run.modality) * heads;
    scratch.biases.clear();
    scratch.logits.clear();
    find_logits<Number, fixed_channels>(problem, run, part, scratch);
    Number *term = scratch.logits.data();
    for (int64_t e = 0; e < run.size; ++e) {
        for (int64_t h = part.first; h < part.last; ++h) *term++ -= logsumexp[h];
    }
    exponentiate(scratch.logits);
    for (int64_t h = part.first; h < part.last; ++h) {
        const int64_t of_query = h * channels;
        term = scratch.logits.data() + h - part.first;
        for (int64_t e = 0; e < run.size; ++e, term += part.last - part.first) {
            const KeyBias<Number> &bias = scratch.biases[e];
            const int64_t of_key = (e * heads + h) * channels;
            const Number of_logit = *term * (dot(value + of_key, grad_output + of_query, channels) - delta[h]);
            grad_strength[h] += of_logit * bias.share * bias.gain;
            if (problem.lost[run.query]) continue;
            const Number of_score = static_cast<Number>(problem.scale) * bias.factor * of_logit;
            add(grad_value + of_key, bias.factor * *term, grad_output + of_query, channels);
            add(grad_key + of_key, of_score, query + of_query, channels);
            add(grad_query + of_query, of_score, key + of_key, channels);
        }
    }
}

// As in torch's own backward pass, each thread has some heads to itself.
template <typename Number, int fixed_channels>
void backward(const Problem<Number> &problem) {
    std::vector<Run> runs;
    for (const auto &some : find_runs(problem)) runs.insert(runs.end(), some.begin(), some.end());
    std::stable_sort(runs.begin(), runs.end(),
                     [](const Run &left, const Run &right) { return left.key < right.key; });
    const int64_t heads = problem.heads, threads = std::min(problem.threads, heads);
#pragma omp parallel for num_threads(threads)
    for (int64_t t = 0; t < threads; ++t) {
        const Heads part{t * heads / threads, (t + 1) * heads / threads};
        Scratch<Number> scratch;
        for (const Run &run : runs) backward_run<Number, fixed_channels>(problem, run, part, scratch);
    }
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
