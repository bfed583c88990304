/* Fused float32 operations of a decoder, forward and backward, on one thread.

   Every tensor is contiguous and row-major. N tokens lie one after the other, whatever rows they belong to; row b of an
   attention are the tokens starts[b] to starts[b + 1] - 1. Plain loops that a compiler turns into vector instructions:
   nothing here is written for one kind of processor. functions.py has the same in torch, and the tests compare. */

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef int64_t index_t;

/* e^x to float32 precision for x <= 88; exactly 0 far below. Cephes' polynomial, without branches, so that it vectorizes. */
static inline float exp_(float x) {
    float below = x < -87.0f ? 0.0f : 1.0f;
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = floorf(x * 1.44269504f + 0.5f);
    float f = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    union { int32_t i; float f; } two_to_n = {((int32_t)n + 127) << 23};
    return (p * f * f + f + 1.0f) * two_to_n.f * below;
}

/* ---- RMSNorm: y = w * x * r with r = 1 / sqrt(mean(x^2) + eps), which is kept for the way back */

void rms_norm(float *y, float *r, const float *x, const float *w, float eps, index_t n, index_t d) {
    for (index_t i = 0; i < n; i++, x += d, y += d) {
        float sum = 0;
        for (index_t j = 0; j < d; j++) sum += x[j] * x[j];
        float scale = r[i] = 1.0f / sqrtf(sum / d + eps);
        for (index_t j = 0; j < d; j++) y[j] = w[j] * (x[j] * scale);
    }
}

/* gw is added to */
void rms_norm_backward(float *gx, float *gw, const float *gy, const float *x, const float *r, const float *w, index_t n,
                       index_t d) {
    for (index_t i = 0; i < n; i++, x += d, gx += d, gy += d) {
        float dot = 0, scale = r[i];
        for (index_t j = 0; j < d; j++) dot += gy[j] * w[j] * x[j];
        float pull = dot * scale * scale * scale / d;
        for (index_t j = 0; j < d; j++) {
            gw[j] += gy[j] * x[j] * scale;
            gx[j] = gy[j] * w[j] * scale - x[j] * pull;
        }
    }
}

/* ---- SwiGLU: y = silu(g) * u */

void swiglu(float *y, const float *g, const float *u, index_t n) {
    for (index_t i = 0; i < n; i++) y[i] = g[i] / (1.0f + exp_(-g[i])) * u[i];
}

void swiglu_backward(float *gg, float *gu, const float *gy, const float *g, const float *u, index_t n) {
    for (index_t i = 0; i < n; i++) {
        float s = 1.0f / (1.0f + exp_(-g[i]));
        gu[i] = gy[i] * g[i] * s;
        gg[i] = gy[i] * u[i] * s * (1.0f + g[i] * (1.0f - s));
    }
}

/* ---- Rotary positions, in place on [n, heads, size]: the first 2 * half numbers of a head turn in pairs (j, j + half).
   cos and sin are [positions, 2 * half]; inverse: the transposed turn, which is the way back of the gradient. */

void rotate(float *x, const float *cos, const float *sin, const index_t *positions, index_t n, index_t heads, index_t size,
            index_t half, index_t inverse) {
    for (index_t i = 0; i < n; i++) {
        const float *c = cos + positions[i] * 2 * half, *s = sin + positions[i] * 2 * half;
        for (index_t h = 0; h < heads; h++, x += size) {
            for (index_t j = 0; j < half; j++) {
                float a = x[j], b = x[j + half];
                float s1 = inverse ? -s[j + half] : s[j], s2 = inverse ? -s[j] : s[j + half];
                x[j] = a * c[j] - b * s1;
                x[j + half] = b * c[j + half] + a * s2;
            }
        }
    }
}

/* ---- Causal attention of whole rows: q [n, heads, size], k and v [n, kv_heads, size].

   Query by query, QUERIES at a time, against transposed keys and values [size][length], so that the innermost loops run
   over keys. `longest` is the length of the longest row. The way back makes the probabilities again from the log-sum-exp of each query (Dao et al. 2022). */

#define QUERIES 4
#define LANES 16 /* keys at a time; rows of transposed matrices and of weights are padded to a multiple, see `padded` */

typedef float lanes __attribute__((vector_size(sizeof(float) * LANES), aligned(4)));

static inline lanes load(const float *from) { return *(const lanes *)from; }

static inline float total(lanes v) {
    float sum = 0;
    for (int l = 0; l < LANES; l++) sum += v[l];
    return sum;
}

static inline index_t padded(index_t keys) { return (keys + LANES - 1) / LANES * LANES; }

/* [length, size] as [size][stride], with zeros behind each row */
static void transposed(float *to, const float *from, index_t length, index_t width, index_t size, index_t stride) {
    for (index_t d = 0; d < size; d++) {
        for (index_t j = 0; j < length; j++) to[d * stride + j] = from[j * width + d];
        for (index_t j = length; j < padded(length); j++) to[d * stride + j] = 0;
    }
}

/* out[a][j] = sum_d x[a][d] * t[d][j] */
static void products(float *out, const float *x, const float *t, index_t keys, index_t size, index_t stride) {
    for (index_t j = 0; j < keys; j += LANES) {
        lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        for (index_t d = 0; d < size; d++) {
            lanes value = load(t + d * stride + j);
            s0 += x[d] * value;
            s1 += x[size + d] * value;
            s2 += x[2 * size + d] * value;
            s3 += x[3 * size + d] * value;
        }
        float *o = out + j;
        *(lanes *)o = s0, *(lanes *)(o + stride) = s1, *(lanes *)(o + 2 * stride) = s2, *(lanes *)(o + 3 * stride) = s3;
    }
}

/* x[a][d] = sum_j weight[a][j] * t[d][j] */
static void sums(float *x, const float *weight, const float *t, index_t keys, index_t size, index_t stride) {
    for (index_t d = 0; d < size; d++) {
        const float *w = weight, *row = t + d * stride;
        lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        for (index_t j = 0; j < keys; j += LANES) {
            lanes value = load(row + j);
            s0 += load(w + j) * value;
            s1 += load(w + stride + j) * value;
            s2 += load(w + 2 * stride + j) * value;
            s3 += load(w + 3 * stride + j) * value;
        }
        x[d] = total(s0), x[size + d] = total(s1), x[2 * size + d] = total(s2), x[3 * size + d] = total(s3);
    }
}

/* t[d][j] += sum_a x[a][d] * weight[a][j] */
static void spread(float *t, const float *x, const float *weight, index_t keys, index_t size, index_t stride) {
    for (index_t j = 0; j < keys; j += LANES) {
        const float *w = weight + j;
        lanes w0 = load(w), w1 = load(w + stride), w2 = load(w + 2 * stride), w3 = load(w + 3 * stride);
        for (index_t d = 0; d < size; d++) {
            lanes *to = (lanes *)(t + d * stride + j);
            *to += x[d] * w0 + x[size + d] * w1 + x[2 * size + d] * w2 + x[3 * size + d] * w3;
        }
    }
}

static float largest(const float *x, index_t n) {
    float top[LANES], all;
    for (int l = 0; l < LANES; l++) top[l] = x[0];
    index_t whole = n / LANES * LANES;
    for (index_t j = 0; j < whole; j += LANES)
        for (int l = 0; l < LANES; l++) top[l] = x[j + l] > top[l] ? x[j + l] : top[l];
    all = top[0];
    for (int l = 1; l < LANES; l++) all = top[l] > all ? top[l] : all;
    for (index_t j = whole; j < n; j++) all = x[j] > all ? x[j] : all;
    return all;
}

/* The queries from i on, times scale; zeros beyond the row */
static index_t gathered(float *to, const float *from, index_t i, index_t length, index_t width, index_t size, float scale) {
    index_t count = length - i < QUERIES ? length - i : QUERIES;
    memset(to, 0, sizeof(float) * QUERIES * size);
    for (index_t a = 0; a < count; a++)
        for (index_t d = 0; d < size; d++) to[a * size + d] = from[(i + a) * width + d] * scale;
    return count;
}

/* scratch: (2 * size + QUERIES) * padded(longest) + 2 * QUERIES * size numbers; lse: [n, heads] */
void attention(float *out, float *lse, const float *q, const float *k, const float *v, const index_t *starts, index_t rows,
               index_t heads, index_t kv_heads, index_t size, float scale, index_t longest, float *scratch) {
    index_t stride = padded(longest), width = heads * size, kv_width = kv_heads * size, group = heads / kv_heads;
    float *kt = scratch, *vt = kt + size * stride, *p = vt + size * stride, *x = p + QUERIES * stride, *o = x + QUERIES * size;
    for (index_t b = 0; b < rows; b++) {
        index_t first = starts[b], length = starts[b + 1] - first;
        for (index_t h = 0; h < heads; h++) {
            if (h % group == 0) {
                transposed(kt, k + first * kv_width + h / group * size, length, kv_width, size, stride);
                transposed(vt, v + first * kv_width + h / group * size, length, kv_width, size, stride);
            }
            for (index_t i = 0; i < length; i += QUERIES) {
                index_t count = gathered(x, q + first * width + h * size, i, length, width, size, scale);
                index_t keys = i + count;
                products(p, x, kt, keys, size, stride);
                for (index_t a = 0; a < count; a++) {
                    index_t seen = i + a + 1;
                    float *row = p + a * stride, top = largest(row, seen), sum = 0;
                    for (index_t j = 0; j < seen; j++) row[j] = exp_(row[j] - top);
                    for (index_t j = 0; j < seen; j++) sum += row[j];
                    for (index_t j = seen; j < padded(keys); j++) row[j] = 0;
                    lse[(first + i + a) * heads + h] = top + logf(sum);
                    float inverse = 1.0f / sum;
                    for (index_t j = 0; j < seen; j++) row[j] *= inverse;
                }
                sums(o, p, vt, keys, size, stride);
                for (index_t a = 0; a < count; a++)
                    memcpy(out + (first + i + a) * width + h * size, o + a * size, sizeof(float) * size);
            }
        }
    }
}

/* scratch: (4 * size + 2 * QUERIES) * padded(longest) + 3 * QUERIES * size numbers */
void attention_backward(float *gq, float *gk, float *gv, const float *gout, const float *out, const float *lse,
                        const float *q, const float *k, const float *v, const index_t *starts, index_t rows, index_t heads,
                        index_t kv_heads, index_t size, float scale, index_t longest, float *scratch) {
    index_t stride = padded(longest), width = heads * size, kv_width = kv_heads * size, group = heads / kv_heads;
    float *kt = scratch, *vt = kt + size * stride, *gkt = vt + size * stride, *gvt = gkt + size * stride;
    float *p = gvt + size * stride, *gp = p + QUERIES * stride;
    float *x = gp + QUERIES * stride, *go = x + QUERIES * size, *gx = go + QUERIES * size;
    for (index_t b = 0; b < rows; b++) {
        index_t first = starts[b], length = starts[b + 1] - first;
        for (index_t h = 0; h < heads; h++) {
            index_t column = first * width + h * size, kv_column = first * kv_width + h / group * size;
            if (h % group == 0) {
                transposed(kt, k + kv_column, length, kv_width, size, stride);
                transposed(vt, v + kv_column, length, kv_width, size, stride);
                memset(gkt, 0, sizeof(float) * 2 * size * stride);
            }
            for (index_t i = 0; i < length; i += QUERIES) {
                index_t count = gathered(x, q + column, i, length, width, size, scale);
                gathered(go, gout + column, i, length, width, size, 1.0f);
                index_t keys = i + count;
                products(p, x, kt, keys, size, stride);
                products(gp, go, vt, keys, size, stride);
                for (index_t a = 0; a < QUERIES; a++) {
                    float *row = p + a * stride, *grow = gp + a * stride;
                    index_t seen = a < count ? i + a + 1 : 0;
                    if (seen) {
                        float top = lse[(first + i + a) * heads + h], dot = 0;
                        const float *gy = go + a * size, *y = out + column + (i + a) * width;
                        for (index_t d = 0; d < size; d++) dot += gy[d] * y[d];
                        for (index_t j = 0; j < seen; j++) {
                            row[j] = exp_(row[j] - top);
                            grow[j] = row[j] * (grow[j] - dot);
                        }
                    }
                    for (index_t j = seen; j < padded(keys); j++) row[j] = grow[j] = 0;
                }
                sums(gx, gp, kt, keys, size, stride);
                spread(gkt, x, gp, keys, size, stride); /* x carries the scale */
                spread(gvt, go, p, keys, size, stride);
                for (index_t a = 0; a < count; a++)
                    for (index_t d = 0; d < size; d++) gq[column + (i + a) * width + d] = gx[a * size + d] * scale;
            }
            if ((h + 1) % group == 0)
                for (index_t j = 0; j < length; j++)
                    for (index_t d = 0; d < size; d++) {
                        gk[kv_column + j * kv_width + d] = gkt[d * stride + j];
                        gv[kv_column + j * kv_width + d] = gvt[d * stride + j];
                    }
        }
    }
}

/* ---- Softmax over a vocabulary. */

#define BLOCK 256

/* log-sum-exp and entropy of each row; compilers vectorize exponentials and sums in loops of their own, not in one */
void softmax_sums(float *normaliser, float *entropy, const float *logits, index_t n, index_t vocabulary) {
    float p[BLOCK];
    for (index_t i = 0; i < n; i++, logits += vocabulary) {
        float top = largest(logits, vocabulary), sum = 0, weighted = 0;
        for (index_t start = 0; start < vocabulary; start += BLOCK) {
            index_t count = vocabulary - start < BLOCK ? vocabulary - start : BLOCK;
            const float *z = logits + start;
            for (index_t j = 0; j < count; j++) p[j] = exp_(z[j] - top);
            for (index_t j = 0; j < count; j++) sum += p[j];
            for (index_t j = 0; j < count; j++) weighted += p[j] * (z[j] - top);
        }
        normaliser[i] = top + logf(sum);
        entropy[i] = logf(sum) - weighted / sum;
    }
}

/* Logits become the gradient of sum_i a[i] log p[i][targets[i]] + b[i] entropy[i], times `factor`. */
void softmax_slopes(float *logits, const float *normaliser, const float *entropy, const index_t *targets, const float *a,
                    const float *b, index_t n, index_t vocabulary, float factor) {
    for (index_t i = 0; i < n; i++, logits += vocabulary) {
        float of_target = a[i] * factor, of_entropy = b[i] * factor;
        for (index_t j = 0; j < vocabulary; j++) {
            float log_p = logits[j] - normaliser[i];
            logits[j] = -exp_(log_p) * (of_target + of_entropy * (log_p + entropy[i]));
        }
        logits[targets[i]] += of_target;
    }
}

/* ---- Steps of sampling: one new token for each of n sequences. */

/* x += delta, and y = RMSNorm(x) */
void add_rms_norm(float *y, float *x, const float *delta, const float *w, float eps, index_t n, index_t d) {
    for (index_t i = 0; i < n; i++, x += d, y += d, delta += d) {
        float sum = 0;
        for (index_t j = 0; j < d; j++) x[j] += delta[j];
        for (index_t j = 0; j < d; j++) sum += x[j] * x[j];
        float scale = 1.0f / sqrtf(sum / d + eps);
        for (index_t j = 0; j < d; j++) y[j] = w[j] * (x[j] * scale);
    }
}

/* y[i][j] = silu(x[i][j]) * x[i][j + d] */
void swiglu_halves(float *y, const float *x, index_t n, index_t d) {
    for (index_t i = 0; i < n; i++, x += 2 * d, y += d) swiglu(y, x, x + d, d);
}

/* p[j] += sum_d x[d] * t[d][j] */
static void add_scores(float *p, const float *x, const float *t, index_t keys, index_t size, index_t stride) {
    for (index_t d = 0; d < size; d++, t += stride) {
        float x0 = x[d];
        for (index_t j = 0; j < keys; j++) p[j] += x0 * t[j];
    }
}

/* The same, four rows of t at a time: quicker where they lie in the first cache, slower where memory sends them */
static void add_scores_near(float *p, const float *x, const float *t, index_t keys, index_t size, index_t stride) {
    for (; size >= 4; size -= 4, x += 4, t += 4 * stride) {
        const float *t1 = t + stride, *t2 = t1 + stride, *t3 = t2 + stride;
        float x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
        for (index_t j = 0; j < keys; j++) p[j] += x0 * t[j] + x1 * t1[j] + x2 * t2[j] + x3 * t3[j];
    }
    add_scores(p, x, t, keys, size, stride);
}

/* o[d] += sum_j p[j] * v[j][d] */
static void add_values(float *o, const float *p, const float *v, index_t keys, index_t size) {
    for (index_t j = 0; j < keys; j++, v += size) {
        float p0 = p[j];
        for (index_t d = 0; d < size; d++) o[d] += p0 * v[d];
    }
}

/* The same, four rows of v at a time */
static void add_values_near(float *o, const float *p, const float *v, index_t keys, index_t size) {
    for (; keys >= 4; keys -= 4, p += 4, v += 4 * size) {
        const float *v1 = v + size, *v2 = v1 + size, *v3 = v2 + size;
        float p0 = p[0], p1 = p[1], p2 = p[2], p3 = p[3];
        for (index_t d = 0; d < size; d++) o[d] += p0 * v[d] + p1 * v1[d] + p2 * v2[d] + p3 * v3[d];
    }
    add_values(o, p, v, keys, size);
}

static void softmax(float *p, index_t n) {
    float top = largest(p, n), sum = 0;
    for (index_t j = 0; j < n; j++) p[j] = exp_(p[j] - top);
    for (index_t j = 0; j < n; j++) sum += p[j];
    float inverse = 1.0f / sum;
    for (index_t j = 0; j < n; j++) p[j] *= inverse;
}

/* Of a prompt's transposed keys, and of its values: one query brings so many into the first cache, where others find them. */
#define NEAR_ROWS 8
#define NEAR_KEYS 32

/* qkv is [n, heads + 2 * kv_heads, size]. Key and value of sequence i join its cache at column `end`; its query attends to
   its prompt, length[i] keys at place[i], and to its own columns first[i] to end. The caches are [.., kv_heads, size, columns]
   (keys, transposed) and [.., kv_heads, columns, size] (values), of prompts with `longest` columns. Queries and keys turn
   where they are by the rotary position length[i] + end - first[i]; half: 0 without rotary positions. `order`: the
   sequences, those of one place after each other, so that up to QUERIES queries read a prompt once.
   scratch: QUERIES * (longest + columns + 2 * size) numbers. */
void attend(float *out, float *qkv, const float *cos, const float *sin, const float *prompt_keys, const float *prompt_values,
            float *keys, float *values, const index_t *place, const index_t *length, const index_t *first, const index_t *order,
            index_t n, index_t heads, index_t kv_heads, index_t size, index_t half, index_t longest, index_t columns,
            index_t end, float scale, float *scratch) {
    index_t group = heads / kv_heads, all = (heads + 2 * kv_heads) * size, width = longest + columns;
    float *p = scratch, *x = p + QUERIES * width, *o = x + QUERIES * size;
    for (index_t i = 0; i < n; i++) {
        index_t position = length[i] + end - first[i];
        const float *k = qkv + i * all + heads * size, *v = k + kv_heads * size;
        if (half) rotate(qkv + i * all, cos, sin, &position, 1, heads + kv_heads, size, half, 0);
        for (index_t h = 0; h < kv_heads; h++) {
            index_t own = (i * kv_heads + h) * size * columns;
            for (index_t d = 0; d < size; d++) keys[own + d * columns + end] = k[h * size + d];
            memcpy(values + own + end * size, v + h * size, sizeof(float) * size);
        }
    }
    for (index_t begin = 0, stop; begin < n; begin = stop) {
        const index_t *rows = order + begin;
        index_t at = place[rows[0]], known = length[rows[0]];
        for (stop = begin + 1; stop < n && place[order[stop]] == at;) stop++;
        for (index_t h = 0; h < kv_heads; h++) {
            index_t prompt = (at * kv_heads + h) * size * longest, queries = (stop - begin) * group;
            for (index_t u = 0; u < queries; u += QUERIES) {
                index_t count = queries - u < QUERIES ? queries - u : QUERIES;
                memset(p, 0, sizeof(float) * QUERIES * width);
                memset(o, 0, sizeof(float) * QUERIES * size);
                for (index_t a = 0; a < count; a++) {
                    const float *q = qkv + rows[(u + a) / group] * all + (h * group + (u + a) % group) * size;
                    for (index_t d = 0; d < size; d++) x[a * size + d] = q[d] * scale;
                }
                for (index_t d = 0; d < size; d += NEAR_ROWS) {
                    index_t some = size - d < NEAR_ROWS ? size - d : NEAR_ROWS;
                    const float *t = prompt_keys + prompt + d * longest;
                    add_scores(p, x + d, t, known, some, longest);
                    for (index_t a = 1; a < count; a++)
                        add_scores_near(p + a * width, x + a * size + d, t, known, some, longest);
                }
                for (index_t a = 0; a < count; a++) {
                    index_t i = rows[(u + a) / group], own = (i * kv_heads + h) * size * columns + first[i];
                    add_scores(p + a * width + known, x + a * size, keys + own, end + 1 - first[i], size, columns);
                    softmax(p + a * width, known + end + 1 - first[i]);
                }
                for (index_t j = 0; j < known; j += NEAR_KEYS) {
                    index_t some = known - j < NEAR_KEYS ? known - j : NEAR_KEYS;
                    const float *v = prompt_values + prompt + j * size;
                    add_values(o, p + j, v, some, size);
                    for (index_t a = 1; a < count; a++) add_values_near(o + a * size, p + a * width + j, v, some, size);
                }
                for (index_t a = 0; a < count; a++) {
                    index_t i = rows[(u + a) / group], own = ((i * kv_heads + h) * columns + first[i]) * size;
                    add_values_near(o + a * size, p + a * width + known, values + own, end + 1 - first[i], size);
                    memcpy(out + (i * heads + h * group + (u + a) % group) * size, o + a * size, sizeof(float) * size);
                }
            }
        }
    }
}

/* ---- Sampling by inversion: the first token whose cumulative probability exceeds uniform[i], and its log-probability.
   Probabilities are softmax(logits * inverse_temperature) with the forbidden ids left out. scratch: vocabulary numbers. */

void sample(index_t *tokens, float *logprobs, const float *logits, const float *uniform, const index_t *forbidden,
            index_t n_forbidden, index_t n, index_t vocabulary, float inverse_temperature, float *p) {
    for (index_t i = 0; i < n; i++, logits += vocabulary) {
        float sum = 0, before = 0;
        for (index_t j = 0; j < vocabulary; j++) p[j] = logits[j] * inverse_temperature;
        for (index_t j = 0; j < n_forbidden; j++) p[forbidden[j]] = -INFINITY;
        float top = largest(p, vocabulary);
        for (index_t j = 0; j < vocabulary; j++) p[j] = exp_(p[j] - top);
        for (index_t j = 0; j < n_forbidden; j++) p[forbidden[j]] = 0;
        for (index_t j = 0; j < vocabulary; j++) sum += p[j];
        if (!(sum > 0)) { /* NaN */
            tokens[i] = -1;
            continue;
        }
        /* In blocks, so that the first sum is as exact as the one it is compared with. */
        float threshold = uniform[i] * sum;
        index_t block = 0, chosen = -1, last = 0;
        for (; block < vocabulary; block += 64) {
            float part = 0;
            index_t stop = block + 64 < vocabulary ? block + 64 : vocabulary;
            for (index_t j = block; j < stop; j++) part += p[j];
            if (before + part > threshold) break;
            before += part;
        }
        for (index_t j = block; j < vocabulary && chosen < 0; j++) {
            before += p[j];
            if (p[j] > 0) last = j;
            if (p[j] > 0 && before > threshold) chosen = j;
        }
        if (chosen < 0) { /* rounding left the threshold above every sum */
            for (index_t j = 0; j < vocabulary; j++)
                if (p[j] > 0) last = j;
            chosen = last;
        }
        tokens[i] = chosen;
        logprobs[i] = logits[chosen] * inverse_temperature - top - logf(sum);
    }
}
