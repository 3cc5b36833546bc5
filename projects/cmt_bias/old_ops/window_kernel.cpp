// Attention's products on the keys in windows, query by query, for CPUs.
//
// Compiled and loaded by window_kernel.py, called by listed_windows.py. Rows of tokens hold heads *
// channels numbers. Pairs of a query and a key are numbered query by query; a run is a range of pairs
// of one query whose keys are neighbours. Every number is summed up by one thread in a fixed order.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

// Mirrored by window_kernel.py.
struct Problem {
    int64_t num_queries, num_heads, channels, num_threads;
    const int64_t *key_rows;  // of each pair
    const int64_t *offsets;   // first pair of each query, and the number of pairs
    const int64_t *order;     // queries with neighbouring windows one after the other
    int64_t num_runs;
    const int64_t *run_queries, *run_begins, *run_ends;  // by their first key
    int64_t num_parts;
    const int64_t *part_bounds;  // keys between two bounds are one thread's in the backward pass
    const void *query, *key, *value;
    int64_t key_stride, value_stride;
    double scale;
};

namespace {

// e^80 is finite in float32
constexpr int largest_exponent = 80;

struct BFloat16 {
    uint16_t bits;
    operator float() const {
        const uint32_t word = static_cast<uint32_t>(bits) << 16;
        float number;
        std::memcpy(&number, &word, sizeof number);
        return number;
    }
};

struct Half {
    uint16_t bits;
    // Exponent and fraction shifted into their places, the bias of the exponent mended by a product:
    // right for subnormal numbers too; infinity becomes 65536.
    operator float() const {
        const uint32_t word = (bits & 0x8000u) << 16 | (bits & 0x7fffu) << 13;
        float number;
        std::memcpy(&number, &word, sizeof number);
        return number * 0x1p112f;
    }
};

// e^x by the powers of two and a polynomial on [-ln 2 / 2, ln 2 / 2]: without branches, for loops that
// the compiler turns into vector instructions. Relative error about 1e-7; 0 below -87.
inline float exponential(float x) {
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

inline double exponential(double x) { return std::exp(x); }

template <typename Left, typename Sum>
inline Sum dot(const Left *left, const Sum *right, int64_t channels) {
    Sum sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < channels; ++c) sum += static_cast<Sum>(left[c]) * right[c];
    return sum;
}

// target += factor * row
template <typename Row, typename Sum>
inline void add(Sum *target, Sum factor, const Row *row, int64_t channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) target[c] += factor * static_cast<Sum>(row[c]);
}

// The largest of each head's terms (size, heads); 0 where there are none.
template <typename Sum>
inline void find_largest(const Sum *terms, int64_t size, int64_t heads, Sum *largest) {
    std::fill(largest, largest + heads, Sum(0));
    std::copy(terms, terms + std::min(size, int64_t(1)) * heads, largest);
    for (int64_t e = 1; e < size; ++e) {
        for (int64_t h = 0; h < heads; ++h) largest[h] = std::max(largest[h], terms[e * heads + h]);
    }
}

template <typename Sum>
inline void exponentiate(Sum *values, int64_t size) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) values[i] = exponential(values[i]);
}

// Weighted: sums of values, and of the terms themselves, over each query's keys, where the terms are
// weight * exp(score - reference). Else softmax over the keys: the sums become the output, the
// reference the log-sum-exp; both are 0 for a query without keys.
// fixed_channels: the compiler unrolls loops of a known length; 0 for any other.
template <typename Token, typename Sum, int fixed_channels>
void attend(const Problem &problem, bool weighted, const Sum *weights, Sum *reference, Sum *sums,
            Sum *masses) {
    const int64_t heads = problem.num_heads;
    const int64_t channels = fixed_channels ? fixed_channels : problem.channels;
    const auto *queries = static_cast<const Sum *>(problem.query);
    const auto *keys = static_cast<const Token *>(problem.key);
    const auto *values = static_cast<const Token *>(problem.value);
    const Sum scale = static_cast<Sum>(problem.scale);
#pragma omp parallel num_threads(problem.num_threads)
    {
        std::vector<Sum> terms;
#pragma omp for schedule(dynamic, 8)
        for (int64_t i = 0; i < problem.num_queries; ++i) {
            const int64_t row = problem.order[i];
            const int64_t begin = problem.offsets[row], size = problem.offsets[row + 1] - begin;
            const int64_t *key_rows = problem.key_rows + begin;
            const Sum *query = queries + row * heads * channels;
            Sum *shift = reference + row * heads, *mass = masses + row * heads;
            Sum *sum = sums + row * heads * channels;
            terms.resize(size * heads);
            for (int64_t e = 0; e < size; ++e) {
                const Token *key = keys + key_rows[e] * problem.key_stride;
                for (int64_t h = 0; h < heads; ++h) {
                    const int64_t c = h * channels;
                    terms[e * heads + h] = scale * dot(key + c, query + c, channels);
                }
            }
            if (!weighted) find_largest(terms.data(), size, heads, shift);
            for (int64_t e = 0; e < size; ++e) {
                for (int64_t h = 0; h < heads; ++h) terms[e * heads + h] -= shift[h];
            }
            exponentiate(terms.data(), size * heads);
            std::fill(sum, sum + heads * channels, Sum(0));
            std::fill(mass, mass + heads, Sum(0));
            for (int64_t e = 0; e < size; ++e) {
                const Token *value = values + key_rows[e] * problem.value_stride;
                const Sum weight = weighted ? weights[begin + e] : 1;
                for (int64_t h = 0; h < heads; ++h) {
                    const Sum term = weight * terms[e * heads + h];
                    mass[h] += term;
                    add(sum + h * channels, term, value + h * channels, channels);
                }
            }
            for (int64_t h = 0; h < heads && size && !weighted; ++h) {
                shift[h] += std::log(mass[h]);
                for (int64_t c = 0; c < channels; ++c) sum[h * channels + c] /= mass[h];
            }
        }
    }
}

// Adds the gradients of attention whose probabilities are weight * exp(score - reference), and finds
// for each pair the sum over heads of exp(score - reference) * (grad_output . value - delta).
// grad_query has one copy for each part of the keys.
template <typename Token, typename Sum, int fixed_channels>
void backward(const Problem &problem, const Sum *grad_output, const Sum *reference, const Sum *delta,
              const Sum *weights, Sum *grad_query, Sum *grad_key, int64_t grad_key_stride,
              Sum *grad_value, int64_t grad_value_stride, Sum *pairs) {
    const int64_t heads = problem.num_heads;
    const int64_t channels = fixed_channels ? fixed_channels : problem.channels;
    const auto *queries = static_cast<const Sum *>(problem.query);
    const auto *keys = static_cast<const Token *>(problem.key);
    const auto *values = static_cast<const Token *>(problem.value);
    const Sum scale = static_cast<Sum>(problem.scale);
#pragma omp parallel for num_threads(problem.num_threads) schedule(dynamic, 1)
    for (int64_t part = 0; part < problem.num_parts; ++part) {
        const int64_t low = problem.part_bounds[part], high = problem.part_bounds[part + 1];
        Sum *part_grad_query = grad_query + part * problem.num_queries * heads * channels;
        std::vector<Sum> powers, slopes;
        for (int64_t run = 0; run < problem.num_runs; ++run) {
            const int64_t row = problem.run_queries[run];
            const int64_t first_key = problem.key_rows[problem.run_begins[run]];
            // the run's pairs whose keys are in this part
            const int64_t to_pair = problem.run_begins[run] - first_key;
            const int64_t begin = to_pair + std::max(first_key, low);
            const int64_t end = std::min(problem.run_ends[run], to_pair + high);
            const int64_t size = end - begin;
            if (size <= 0) continue;
            const int64_t start = row * heads * channels;
            const Sum *query = queries + start, *grad = grad_output + start;
            const Sum *shift = reference + row * heads, *mean = delta + row * heads;
            powers.resize(size * heads);
            slopes.resize(size * heads);
            for (int64_t e = 0; e < size; ++e) {
                const int64_t key_row = problem.key_rows[begin + e];
                const Token *key = keys + key_row * problem.key_stride;
                const Token *value = values + key_row * problem.value_stride;
                for (int64_t h = 0; h < heads; ++h) {
                    const int64_t c = h * channels;
                    const Sum score = scale * dot(key + c, query + c, channels);
                    powers[e * heads + h] = std::min(score - shift[h], Sum(largest_exponent));
                    slopes[e * heads + h] = dot(value + c, grad + c, channels) - mean[h];
                }
            }
            exponentiate(powers.data(), size * heads);
            Sum *query_target = part_grad_query + start;
            for (int64_t e = 0; e < size; ++e) {
                const int64_t key_row = problem.key_rows[begin + e];
                const Token *key = keys + key_row * problem.key_stride;
                Sum *key_target = grad_key + key_row * grad_key_stride;
                Sum *value_target = grad_value + key_row * grad_value_stride;
                const Sum weight = weights[begin + e];
                Sum pair = 0;
                for (int64_t h = 0; h < heads; ++h) {
                    const int64_t c = h * channels;
                    const Sum power = powers[e * heads + h], slope = power * slopes[e * heads + h];
                    pair += slope;
                    add(value_target + c, weight * power, grad + c, channels);
                    add(key_target + c, scale * weight * slope, query + c, channels);
                    add(query_target + c, scale * weight * slope, key + c, channels);
                }
                pairs[begin + e] = pair;
            }
        }
    }
}

}  // namespace

#define FOR_CHANNELS(function, Token, Sum, ...)                          \
    switch (problem->channels) {                                         \
        case 16: function<Token, Sum, 16>(*problem, __VA_ARGS__); break; \
        case 32: function<Token, Sum, 32>(*problem, __VA_ARGS__); break; \
        case 64: function<Token, Sum, 64>(*problem, __VA_ARGS__); break; \
        default: function<Token, Sum, 0>(*problem, __VA_ARGS__);         \
    }

#define EXPORT(name, Token, Sum)                                                               \
    extern "C" void attend_##name(const Problem *problem, bool weighted, const Sum *weights,   \
                                  Sum *reference, Sum *sums, Sum *masses) {                    \
        FOR_CHANNELS(attend, Token, Sum, weighted, weights, reference, sums, masses)           \
    }                                                                                          \
    extern "C" void backward_##name(                                                           \
        const Problem *problem, const Sum *grad_output, const Sum *reference, const Sum *delta, \
        const Sum *weights, Sum *grad_query, Sum *grad_key, int64_t grad_key_stride,           \
        Sum *grad_value, int64_t grad_value_stride, Sum *pairs) {                              \
        FOR_CHANNELS(backward, Token, Sum, grad_output, reference, delta, weights, grad_query, \
                     grad_key, grad_key_stride, grad_value, grad_value_stride, pairs)          \
    }

EXPORT(float32, float, float)
EXPORT(float64, double, double)
EXPORT(bfloat16, BFloat16, float)
EXPORT(float16, Half, float)

// How many numbers of (num_rows, width) occur in their row before; -1 does not count.
extern "C" int64_t count_repeated(const int64_t *index, int64_t num_rows, int64_t width,
                                  int64_t num_keys, int64_t num_threads) {
    int64_t repeated = 0;
#pragma omp parallel num_threads(num_threads) reduction(+ : repeated)
    {
        std::vector<int32_t> last_row(num_keys, -1);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < num_rows; ++row) {
            for (int64_t slot = 0; slot < width; ++slot) {
                const int64_t key = index[row * width + slot];
                if (key < 0) continue;
                repeated += last_row[key] == row;
                last_row[key] = static_cast<int32_t>(row);
            }
        }
    }
    return repeated;
}
