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
#include <utility>
#include <vector>

// One compilation for processors with and without wide vectors; the loader chooses.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_PROCESSORS __attribute__((target_clones("arch=haswell", "default")))
#else
#define FOR_PROCESSORS
#endif
// A function that is called keeps its own instructions; one that is inlined has the caller's.
#if defined(__GNUC__)
#define INLINED inline __attribute__((always_inline))
#else
#define INLINED inline
#endif

// (B, H, N, D) with neighbouring channels; strides in numbers.
struct Tokens {
    void *data;
    int64_t batch_stride, head_stride, token_stride;
};

// Of this file, for cpu.py.
#ifdef SOURCE_DIGEST
extern "C" const char *const source_digest = SOURCE_DIGEST;
#endif

// As cpu.py packs it. Maps, radii and sigmas: LiDAR, then cameras.
struct Problem {
    int64_t batch, heads, queries, keys, channels, threads;
    int64_t parts;  // of the keys in the backward pass, each for one thread
    int64_t maps[2], rows[2], columns[2];
    int64_t radius[2];     // -1: no windows in this modality
    const int32_t *cells;  // (B, Q, S, 2)
    const void *strength;  // (B, Q, 2); null: attention to the keys in windows alone
    Tokens key, value;
    double sigma[2];  // 0: gain 1 in the whole window
    double scale;
};

namespace {

// e^80 is finite in float32
constexpr int largest_exponent = 80;

// e^x by the powers of two and a polynomial on [-ln 2 / 2, ln 2 / 2]: without branches, for loops that
// the compiler turns into vector instructions. Relative error about 1e-7; 0 below -87.
INLINED float exponential(float x) {
    const float bounded = std::min(std::max(x, -87.0f), 88.0f);
    const float whole = std::nearbyintf(bounded * 1.44269504f);
    const float rest = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float sum = 1.0f / 5040;
    sum = sum * rest + 1.0f / 720;
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    const int32_t word = (static_cast<int32_t>(whole) + 127) << 23;
    float power;
    std::memcpy(&power, &word, sizeof power);
    const float result = x < -87.0f ? 0.0f : sum * power;
    return x <= 88.0f ? result : x * std::numeric_limits<float>::infinity();
}

INLINED double exponential(double x) { return std::exp(x); }

template <typename Number>
INLINED Number dot(const Number *left, const Number *right, int64_t channels) {
    Number sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < channels; ++c) sum += static_cast<Number>(left[c]) * right[c];
    return sum;
}

// target += factor * row
template <typename Row, typename Number>
INLINED void add(Number *target, Number factor, const Row *row, int64_t channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) target[c] += factor * static_cast<Number>(row[c]);
}

template <typename Number>
inline Number *token(const Tokens &tokens, int64_t batch, int64_t number) {
    return static_cast<Number *>(tokens.data) + batch * tokens.batch_stride +
           number * tokens.token_stride;
}

// A row of a query's window: neighbouring keys.
struct Run {
    int64_t batch, query, first_key, size;
    int64_t modality, down, right;  // of the first cell, from the middle of the window
};

template <typename Visit>
void visit_runs(const Problem &problem, int64_t batch, int64_t query, Visit visit) {
    const int64_t segments = problem.maps[0] + problem.maps[1];
    const int32_t *cell = problem.cells + (batch * problem.queries + query) * segments * 2;
    int64_t start = 0;
    for (int64_t modality = 0; modality < 2; ++modality) {
        const int64_t rows = problem.rows[modality], columns = problem.columns[modality];
        const int64_t radius = problem.radius[modality];
        for (int64_t map = 0; map < problem.maps[modality]; ++map, cell += 2, start += rows * columns) {
            const int64_t row = cell[0], column = cell[1];
            const int64_t left = std::max<int64_t>(column - radius, 0);
            const int64_t size = std::min(column + radius + 1, columns) - left;
            if (radius < 0 || size <= 0) continue;
            const int64_t bottom = std::min(row + radius + 1, rows);
            for (int64_t r = std::max<int64_t>(row - radius, 0); r < bottom; ++r) {
                visit(Run{batch, query, start + r * columns + left, size, modality, r - row, left - column});
            }
        }
    }
}

template <typename Number>
INLINED void exponentiate(Number *values, int64_t size) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) values[i] = exponential(values[i]);
}

// The biases of a run's keys, and the profile of the window there.
template <typename Number>
struct RunBias {
    std::vector<Number> gain, bias;

    void find(const Problem &problem, const Run &run) {
        const double sigma = problem.sigma[run.modality];
        gain.assign(run.size, Number(1));
        if (sigma > 0) {
            const double factor = -1 / (2 * sigma * sigma);
            for (int64_t e = 0; e < run.size; ++e) {
                const double down = run.down, right = run.right + e;
                gain[e] = static_cast<Number>(std::exp(factor * (down * down + right * right)));
            }
        }
        bias.assign(run.size, Number(0));
        if (!problem.strength) return;
        const int64_t row = run.batch * problem.queries + run.query;
        const Number strength = static_cast<const Number *>(problem.strength)[2 * row + run.modality];
        for (int64_t e = 0; e < run.size; ++e) bias[e] = strength * gain[e];
    }

    // f of each bias, into values; once where all are the same
    template <typename Function>
    void apply(std::vector<Number> &values, Function f) const {
        values.resize(bias.size());
        for (size_t e = 0; e < bias.size(); ++e) {
            values[e] = e && bias[e] == bias[e - 1] ? values[e - 1] : f(bias[e]);
        }
    }
};

template <typename Number>
struct Scratch {
    std::vector<Run> runs;
    RunBias<Number> bias;
    std::vector<Number> terms, slopes, factors, shares, mass, sums;
};

// With a bias: corrects the output and log-sum-exp of attention without it. Without: the output and
// log-sum-exp of attention to the keys in the windows alone, zeros for a query that has none.
// fixed_channels: the compiler unrolls loops of a known length; 0 for any other.
template <typename Number, int fixed_channels>
FOR_PROCESSORS void attend_query(const Problem &problem, Scratch<Number> &scratch, const Number *query,
                                 Number *output, Number *logsumexp) {
    const int64_t heads = problem.heads;
    const int64_t channels = fixed_channels ? fixed_channels : problem.channels;
    const Number scale = static_cast<Number>(problem.scale);
    int64_t size = 0;
    for (const Run &run : scratch.runs) size += run.size;
    scratch.terms.resize(size * heads);
    scratch.mass.assign(heads, Number(0));
    scratch.sums.assign(heads * channels, Number(0));
    Number *terms = scratch.terms.data(), *mass = scratch.mass.data(), *sums = scratch.sums.data();
    Number *term = terms;
    for (const Run &run : scratch.runs) {
        const Number *key = token<Number>(problem.key, run.batch, run.first_key);
        for (int64_t e = 0; e < run.size; ++e, key += problem.key.token_stride) {
            for (int64_t h = 0; h < heads; ++h) {
                const Number *of_head = key + h * problem.key.head_stride;
                *term++ = scale * dot(of_head, query + h * channels, channels);
            }
        }
    }
    if (!problem.strength) {
        std::fill(logsumexp, logsumexp + heads, Number(0));
        std::copy(terms, terms + (size ? heads : 0), logsumexp);
        for (int64_t i = heads; i < size * heads; ++i) {
            logsumexp[i % heads] = std::max(logsumexp[i % heads], terms[i]);
        }
    }
    for (int64_t e = 0; e < size; ++e) {
        for (int64_t h = 0; h < heads; ++h) terms[e * heads + h] -= logsumexp[h];
    }
    exponentiate(terms, size * heads);
    term = terms;
    for (const Run &run : scratch.runs) {
        scratch.bias.find(problem, run);
        scratch.bias.apply(scratch.factors, [](Number bias) { return std::expm1(bias); });
        const Number *value = token<Number>(problem.value, run.batch, run.first_key);
        for (int64_t e = 0; e < run.size; ++e, value += problem.value.token_stride) {
            const Number factor = problem.strength ? scratch.factors[e] : Number(1);
            for (int64_t h = 0; h < heads; ++h) {
                const Number weight = factor * *term++;
                mass[h] += weight;
                add(sums + h * channels, weight, value + h * problem.value.head_stride, channels);
            }
        }
    }
    for (int64_t h = 0; h < heads; ++h) {
        Number *target = output + h * channels, *sum = sums + h * channels;
        const Number rest = problem.strength ? Number(1) : Number(0);
        const Number total = rest + mass[h];
        if (size) {
            for (int64_t c = 0; c < channels; ++c) target[c] = (rest * target[c] + sum[c]) / total;
        }
        if (size) logsumexp[h] += problem.strength ? std::log1p(mass[h]) : std::log(total);
    }
}

// Queries whose last windows are neighbours one after the other, for the caches.
std::vector<int64_t> order_by_place(const Problem &problem) {
    std::vector<std::pair<int64_t, int64_t>> places;
    for (int64_t row = 0; row < problem.batch * problem.queries; ++row) {
        const int64_t batch = row / problem.queries;
        places.emplace_back(batch * problem.keys, row);
        visit_runs(problem, batch, row % problem.queries, [&](const Run &run) {
            places.back().first = batch * problem.keys + run.first_key;
        });
    }
    std::sort(places.begin(), places.end());
    std::vector<int64_t> order;
    for (const auto &place : places) order.push_back(place.second);
    return order;
}

template <typename Number, int fixed_channels>
void attend(const Problem &problem, const Number *query, Number *output, Number *logsumexp) {
    const int64_t row_size = problem.heads * problem.channels;
    const std::vector<int64_t> order = order_by_place(problem);
#pragma omp parallel num_threads(problem.threads)
    {
        Scratch<Number> scratch;
#pragma omp for schedule(dynamic, 8)
        for (int64_t i = 0; i < problem.batch * problem.queries; ++i) {
            const int64_t row = order[i];
            scratch.runs.clear();
            visit_runs(problem, row / problem.queries, row % problem.queries,
                       [&](const Run &run) { scratch.runs.push_back(run); });
            attend_query<Number, fixed_channels>(problem, scratch, query + row * row_size,
                                                     output + row * row_size,
                                                     logsumexp + row * problem.heads);
        }
    }
}

// Adds what a run contributes to the gradients. With a bias: what the gradients of attention lack
// that were computed without it, given the output and log-sum-exp with it.
//
// With t = exp(score + max(b, 0) - logsumexp) a key's probability is t exp(min(b, 0)), and the part
// of it that is due to the bias t * (1 - exp(-b)) for b > 0, t * (exp(b) - 1) for b < 0: no power
// overflows.
template <typename Number, int fixed_channels>
FOR_PROCESSORS void backward_run(const Problem &problem, Scratch<Number> &scratch, const Run &run,
                                 bool only_strength, const Number *query, const Number *grad_output,
                                 const Number *logsumexp, const Number *delta, Number *grad_query,
                                 Number *grad_key, Number *grad_value, Number *grad_strength) {
    const int64_t heads = problem.heads;
    const int64_t channels = fixed_channels ? fixed_channels : problem.channels;
    const Number scale = static_cast<Number>(problem.scale);
    scratch.bias.find(problem, run);
    scratch.bias.apply(scratch.shares, [](Number bias) { return std::exp(std::min(bias, Number(0))); });
    scratch.bias.apply(scratch.factors, [](Number bias) {
        return bias > 0 ? -std::expm1(-bias) : std::expm1(bias);
    });
    scratch.terms.resize(run.size * heads);
    scratch.slopes.resize(run.size * heads);
    Number *terms = scratch.terms.data(), *slopes = scratch.slopes.data();
    const Number *keys = token<Number>(problem.key, run.batch, run.first_key);
    const Number *values = token<Number>(problem.value, run.batch, run.first_key);
    for (int64_t e = 0; e < run.size; ++e) {
        const Number shift = std::max(scratch.bias.bias[e], Number(0));
        const Number *key = keys + e * problem.key.token_stride;
        const Number *value = values + e * problem.value.token_stride;
        for (int64_t h = 0; h < heads; ++h) {
            const int64_t c = h * channels;
            const Number score = scale * dot(key + h * problem.key.head_stride, query + c, channels);
            const Number along = dot(value + h * problem.value.head_stride, grad_output + c, channels);
            terms[e * heads + h] = std::min(score + shift - logsumexp[h], Number(largest_exponent));
            slopes[e * heads + h] = along - delta[h];
        }
    }
    exponentiate(terms, run.size * heads);
    for (int64_t e = 0; e < run.size; ++e) {
        const Number *key = keys + e * problem.key.token_stride;
        const Number factor = problem.strength ? scratch.factors[e] : Number(1);
        Number along_bias = 0;
        for (int64_t h = 0; h < heads; ++h) {
            const Number term = terms[e * heads + h], slope = term * slopes[e * heads + h];
            along_bias += slope;
            if (only_strength) continue;
            const int64_t c = h * channels;
            const Number of_score = scale * factor * slope;
            add(grad_value + e * heads * channels + c, factor * term, grad_output + c, channels);
            add(grad_key + e * heads * channels + c, of_score, query + c, channels);
            add(grad_query + c, of_score, key + h * problem.key.head_stride, channels);
        }
        grad_strength[run.modality] += along_bias * scratch.shares[e] * scratch.bias.gain[e];
    }
}

// only_strength: (B, Q) whether queries add to the strength's gradient alone.
// grad_query (parts, B, Q, H * D), grad_strength (parts, B, Q, 2): each part takes some of the keys.
template <typename Number, int fixed_channels>
void backward(const Problem &problem, const bool *only_strength, const Number *query,
              const Number *grad_output, const Number *logsumexp, const Number *delta,
              Number *grad_query, Number *grad_key, Number *grad_value, Number *grad_strength) {
    const int64_t row_size = problem.heads * problem.channels, rows = problem.batch * problem.queries;
    const int64_t parts = problem.parts;
    std::vector<Run> runs;
    int64_t pairs = 0;
    for (int64_t row = 0; row < rows; ++row) {
        visit_runs(problem, row / problem.queries, row % problem.queries, [&](const Run &run) {
            runs.push_back(run);
            pairs += run.size;
        });
    }
    // keys are numbered through all batch elements; neighbouring runs one after the other, for the caches
    const auto first_of = [&](const Run &run) { return run.batch * problem.keys + run.first_key; };
    std::stable_sort(runs.begin(), runs.end(), [&](const Run &left, const Run &right) {
        return first_of(left) < first_of(right);
    });
    // where the parts begin, of about as many pairs each
    std::vector<int64_t> bounds(parts + 1, problem.batch * problem.keys);
    bounds[0] = 0;
    int64_t seen = 0, part = 1;
    for (const Run &run : runs) {
        for (; part < parts && seen >= part * pairs / parts; ++part) bounds[part] = first_of(run);
        seen += run.size;
    }
#pragma omp parallel for num_threads(problem.threads) schedule(dynamic, 1)
    for (int64_t part = 0; part < parts; ++part) {
        Scratch<Number> scratch;
        for (Run run : runs) {
            // the run's keys that are in this part
            const int64_t first = first_of(run);
            const int64_t cut = std::max<int64_t>(bounds[part] - first, 0);
            run.size = std::min(run.size, bounds[part + 1] - first) - cut;
            if (run.size <= 0) continue;
            run.first_key += cut;
            run.right += cut;
            const int64_t row = run.batch * problem.queries + run.query, copy = part * rows + row;
            const int64_t target = (run.batch * problem.keys + run.first_key) * row_size;
            backward_run<Number, fixed_channels>(
                problem, scratch, run, only_strength[row], query + row * row_size,
                grad_output + row * row_size, logsumexp + row * problem.heads,
                delta + row * problem.heads, grad_query + copy * row_size, grad_key + target,
                grad_value + target, grad_strength + copy * 2);
        }
    }
}

}  // namespace

#define FOR_CHANNELS(function, Number, ...)                          \
    switch (problem->channels) {                                     \
        case 16: function<Number, 16>(*problem, __VA_ARGS__); break; \
        case 32: function<Number, 32>(*problem, __VA_ARGS__); break; \
        case 64: function<Number, 64>(*problem, __VA_ARGS__); break; \
        default: function<Number, 0>(*problem, __VA_ARGS__);         \
    }

#define EXPORT(name, Number)                                                                    \
    extern "C" void attend_##name(const Problem *problem, const Number *query, Number *output,  \
                                  Number *logsumexp) {                                          \
        FOR_CHANNELS(attend, Number, query, output, logsumexp)                                  \
    }                                                                                           \
    extern "C" void backward_##name(const Problem *problem, const bool *only_strength,          \
                                    const Number *query, const Number *grad_output,             \
                                    const Number *logsumexp, const Number *delta,               \
                                    Number *grad_query, Number *grad_key, Number *grad_value,   \
                                    Number *grad_strength) {                                    \
        FOR_CHANNELS(backward, Number, only_strength, query, grad_output, logsumexp, delta,     \
                     grad_query, grad_key, grad_value, grad_strength)                           \
    }

EXPORT(float32, float)
EXPORT(float64, double)
