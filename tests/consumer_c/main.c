/* The C interface against brute force, function by function, and the errors that nearfield.h promises. Returns 0 if all
 * is as it says. The first argument names the file to save to. */
#include <math.h>
#include <nearfield.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                             \
    do {                                                                                                             \
        if (!(condition)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, nearfield_last_error()); \
            exit(1);                                                                                                 \
        }                                                                                                            \
    } while (0)
#define CHECK_OK(call) CHECK((call) == NEARFIELD_OK)
/* The call fails with this status, and the message has this text in it. */
#define CHECK_FAILS(status, text, call)                      \
    do {                                                     \
        CHECK((call) == (status));                           \
        CHECK(strstr(nearfield_last_error(), text) != NULL); \
    } while (0)

enum { ROWS = 5000, QUERIES = 7, DIM = 19, K = 6 };

static float vectors[ROWS][DIM], queries[QUERIES][DIM];

static float next_random(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (float)(1 << 24) - 0.5f;
}

static nearfield_vectors view(const void* data, size_t n) {
    nearfield_vectors v = {.data = data, .n = n, .dim = DIM};
    return v;
}

static nearfield_index* create(const char* metric, const char* codec) {
    nearfield_index_options options = {.struct_size = sizeof(options), .dim = DIM, .metric = metric, .codec = codec};
    nearfield_index* index = NULL;
    CHECK_OK(nearfield_create(&options, &index));
    return index;
}

static double true_score(const char* metric, const float* query, const float* vector) {
    double dot = 0, lengths[2] = {0, 0}, distance = 0;
    for (int d = 0; d < DIM; ++d) {
        const double q = query[d], x = vector[d];
        dot += q * x;
        lengths[0] += q * q;
        lengths[1] += x * x;
        distance += (q - x) * (q - x);
    }
    if (strcmp(metric, "l2") == 0) return sqrt(distance);
    return strcmp(metric, "ip") == 0 ? dot : dot / sqrt(lengths[0] * lengths[1]);
}

/* Results among the rows whose byte in `allowed` is set (NULL: all), where ids are row numbers: as many as there can
 * be, with true scores, and each with exactly as many better rows as it has better results. */
static void check_hits(const char* metric, const uint8_t* allowed, size_t k, const int64_t* ids, const float* scores,
                       const int64_t* counts) {
    const double sign = strcmp(metric, "l2") == 0 ? 1 : -1;
    size_t rows = 0;
    for (size_t row = 0; row < ROWS; ++row) rows += allowed == NULL || allowed[row];
    for (size_t q = 0; q < QUERIES; ++q) {
        const size_t expected = rows < k ? rows : k;
        CHECK(counts[q] == (int64_t)expected);
        for (size_t i = 0; i < k; ++i, ++ids, ++scores) {
            if (i >= expected) {
                CHECK(*ids == -1 && isnan(*scores));
                continue;
            }
            CHECK(*ids >= 0 && *ids < ROWS && (allowed == NULL || allowed[*ids]));
            const double score = true_score(metric, queries[q], vectors[*ids]);
            CHECK(fabs(score - *scores) < 1e-6);
            size_t better = 0;
            for (size_t row = 0; row < ROWS; ++row) {
                if (allowed != NULL && !allowed[row]) continue;
                better += sign * true_score(metric, queries[q], vectors[row]) < sign * score;
            }
            CHECK(better == i);
        }
    }
}

static void test_search(const char* metric) {
    nearfield_index* index = create(metric, "f32");
    const nearfield_vectors stored = view(vectors, ROWS), asked = view(queries, QUERIES);
    int64_t given[ROWS], ids[QUERIES * K], counts[QUERIES];
    float scores[QUERIES * K];
    CHECK_OK(nearfield_add(index, &stored, NULL, given, NULL));
    CHECK(given[0] == 0 && given[ROWS - 1] == ROWS - 1);
    CHECK(nearfield_size(index) == ROWS && nearfield_dim(index) == DIM && nearfield_nbytes(index) >= sizeof(vectors));
    CHECK(strcmp(nearfield_kind(index), "flat") == 0 && strcmp(nearfield_metric(index), metric) == 0);
    CHECK(strcmp(nearfield_codec(index), "f32") == 0 && strcmp(nearfield_rerank(index), "") == 0);
    CHECK_OK(nearfield_search(index, &asked, K, NULL, ids, scores, counts));
    check_hits(metric, NULL, K, ids, scores, counts);

    /* A mask, and the same as ids, some of them unknown; fewer than K; none. */
    static uint8_t mask[ROWS];
    for (size_t allowed = 0; allowed <= 1000; allowed = allowed == 0 ? 4 : allowed * 250) {
        int64_t list[1002] = {ROWS, ROWS + 7};
        size_t n = 2;
        memset(mask, 0, sizeof(mask));
        for (size_t i = 0; i < allowed; ++i) {
            const size_t row = i * 997 % ROWS;
            mask[row] = (uint8_t)(1 + i % 255);
            list[n++] = (int64_t)row;
        }
        nearfield_filter *by_mask = NULL, *by_ids = NULL;
        CHECK_OK(nearfield_filter_mask(index, mask, ROWS, &by_mask));
        CHECK_OK(nearfield_filter_ids(index, list, n, &by_ids));
        nearfield_search_options options = {.struct_size = sizeof(options), .threads = 2};
        options.filter = by_mask;
        CHECK_OK(nearfield_search(index, &asked, K, &options, ids, scores, counts));
        check_hits(metric, mask, K, ids, scores, counts);
        options.filter = by_ids;
        CHECK_OK(nearfield_search(index, &asked, K, &options, ids, scores, counts));
        check_hits(metric, mask, K, ids, scores, counts);
        nearfield_filter_free(by_mask);
        nearfield_filter_free(by_ids);
    }

    /* Everything as good as the last of the hits, the boundary included. */
    CHECK_OK(nearfield_search(index, &asked, K, NULL, ids, scores, NULL));
    nearfield_range_hits* hits = NULL;
    CHECK_OK(nearfield_range_search(index, &asked, scores[K - 1], NULL, &hits));
    CHECK(nearfield_range_hits_offsets(hits)[0] == 0 && nearfield_range_hits_offsets(hits)[1] == K);
    CHECK(memcmp(nearfield_range_hits_ids(hits), ids, K * sizeof(*ids)) == 0);
    CHECK(memcmp(nearfield_range_hits_scores(hits), scores, K * sizeof(*scores)) == 0);
    nearfield_range_hits_free(hits);

    /* Scores of given ids: the same for all queries, and a row for each. */
    float again[QUERIES * K];
    CHECK_OK(nearfield_score(index, &asked, ids, K, 1, 0, again));
    CHECK(memcmp(again, scores, sizeof(scores)) == 0);
    const int64_t wanted[3] = {17, -1, 4999};
    CHECK_OK(nearfield_score(index, &asked, wanted, 3, 0, 1, again));
    for (size_t q = 0; q < QUERIES; ++q) {
        CHECK(fabs(again[q * 3] - true_score(metric, queries[q], vectors[17])) < 1e-6 && isnan(again[q * 3 + 1]));
        CHECK(fabs(again[q * 3 + 2] - true_score(metric, queries[q], vectors[4999])) < 1e-6);
    }
    nearfield_close(index);
}

static void test_changes(void) {
    nearfield_index* index = create("l2", "f32");
    nearfield_vectors some = view(vectors, 10);
    const int64_t first[10] = {10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, gone[2] = {12, 19};
    int64_t ids[10];
    float kept[2 * DIM];
    const nearfield_write_options one_thread = {.struct_size = sizeof(one_thread), .threads = 1};
    CHECK_OK(nearfield_add(index, &some, first, NULL, &one_thread));
    CHECK_OK(nearfield_remove(index, gone, 2));
    CHECK(nearfield_size(index) == 8 && nearfield_contains(index, 11) == 1 && nearfield_contains(index, 12) == 0);
    some = view(vectors[100], 2);
    CHECK_OK(nearfield_update(index, first, &some, NULL));
    CHECK_OK(nearfield_reconstruct(index, first, 2, kept));
    CHECK(memcmp(kept, vectors[100], sizeof(kept)) == 0);
    CHECK_OK(nearfield_add(index, &some, NULL, ids, NULL));
    CHECK(ids[0] == 20 && ids[1] == 21);
    CHECK_OK(nearfield_ids(index, ids, 10));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "10", nearfield_ids(index, ids, 9));
    nearfield_close(index);
}

/* Every element type, in rows that lie apart. */
static void test_element_types(void) {
    static const char* const codecs[] = {"f32", "f16", "bf16", "int8", "uint8"};
    static const size_t bytes[] = {4, 2, 2, 1, 1};
    static const unsigned char three[][4] = {{0, 0, 0x40, 0x40}, {0, 0x42}, {0x40, 0x40}, {3}, {3}}; /* little-endian */
    enum { N = 5, STRIDE = 100 };
    for (int32_t type = NEARFIELD_F32; type <= NEARFIELD_UINT8; ++type) {
        static unsigned char data[N * STRIDE];
        memset(data, 0xff, sizeof(data));
        for (size_t i = 0; i < N; ++i) {
            for (size_t d = 0; d < DIM; ++d) {
                memset(data + i * STRIDE + d * bytes[type], 0, bytes[type]);
                if (d == i) memcpy(data + i * STRIDE + d * bytes[type], three[type], bytes[type]);
            }
        }
        const nearfield_vectors given = {data, N, DIM, STRIDE, type};
        nearfield_index* index = create("ip", codecs[type]);
        CHECK_OK(nearfield_add(index, &given, NULL, NULL, NULL));
        int64_t ids[N * N];
        float scores[N * N];
        CHECK_OK(nearfield_search(index, &given, N, NULL, ids, scores, NULL));
        for (int i = 0; i < N; ++i) CHECK(ids[i * N] == i && scores[i * N] == 9.0f && scores[i * N + 1] == 0.0f);
        nearfield_close(index);
    }
}

enum { BYTES = 3, GAP = 7 }; /* of DIM bits; what lies between rows, and the padding, must never count */

static int bit(const unsigned char* row, size_t i) { return row[i / 8] >> (7 - i % 8) & 1; }

static double bit_score(const char* metric, const unsigned char* a, const unsigned char* b) {
    int both = 0, either = 0, differ = 0;
    for (size_t i = 0; i < DIM; ++i) {
        both += bit(a, i) & bit(b, i);
        either += bit(a, i) | bit(b, i);
        differ += bit(a, i) ^ bit(b, i);
    }
    if (strcmp(metric, "hamming") == 0) return differ;
    return either == 0 ? 1 : (double)both / either;
}

static void test_bits(const char* metric) {
    static unsigned char rows[ROWS * GAP], asked[QUERIES * BYTES];
    for (size_t i = 0; i < sizeof(rows); ++i) rows[i] = (unsigned char)(next_random() * 256 + 128);
    for (size_t i = 0; i < sizeof(asked); ++i) asked[i] = (unsigned char)(next_random() * 256 + 128);
    const nearfield_vectors stored = {rows, ROWS, DIM, GAP, NEARFIELD_BITS}, query = {asked, QUERIES, DIM, 0, 5};
    const double sign = strcmp(metric, "hamming") == 0 ? 1 : -1;
    nearfield_index* index = create(metric, NULL);
    CHECK_OK(nearfield_add(index, &stored, NULL, NULL, NULL));
    CHECK(strcmp(nearfield_codec(index), "bits") == 0 && strcmp(nearfield_metric(index), metric) == 0);
    CHECK(nearfield_dim(index) == DIM && nearfield_code_bytes(index) == BYTES);
    int64_t ids[QUERIES * K], counts[QUERIES];
    float scores[QUERIES * K], own[K];
    CHECK_OK(nearfield_search(index, &query, K, NULL, ids, scores, counts));
    for (size_t q = 0; q < QUERIES; ++q) {
        CHECK(counts[q] == K);
        for (size_t i = 0; i < K; ++i) {
            const int64_t id = ids[q * K + i];
            const double score = bit_score(metric, asked + q * BYTES, rows + id * GAP);
            CHECK(scores[q * K + i] == (float)score);
            size_t before = 0; /* better rows, and equally good ones with lower ids */
            for (int64_t row = 0; row < ROWS; ++row) {
                const double other = bit_score(metric, asked + q * BYTES, rows + row * GAP);
                before += sign * other < sign * score || (other == score && row < id);
            }
            CHECK(before == i);
        }
        CHECK_OK(nearfield_score(index, &(nearfield_vectors){asked + q * BYTES, 1, DIM, 0, NEARFIELD_BITS}, ids + q * K,
                                 K, 0, 1, own));
        CHECK(memcmp(own, scores + q * K, sizeof(own)) == 0);
    }
    nearfield_range_hits* hits = NULL;
    CHECK_OK(nearfield_range_search(index, &query, scores[K - 1], NULL, &hits));
    int64_t inside = 0;
    for (size_t row = 0; row < ROWS; ++row) {
        inside += sign * (float)bit_score(metric, asked, rows + row * GAP) <= sign * scores[K - 1];
    }
    CHECK(nearfield_range_hits_offsets(hits)[1] == inside && inside >= K);
    nearfield_range_hits_free(hits);

    uint8_t codes[K * BYTES];
    float floats[K * DIM];
    CHECK_OK(nearfield_codes(index, ids, K, codes));
    CHECK_OK(nearfield_reconstruct(index, ids, K, floats));
    for (size_t i = 0; i < K; ++i) {
        for (size_t d = 0; d < BYTES * 8; ++d) {
            const int expected = d < DIM && bit(rows + ids[i] * GAP, d);
            CHECK(bit(codes + i * BYTES, d) == expected);
            CHECK(d >= DIM || floats[i * DIM + d] == (float)expected);
        }
    }

    nearfield_vectors wrong = query;
    wrong.dim = DIM + 8;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "queries", nearfield_search(index, &wrong, K, NULL, ids, scores, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "27", nearfield_add(index, &wrong, NULL, NULL, NULL));
    wrong.dim = DIM - 1; /* as many bytes */
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "18", nearfield_add(index, &wrong, NULL, NULL, NULL));
    wrong = view(vectors, 2);
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "vectors", nearfield_add(index, &wrong, NULL, NULL, NULL));
    const int64_t unknown = ROWS;
    CHECK_FAILS(NEARFIELD_INVALID_ID, "5000", nearfield_codes(index, &unknown, 1, codes));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "codes", nearfield_codes(index, ids, 1, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "learn", nearfield_train(index, &query, NULL, 0, NULL));
    CHECK(nearfield_size(index) == ROWS && nearfield_code_bytes(NULL) == 0);
    nearfield_close(index);
}

/* Signs of two models in one index, with a finer copy that stays on disk. */
static void test_signs(const char* path) {
    static const char* const parameters[] = {"threshold", "mean", "rotation", "random", "query", "float", NULL};
    static const char *const unknown[] = {"depth", "3", NULL}, *const unfinished[] = {"threshold", NULL};
    nearfield_index_options options = {.struct_size = sizeof(options), .dim = DIM, .metric = "ip", .codec = "sign"};
    nearfield_index *index = NULL, *opened = NULL;
    options.codec_parameters = unknown;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "depth", nearfield_create(&options, &index));
    options.codec_parameters = unfinished;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "codec_parameters", nearfield_create(&options, &index));
    options.codec_parameters = parameters;
    options.rerank = "f32";
    options.oversample = 20;
    CHECK_OK(nearfield_create(&options, &index));

    const nearfield_vectors first = view(vectors, 500), second = view(vectors[500], 500),
                            asked = view(queries, QUERIES);
    static float matrix[DIM * DIM]; /* a permutation of the dimensions */
    for (size_t d = 0; d < DIM; ++d) matrix[d * DIM + (d + 5) % DIM] = 1;
    const nearfield_learned rotation = {"rotation", matrix, DIM * DIM}, part = {"rotation", matrix, DIM},
                            nameless = {NULL, matrix, DIM * DIM}, empty = {"rotation", NULL, DIM * DIM};
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "rotation", nearfield_add(index, &first, NULL, NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "rotation", nearfield_train(index, &first, NULL, 0, "a"));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "given", nearfield_train(index, &first, NULL, 1, "a"));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "name", nearfield_train(index, &first, &nameless, 1, "a"));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "rotation", nearfield_train(index, &first, &empty, 1, "a"));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "(19, 19)", nearfield_train(index, &first, &part, 1, "a"));
    CHECK(nearfield_size(index) == 0);
    CHECK_OK(nearfield_train(index, &first, &rotation, 1, "a"));
    CHECK_OK(nearfield_train(index, &second, &rotation, 1, "b"));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "trained already", nearfield_train(index, &first, &rotation, 1, "a"));
    nearfield_write_options to = {.struct_size = sizeof(to), .threads = 1, .version = "a"};
    CHECK_OK(nearfield_add(index, &first, NULL, NULL, &to));
    to = (nearfield_write_options){.struct_size = sizeof(to), .version = "b"};
    CHECK_OK(nearfield_add(index, &second, NULL, NULL, &to));
    const int64_t moved[2] = {3, 603};
    nearfield_vectors some = view(vectors[2000], 2);
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "several versions", nearfield_update(index, moved, &some, NULL));
    some.n = 1;
    CHECK_OK(nearfield_update(index, moved, &some, NULL));
    CHECK_OK(nearfield_save(index, path));

    const nearfield_open_options on_disk = {sizeof(on_disk), 2, 0}, wrong = {sizeof(wrong), 3, 0};
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "mmap", nearfield_open(path, &wrong, &opened));
    CHECK_OK(nearfield_open(path, &on_disk, &opened));
    CHECK(nearfield_code_bytes(opened) == BYTES + sizeof(float));
    nearfield_search_options only = {.struct_size = sizeof(only)};
    int64_t ids[2][QUERIES * K], counts[QUERIES];
    float scores[2][QUERIES * K];
    for (int b = 0; b < 2; ++b) {
        only.version = b ? "b" : "a";
        CHECK_OK(nearfield_search(index, &asked, K, &only, ids[0], scores[0], counts));
        CHECK_OK(nearfield_search(opened, &asked, K, &only, ids[1], scores[1], NULL));
        CHECK(memcmp(ids[0], ids[1], sizeof(ids[0])) == 0 && memcmp(scores[0], scores[1], sizeof(scores[0])) == 0);
        for (size_t i = 0; i < QUERIES * K; ++i) {
            const int64_t id = ids[0][i];
            CHECK(counts[i / K] == K && id >= 500 * b && id < 500 * b + 500);
            const float* vector = vectors[id == 3 ? 2000 : id];
            CHECK(fabs(scores[0][i] - true_score("ip", queries[i / K], vector)) < 1e-5);
        }
    }
    only.version = "c";
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "\"c\"",
                nearfield_search(index, &asked, K, &only, ids[0], scores[0], NULL));
    nearfield_close(opened);
    nearfield_close(index);

    /* Options of a program from before there were versions. */
    index = create("ip", "sign");
    const nearfield_write_options older = {.struct_size = offsetof(nearfield_write_options, version),
                                           .version = "lost"};
    CHECK_OK(nearfield_add(index, &first, NULL, NULL, &older));
    only = (nearfield_search_options){.struct_size = offsetof(nearfield_search_options, version), .version = "lost"};
    CHECK_OK(nearfield_search(index, &asked, K, &only, ids[0], scores[0], NULL));
    uint8_t code[BYTES];
    CHECK(nearfield_code_bytes(index) == BYTES);
    CHECK_OK(nearfield_codes(index, ids[0], 1, code));
    for (size_t d = 0; d < DIM; ++d) CHECK(bit(code, d) == (vectors[ids[0][0]][d] > 0));
    /* Signs that were taken elsewhere. */
    const nearfield_vectors packed = {code, 1, DIM, 0, NEARFIELD_BITS};
    CHECK_OK(nearfield_add(index, &packed, NULL, ids[1], NULL));
    CHECK_OK(nearfield_score(index, &packed, ids[1], 1, 0, 0, scores[1]));
    CHECK(ids[1][0] == 500 && scores[1][0] == DIM);
    nearfield_close(index);
}

/* A finer codec with parameters and a rotation of its own. */
static void test_rerank_parameters(void) {
    static const char* const parameters[] = {"bits", "6", "rotation", "random", NULL};
    static const char *const unknown[] = {"depth", "3", NULL}, *const unfinished[] = {"bits", NULL};
    nearfield_index_options options = {.struct_size = sizeof(options),
                                       .dim = DIM,
                                       .codec = "sign",
                                       .rerank = "recurrent_binary",
                                       .rerank_parameters = unknown};
    nearfield_index* index = NULL;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "depth", nearfield_create(&options, &index));
    options.rerank_parameters = unfinished;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "rerank_parameters", nearfield_create(&options, &index));
    options.rerank_parameters = parameters;
    CHECK_OK(nearfield_create(&options, &index));
    CHECK(strcmp(nearfield_codec_parameter(index, "query"), "int4") == 0);
    CHECK(nearfield_codec_parameter(index, "bits") == NULL);
    CHECK(strcmp(nearfield_rerank_parameter(index, "bits"), "6") == 0);
    CHECK(strcmp(nearfield_rerank_parameter(index, "rotation"), "random") == 0);
    CHECK(nearfield_codec_parameter(NULL, "query") == NULL && nearfield_rerank_parameter(index, NULL) == NULL);

    static float matrix[DIM * DIM];
    for (size_t d = 0; d < DIM; ++d) matrix[d * DIM + (d + 5) % DIM] = 1;
    const nearfield_learned rotation = {"rerank.rotation", matrix, DIM * DIM}, other = {"rotation", matrix, DIM * DIM};
    const nearfield_vectors stored = view(vectors, ROWS);
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "rotation", nearfield_train(index, &stored, &other, 1, NULL));
    CHECK_OK(nearfield_train(index, &stored, &rotation, 1, NULL));
    CHECK_OK(nearfield_add(index, &stored, NULL, NULL, NULL));
    static float decoded[ROWS][DIM];
    static int64_t every[ROWS];
    for (int64_t row = 0; row < ROWS; ++row) every[row] = row;
    CHECK_OK(nearfield_reconstruct(index, every, ROWS, decoded[0]));
    for (size_t row = 0; row < ROWS; ++row) CHECK(true_score("cosine", vectors[row], decoded[row]) > 0.95);
    nearfield_close(index);

    /* Options of a program from before there were these parameters. */
    options.struct_size = offsetof(nearfield_index_options, rerank_parameters);
    CHECK_OK(nearfield_create(&options, &index));
    CHECK(strcmp(nearfield_rerank_parameter(index, "bits"), "2") == 0);
    nearfield_close(index);
}

/* A codec that learns from what it is given: its names, how much it loses, and that results are those of what it keeps,
 * also after a file. */
struct codec {
    const char *name, *kind, *bits;
    double error; /* at most, of decoded vectors as a share of their length */
};

static void test_codec(const struct codec* codec, const char* metric, const char* path) {
    nearfield_index *index = create(metric, codec->name), *opened = NULL;
    CHECK(strcmp(nearfield_codec(index), codec->kind) == 0);
    CHECK(strcmp(nearfield_codec_parameter(index, "bits"), codec->bits) == 0);
    const nearfield_vectors stored = view(vectors, ROWS), asked = view(queries, QUERIES);
    CHECK_OK(nearfield_add(index, &stored, NULL, NULL, NULL));
    CHECK(nearfield_nbytes(index) < ROWS * DIM * 4);

    static float decoded[ROWS][DIM];
    static int64_t every[ROWS];
    for (int64_t row = 0; row < ROWS; ++row) every[row] = row;
    CHECK_OK(nearfield_reconstruct(index, every, ROWS, decoded[0]));
    double lost = 0, whole = 0;
    for (size_t i = 0; i < ROWS * DIM; ++i) {
        const double x = vectors[i / DIM][i % DIM], left = x - decoded[i / DIM][i % DIM];
        lost += left * left;
        whole += x * x;
    }
    CHECK(sqrt(lost / whole) < codec->error);

    int64_t ids[2][QUERIES * K], counts[QUERIES];
    float scores[2][QUERIES * K];
    CHECK_OK(nearfield_search(index, &asked, K, NULL, ids[0], scores[0], counts));
    const double sign = strcmp(metric, "l2") == 0 ? 1 : -1, close = 1e-4;
    for (size_t i = 0; i < QUERIES * K; ++i) {
        const double score = true_score(metric, queries[i / K], decoded[ids[0][i]]);
        CHECK(counts[i / K] == K && fabs(score - scores[0][i]) < close);
        size_t better = 0;
        for (size_t row = 0; row < ROWS; ++row) {
            better += sign * true_score(metric, queries[i / K], decoded[row]) < sign * score - close;
        }
        CHECK(better <= i % K);
    }
    CHECK_OK(nearfield_save(index, path));
    CHECK_OK(nearfield_open(path, NULL, &opened));
    CHECK_OK(nearfield_search(opened, &asked, K, NULL, ids[1], scores[1], NULL));
    CHECK(memcmp(ids[0], ids[1], sizeof(ids[0])) == 0 && memcmp(scores[0], scores[1], sizeof(scores[0])) == 0);
    nearfield_close(opened);
    nearfield_close(index);
}

static void test_codecs(const char* path) {
    static const struct codec codecs[] = {
        {"sq8", "sq", "8", 0.01},         {"sq6", "sq", "6", 0.03},        {"sq4", "sq", "4", 0.1},
        {"lvq8", "lvq", "8", 0.01},       {"lvq4", "lvq", "4", 0.1},       {"lvq4x4", "lvq", "4", 0.01},
        {"lvq4x8", "lvq", "4", 0.001},    {"lvq8x8", "lvq", "8", 0.0001},  {"pq8", "pq", "8", 0.7},
        {"pq4", "pq", "4", 0.7},          {"rabitq1", "rabitq", "1", 0.8}, {"rabitq4", "rabitq", "4", 0.15},
        {"rabitq8", "rabitq", "8", 0.02}, {"lloyd4", "lloyd", "4", 0.15},  {"lloyd2", "lloyd", "2", 0.45},
    };
    for (size_t i = 0; i < sizeof(codecs) / sizeof(*codecs); ++i) {
        test_codec(&codecs[i], "ip", path);
        /* Distances of "rabitq" are estimates, not those of what it keeps. */
        if (strcmp(codecs[i].kind, "rabitq") != 0) test_codec(&codecs[i], "l2", path);
    }
    nearfield_index_options options = {.struct_size = sizeof(options), .dim = DIM, .codec = "sq7"};
    nearfield_index* index = NULL;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "7", nearfield_create(&options, &index));
}

/* What was learned elsewhere: a matrix in front of a codec, and centroids. */
static void test_given(void) {
    static const char *const projection[] = {"transform.0", "pca", "transform.0.dims", "19", NULL}, *const parts[] = {
                                                                                                        "subspaces",
                                                                                                        "19", NULL};
    static float matrix[DIM * DIM], centroids[DIM * 16], decoded[DIM];
    for (size_t d = 0; d < DIM; ++d) matrix[d * DIM + (d + 5) % DIM] = 1; /* a permutation of the dimensions */
    for (size_t i = 0; i < DIM * 16; ++i) centroids[i] = (float)(i % 16) / 16 - 0.5f;
    const nearfield_learned learned[] = {{"transform.0.matrix", matrix, DIM * DIM}, {"codebook", centroids, DIM * 16}};
    const nearfield_vectors stored = view(vectors, ROWS), asked = view(queries, QUERIES);
    nearfield_index_options options = {.struct_size = sizeof(options), .dim = DIM, .metric = "ip", .codec = "f32"};
    nearfield_index* index = NULL;
    int64_t ids[QUERIES * K], counts[QUERIES];
    float scores[QUERIES * K];

    options.codec_parameters = projection;
    CHECK_OK(nearfield_create(&options, &index));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "transform.0.matrix", nearfield_add(index, &stored, NULL, NULL, NULL));
    CHECK_OK(nearfield_train(index, &stored, learned, 1, NULL));
    CHECK_OK(nearfield_add(index, &stored, NULL, NULL, NULL));
    CHECK_OK(nearfield_search(index, &asked, K, NULL, ids, scores, counts));
    check_hits("ip", NULL, K, ids, scores, counts);
    nearfield_close(index);

    options.codec = "pq4";
    options.codec_parameters = parts;
    CHECK_OK(nearfield_create(&options, &index));
    CHECK_OK(nearfield_train(index, &stored, learned + 1, 1, NULL));
    CHECK_OK(nearfield_add(index, &stored, NULL, NULL, NULL));
    CHECK_OK(nearfield_search(index, &asked, K, NULL, ids, scores, NULL));
    CHECK_OK(nearfield_reconstruct(index, ids, 1, decoded));
    for (size_t d = 0; d < DIM; ++d) {
        CHECK(fabs(decoded[d] - vectors[ids[0]][d]) <= 1.0 / 16 && fmod(decoded[d] * 16, 1) == 0);
    }
    nearfield_close(index);
}

/* Recall that was measured, and searches that ask for it. */
static void test_tuning(const char* path) {
    static const char* const parameters[] = {"query", "code", NULL};
    nearfield_index_options options = {
        .struct_size = sizeof(options), .dim = DIM, .codec = "sign", .rerank = "f32", .codec_parameters = parameters};
    nearfield_index *index = NULL, *opened = NULL;
    CHECK_OK(nearfield_create(&options, &index));
    const nearfield_vectors stored = view(vectors, ROWS), asked = view(queries, QUERIES);
    CHECK_OK(nearfield_add(index, &stored, NULL, NULL, NULL));
    int64_t ids[2][QUERIES * K];
    float scores[2][QUERIES * K];
    nearfield_search_options search = {.struct_size = sizeof(search), .recall = 0.9};
    CHECK(nearfield_tuning_size(index) == 0);
    CHECK_OK(nearfield_tuning(index, NULL, 0));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "tuned",
                nearfield_search(index, &asked, K, &search, ids[0], scores[0], NULL));

    const nearfield_tuning_entry table[] = {{0.8, 0.82, 2.5, 0}, {0.95, 0.96, 40, 0}, {1, 1, 900, 0}},
                                 unordered[] = {{0.9, 0.9, 3, 0}, {0.9, 0.9, 4, 0}}, small[] = {{0.9, 0.9, 0.5, 0}},
                                 beyond[] = {{1.1, 1, 3, 0}}, strange[] = {{NAN, 1, 3, 0}};
    nearfield_tuning_entry kept[3];
    CHECK_OK(nearfield_set_tuning(index, table, 3, K, QUERIES));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "growing", nearfield_set_tuning(index, unordered, 2, K, QUERIES));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "tuning", nearfield_set_tuning(index, small, 1, K, QUERIES));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "tuning", nearfield_set_tuning(index, beyond, 1, K, QUERIES));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "tuning", nearfield_set_tuning(index, strange, 1, K, QUERIES));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "entries", nearfield_set_tuning(index, NULL, 1, K, QUERIES));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "3", nearfield_tuning(index, kept, 2));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "entries", nearfield_tuning(index, NULL, 3));
    CHECK_OK(nearfield_save(index, path));
    CHECK_OK(nearfield_open(path, NULL, &opened));
    for (int again = 0; again < 2; ++again) {
        nearfield_index* one = again ? opened : index;
        CHECK(nearfield_tuning_size(one) == 3);
        CHECK_OK(nearfield_tuning(one, kept, 3));
        for (size_t i = 0; i < 3; ++i) {
            CHECK(kept[i].recall == table[i].recall && kept[i].measured == table[i].measured);
            CHECK(kept[i].oversample == table[i].oversample);
        }
    }
    /* The first entry that asked for as much as the search does. */
    static const double wanted[] = {0.5, 0.8, 0.81, 0.95, 0.96, 1}, taken[] = {2.5, 2.5, 40, 40, 900, 900};
    for (size_t i = 0; i < 6; ++i) {
        search = (nearfield_search_options){.struct_size = sizeof(search), .recall = wanted[i]};
        CHECK_OK(nearfield_search(opened, &asked, K, &search, ids[0], scores[0], NULL));
        search = (nearfield_search_options){.struct_size = sizeof(search), .oversample = taken[i]};
        CHECK_OK(nearfield_search(index, &asked, K, &search, ids[1], scores[1], NULL));
        CHECK(memcmp(ids[0], ids[1], sizeof(ids[0])) == 0 && memcmp(scores[0], scores[1], sizeof(scores[0])) == 0);
    }
    search = (nearfield_search_options){.struct_size = sizeof(search), .oversample = 2, .recall = 0.9};
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "oversample",
                nearfield_search(index, &asked, K, &search, ids[0], scores[0], NULL));
    static const double impossible[] = {-0.5, 1.5, NAN};
    for (size_t i = 0; i < 3; ++i) {
        search = (nearfield_search_options){.struct_size = sizeof(search), .recall = impossible[i]};
        CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "recall",
                    nearfield_search(index, &asked, K, &search, ids[0], scores[0], NULL));
    }
    /* Options of a program from before there was declared recall. */
    search = (nearfield_search_options){.struct_size = offsetof(nearfield_search_options, recall), .recall = 5};
    CHECK_OK(nearfield_search(index, &asked, K, &search, ids[0], scores[0], NULL));
    search = (nearfield_search_options){.struct_size = sizeof(search), .recall = 0.96};
    CHECK_OK(nearfield_set_tuning(index, table, 2, K, QUERIES));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "0.95",
                nearfield_search(index, &asked, K, &search, ids[0], scores[0], NULL));
    CHECK_OK(nearfield_set_tuning(index, NULL, 0, 0, 0));
    CHECK(nearfield_tuning_size(index) == 0 && nearfield_tuning_size(opened) == 3 && nearfield_tuning_size(NULL) == 0);
    nearfield_close(opened);
    nearfield_close(index);
}

enum { LISTS = 40, BATCH = 999 };

static nearfield_index* create_lists(const char* metric) {
    nearfield_index_options options = {
        .struct_size = sizeof(options), .kind = "ivf", .dim = DIM, .metric = metric, .lists = LISTS};
    nearfield_index* index = NULL;
    CHECK_OK(nearfield_create(&options, &index));
    return index;
}

/* How many of the first results are among the second ones. */
static size_t common(const int64_t* found, const int64_t* truth) {
    size_t both = 0;
    for (size_t i = 0; i < QUERIES * K; ++i) {
        for (size_t j = i / K * K; j < i / K * K + K; ++j) both += found[i] == truth[j];
    }
    return both;
}

struct reader {
    size_t next, refused_at, wrong_at;
};

static int read_batch(void* context, nearfield_vectors* batch) {
    struct reader* reader = context;
    CHECK(batch->n == 0 && batch->data == NULL);
    const size_t left = ROWS - reader->next;
    if (reader->next >= reader->refused_at) return 7;
    if (left == 0) return 0;
    *batch = view(vectors[reader->next], left < BATCH ? left : BATCH);
    if (reader->next >= reader->wrong_at) batch->dim = DIM - 1;
    reader->next += batch->n;
    return 0;
}

static void test_lists(const char* metric, const char* path) {
    nearfield_index *index = create_lists(metric), *flat = create(metric, "f16"), *opened = NULL;
    const nearfield_vectors stored = view(vectors, ROWS), asked = view(queries, QUERIES);
    int64_t truth[QUERIES * K], ids[QUERIES * K], counts[QUERIES];
    float scores[QUERIES * K], exact[QUERIES * K];
    CHECK_OK(nearfield_add(flat, &stored, NULL, NULL, NULL));
    CHECK_OK(nearfield_search(flat, &asked, K, NULL, truth, exact, NULL));
    CHECK(strcmp(nearfield_kind(index), "ivf") == 0 && nearfield_lists(index) == 0 && nearfield_lists(flat) == 0);
    CHECK(strcmp(nearfield_codec(index), "rabitq") == 0 && strcmp(nearfield_rerank(index), "f16") == 0);
    CHECK(strcmp(nearfield_codec_parameter(index, "bits"), "1") == 0);
    CHECK_OK(nearfield_add(index, &stored, NULL, NULL, NULL));
    CHECK(nearfield_lists(index) == LISTS && nearfield_size(index) == ROWS);

    /* More lists, and more candidates, find more. */
    nearfield_search_options few = {.struct_size = sizeof(few), .probes = 1, .oversample = 1}, all = few, options = few;
    all.probes = 10 * LISTS;
    all.oversample = ROWS;
    CHECK_OK(nearfield_search(index, &asked, K, &few, ids, scores, counts));
    const size_t found = common(ids, truth);
    CHECK(found < QUERIES * K && counts[0] == K);
    CHECK_OK(nearfield_search(index, &asked, K, &all, ids, scores, counts));
    CHECK(memcmp(ids, truth, sizeof(ids)) == 0 && memcmp(scores, exact, sizeof(scores)) == 0);
    options = (nearfield_search_options){.struct_size = sizeof(options), .exact = 1};
    CHECK_OK(nearfield_search(index, &asked, K, &options, ids, scores, NULL));
    CHECK(memcmp(ids, truth, sizeof(ids)) == 0);
    CHECK_OK(nearfield_search(index, &asked, K, NULL, ids, scores, NULL));
    CHECK(common(ids, truth) > found);

    /* Filters: as many results as there can be, however few lists are asked for. */
    const int64_t allowed[3] = {5, 17, 4000};
    nearfield_filter* filter = NULL;
    CHECK_OK(nearfield_filter_ids(index, allowed, 3, &filter));
    few.filter = filter;
    CHECK_OK(nearfield_search(index, &asked, K, &few, ids, scores, counts));
    for (size_t i = 0; i < QUERIES * K; ++i) {
        CHECK(counts[i / K] == 3 && (i % K < 3) == (ids[i] >= 0));
        CHECK(ids[i] == -1 || ids[i] == 5 || ids[i] == 17 || ids[i] == 4000);
    }
    nearfield_filter_free(filter);

    /* Everything in the lists that are visited. */
    nearfield_range_hits* hits = NULL;
    all.oversample = 0;
    CHECK_OK(nearfield_range_search(index, &asked, exact[K - 1], &all, &hits));
    CHECK(nearfield_range_hits_offsets(hits)[1] == K);
    CHECK(memcmp(nearfield_range_hits_ids(hits), truth, K * sizeof(*truth)) == 0);
    nearfield_range_hits_free(hits);

    /* Declared recall. */
    const nearfield_tuning_entry table[] = {{0.5, 0.5, 1, 1}, {1, 1, ROWS, LISTS}};
    nearfield_tuning_entry kept[2];
    CHECK_OK(nearfield_set_tuning(index, table, 2, K, QUERIES));
    CHECK_OK(nearfield_tuning(index, kept, 2));
    CHECK(kept[0].probes == 1 && kept[1].probes == LISTS && kept[1].oversample == ROWS);
    options = (nearfield_search_options){.struct_size = sizeof(options), .recall = 0.9};
    CHECK_OK(nearfield_search(index, &asked, K, &options, ids, scores, NULL));
    CHECK(memcmp(ids, truth, sizeof(ids)) == 0);
    options.recall = 0.5;
    CHECK_OK(nearfield_search(index, &asked, K, &options, ids, scores, NULL));
    CHECK(common(ids, truth) == found);
    options.probes = 3;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "probes", nearfield_search(index, &asked, K, &options, ids, scores, NULL));

    /* Saved and opened, mapped and not. */
    CHECK_OK(nearfield_save(index, path));
    for (int64_t mmap = 0; mmap < 3; ++mmap) {
        const nearfield_open_options how = {sizeof(how), mmap, 0};
        CHECK_OK(nearfield_open(path, &how, &opened));
        CHECK(strcmp(nearfield_kind(opened), "ivf") == 0 && nearfield_lists(opened) == LISTS);
        CHECK(nearfield_tuning_size(opened) == 2);
        options = (nearfield_search_options){.struct_size = sizeof(options), .recall = 1};
        CHECK_OK(nearfield_search(opened, &asked, K, &options, ids, scores, NULL));
        CHECK(memcmp(ids, truth, sizeof(ids)) == 0);
        nearfield_close(opened);
    }
    /* Vectors come and go, all of one version. */
    const nearfield_write_options other = {.struct_size = sizeof(other), .version = "b"};
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "version", nearfield_add(index, &stored, NULL, NULL, &other));
    const int64_t gone[1] = {truth[0]};
    CHECK_OK(nearfield_remove(index, gone, 1));
    CHECK_OK(nearfield_search(index, &asked, K, &options, ids, scores, NULL));
    CHECK(ids[0] == truth[1] && nearfield_size(index) == ROWS - 1);
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "empty", nearfield_build(index, &stored, path, 1u << 24, NULL));
    nearfield_close(flat);
    nearfield_close(index);
}

static void test_list_options(void) {
    nearfield_index_options options = {.struct_size = sizeof(options), .dim = DIM, .lists = 3};
    nearfield_index* index = NULL;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "flat", nearfield_create(&options, &index));
    options.kind = "ivf";
    options.soar = -1;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "soar", nearfield_create(&options, &index));
    options.soar = 1;
    options.list_dims = DIM + 1;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "list_dims", nearfield_create(&options, &index));
    options.list_dims = 0;
    options.metric = "hamming";
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "metric", nearfield_create(&options, &index));
    options.metric = "ip";
    options.codec = "sq8";
    options.rerank = "";
    CHECK_OK(nearfield_create(&options, &index));
    CHECK(strcmp(nearfield_codec(index), "sq") == 0 && strcmp(nearfield_rerank(index), "") == 0);
    const nearfield_vectors two = view(vectors, 2), more = view(vectors, 300);
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "lists", nearfield_add(index, &two, NULL, NULL, NULL));
    CHECK_OK(nearfield_train(index, &more, NULL, 0, NULL));
    CHECK(nearfield_lists(index) == 3 && nearfield_size(index) == 0);
    CHECK_OK(nearfield_add(index, &two, NULL, NULL, NULL));
    int64_t ids[4];
    float scores[4];
    CHECK_OK(nearfield_search(index, &two, 2, NULL, ids, scores, NULL));
    CHECK(ids[0] + ids[1] == 1 && ids[2] + ids[3] == 1);
    nearfield_close(index);
    /* Options of a program from before there were lists. */
    options =
        (nearfield_index_options){.struct_size = offsetof(nearfield_index_options, lists), .dim = DIM, .lists = 3};
    CHECK_OK(nearfield_create(&options, &index));
    nearfield_close(index);
}

static void test_build(const char* path) {
    nearfield_index *index = create_lists("l2"), *flat = create("l2", "f32"), *opened = NULL;
    const nearfield_vectors stored = view(vectors, ROWS), asked = view(queries, QUERIES);
    const nearfield_open_options mapped = {.struct_size = sizeof(mapped), .mmap = 1};
    int64_t ids[2][QUERIES * K];
    float scores[2][QUERIES * K];
    const uint64_t budget = 1u << 24;
    nearfield_search_options all = {.struct_size = sizeof(all), .probes = LISTS, .oversample = ROWS};
    for (int batches = 0; batches < 2; ++batches) {
        struct reader reader = {0, (size_t)-1, (size_t)-1};
        CHECK_OK(batches ? nearfield_build_from(index, read_batch, &reader, path, budget, NULL)
                         : nearfield_build(index, &stored, path, budget, NULL));
        CHECK(nearfield_size(index) == 0);
        CHECK_OK(nearfield_open(path, &mapped, &opened));
        CHECK(nearfield_size(opened) == ROWS && nearfield_lists(opened) == LISTS && nearfield_contains(opened, 4999));
        CHECK_OK(nearfield_search(opened, &asked, K, &all, ids[batches], scores[batches], NULL));
        nearfield_close(opened);
    }
    CHECK(memcmp(ids[0], ids[1], sizeof(ids[0])) == 0 && memcmp(scores[0], scores[1], sizeof(scores[0])) == 0);

    /* What goes wrong leaves the file as it was. */
    struct reader refusing = {0, 2 * BATCH, (size_t)-1}, wrong = {0, (size_t)-1, 2 * BATCH};
    const nearfield_write_options version = {.struct_size = sizeof(version), .version = "a"};
    const nearfield_vectors none = view(NULL, 0), some = view(vectors, LISTS - 1);
    CHECK_FAILS(NEARFIELD_IO, "7", nearfield_build_from(index, read_batch, &refusing, path, budget, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "18", nearfield_build_from(index, read_batch, &wrong, path, budget, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "read", nearfield_build_from(index, NULL, NULL, path, budget, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "memory_budget", nearfield_build(index, &stored, path, 1000, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "version", nearfield_build(index, &stored, path, budget, &version));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "path", nearfield_build(index, &stored, NULL, budget, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "no vectors", nearfield_build(index, &none, path, budget, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "lists", nearfield_build(index, &some, path, budget, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "flat", nearfield_build(flat, &stored, path, budget, NULL));
    CHECK_FAILS(NEARFIELD_IO, "no such folder", nearfield_build(index, &stored, "no such folder/x", budget, NULL));
    CHECK_OK(nearfield_open(path, NULL, &opened));
    CHECK(nearfield_size(opened) == ROWS);
    nearfield_close(opened);
    nearfield_close(flat);
    nearfield_close(index);
}

static void test_kmeans(void) {
    enum { CLUSTERS = 20 };
    static float centroids[2][CLUSTERS][DIM];
    static uint32_t labels[ROWS];
    const nearfield_vectors points = view(vectors, ROWS);
    nearfield_kmeans_options options = {.struct_size = sizeof(options), .k = CLUSTERS, .threads = 1};
    double inertia = 0, sum = 0, less = 0;
    CHECK_OK(nearfield_kmeans(&points, &options, centroids[0][0], labels, &inertia));
    for (size_t i = 0; i < ROWS; ++i) {
        const double own = true_score("l2", vectors[i], centroids[0][labels[i]]);
        for (size_t c = 0; c < CLUSTERS; ++c) CHECK(true_score("l2", vectors[i], centroids[0][c]) >= own - 1e-6);
        sum += own * own;
    }
    CHECK(fabs(sum - inertia) < 1e-4 * inertia);
    options.threads = 2;
    CHECK_OK(nearfield_kmeans(&points, &options, centroids[1][0], NULL, NULL));
    CHECK(memcmp(centroids[0], centroids[1], sizeof(centroids[0])) == 0);
    options.init = centroids[0][0];
    CHECK_OK(nearfield_kmeans(&points, &options, centroids[1][0], NULL, &less));
    CHECK(less <= inertia);
    options.init = NULL;
    for (int sinkhorn = 0; sinkhorn < 2; ++sinkhorn) {
        options.capacity = sinkhorn ? 0 : 1;
        options.sinkhorn = sinkhorn;
        CHECK_OK(nearfield_kmeans(&points, &options, centroids[1][0], labels, NULL));
        size_t sizes[CLUSTERS] = {0}, largest = 0;
        for (size_t i = 0; i < ROWS; ++i) ++sizes[labels[i]];
        for (size_t c = 0; c < CLUSTERS; ++c) largest = sizes[c] > largest ? sizes[c] : largest;
        CHECK(largest <= (sinkhorn ? 2 : 1) * ROWS / CLUSTERS);
    }
    options = (nearfield_kmeans_options){.struct_size = sizeof(options), .k = 2, .spherical = 1, .iterations = 3};
    CHECK_OK(nearfield_kmeans(&points, &options, centroids[1][0], NULL, NULL));
    const float origin[DIM] = {0};
    CHECK(fabs(true_score("l2", origin, centroids[1][1]) - 1) < 1e-5);

    nearfield_kmeans_options bad = options;
    bad.k = 0;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "k", nearfield_kmeans(&points, &bad, centroids[0][0], NULL, NULL));
    bad.k = ROWS + 1;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "5001", nearfield_kmeans(&points, &bad, centroids[0][0], NULL, NULL));
    bad = options;
    bad.capacity = 0.5;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "capacity", nearfield_kmeans(&points, &bad, centroids[0][0], NULL, NULL));
    bad.capacity = 1;
    bad.sinkhorn = 1;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "sinkhorn", nearfield_kmeans(&points, &bad, centroids[0][0], NULL, NULL));
    float strange[2 * DIM] = {NAN};
    bad = options;
    bad.init = strange;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "init", nearfield_kmeans(&points, &bad, centroids[0][0], NULL, NULL));
    const nearfield_vectors infinite = view(strange, 2);
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "row 0",
                nearfield_kmeans(&infinite, &options, centroids[0][0], NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "options", nearfield_kmeans(&points, NULL, centroids[0][0], NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "centroids", nearfield_kmeans(&points, &options, NULL, NULL, NULL));
}

struct buffer {
    unsigned char* data;
    size_t size, limit;
};

static int append(void* context, const void* data, size_t bytes) {
    struct buffer* buffer = context;
    if (buffer->size + bytes > buffer->limit) return 28;
    buffer->data = realloc(buffer->data, buffer->size + bytes);
    memcpy(buffer->data + buffer->size, data, bytes);
    buffer->size += bytes;
    return 0;
}

static void test_files(const char* path) {
    nearfield_index *index = create("cosine", "int8"), *opened = NULL;
    const nearfield_vectors stored = view(vectors, ROWS), asked = view(queries, QUERIES);
    int64_t ids[2][QUERIES * K];
    float scores[2][QUERIES * K];
    CHECK_OK(nearfield_add(index, &stored, NULL, NULL, NULL));
    CHECK_OK(nearfield_search(index, &asked, K, NULL, ids[0], scores[0], NULL));
    struct buffer buffer = {NULL, 0, (size_t)-1};
    CHECK_OK(nearfield_save_to(index, append, &buffer));
    CHECK_OK(nearfield_save(index, path));
    for (int way = 0; way < 4; ++way) {
        const nearfield_open_options options = {sizeof(options), way > 1, way > 2};
        CHECK_OK(way == 0 ? nearfield_open_memory(buffer.data, buffer.size, &opened)
                          : nearfield_open(path, way == 1 ? NULL : &options, &opened));
        CHECK(nearfield_size(opened) == ROWS && strcmp(nearfield_codec(opened), "int8") == 0);
        CHECK_OK(nearfield_search(opened, &asked, K, NULL, ids[1], scores[1], NULL));
        CHECK(memcmp(ids[0], ids[1], sizeof(ids[0])) == 0 && memcmp(scores[0], scores[1], sizeof(scores[0])) == 0);
        nearfield_close(opened);
    }
    struct buffer full = {NULL, 0, 1000};
    CHECK_FAILS(NEARFIELD_IO, "28", nearfield_save_to(index, append, &full));
    CHECK_FAILS(NEARFIELD_IO, "no such folder", nearfield_save(index, "no such folder/index"));
    CHECK_FAILS(NEARFIELD_IO, "no such file", nearfield_open("no such file", NULL, &opened));
    CHECK(opened == NULL);
    buffer.data[buffer.size / 2] ^= 1;
    CHECK_FAILS(NEARFIELD_FILE_FORMAT, "checksum", nearfield_open_memory(buffer.data, buffer.size, &opened));
    CHECK_FAILS(NEARFIELD_FILE_FORMAT, "", nearfield_open_memory(buffer.data, 100, &opened));
    CHECK_FAILS(NEARFIELD_FILE_FORMAT, "", nearfield_open_memory(NULL, 0, &opened));
    free(buffer.data);
    free(full.data);
    nearfield_close(index);
}

static void test_errors(void) {
    nearfield_index *index = create("l2", "f32"), *none = (nearfield_index*)&none;
    nearfield_vectors stored = view(vectors, 20), bad = stored;
    nearfield_filter* filter = NULL;
    nearfield_range_hits* hits = NULL;
    int64_t ids[20], known[1] = {7}, unknown[2] = {7, 99};
    float scores[20 * DIM];
    CHECK_OK(nearfield_add(index, &stored, NULL, NULL, NULL));

    nearfield_index_options create_options = {.struct_size = sizeof(create_options)};
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "dim", nearfield_create(&create_options, &none));
    CHECK(none == NULL);
    create_options.dim = DIM;
    create_options.kind = "tree";
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "tree", nearfield_create(&create_options, &none));
    create_options.kind = "flat";
    create_options.metric = "l3";
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "l3", nearfield_create(&create_options, &none));
    create_options.metric = NULL;
    create_options.codec = "f12";
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "f12", nearfield_create(&create_options, &none));
    create_options.codec = NULL;
    create_options.oversample = 0.5;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "oversample", nearfield_create(&create_options, &none));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "options", nearfield_create(NULL, &none));

    /* Options of an older program, of a newer one that asks for nothing new, and of one that does. */
    struct {
        nearfield_search_options known;
        int64_t added;
    } newer = {{.struct_size = sizeof(newer)}, 0};
    CHECK_OK(nearfield_search(index, &stored, 1, &newer.known, ids, scores, NULL));
    newer.added = 1;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "options",
                nearfield_search(index, &stored, 1, &newer.known, ids, scores, NULL));
    newer.known = (nearfield_search_options){.struct_size = offsetof(nearfield_search_options, exact), .exact = 5};
    CHECK_OK(nearfield_search(index, &stored, 1, &newer.known, ids, scores, NULL));
    newer.known.struct_size = 0;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "struct_size",
                nearfield_search(index, &stored, 1, &newer.known, ids, scores, NULL));

    bad.dim = DIM + 1;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "20", nearfield_add(index, &bad, NULL, NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "19", nearfield_search(index, &bad, 1, NULL, ids, scores, NULL));
    bad = stored;
    bad.type = 6;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "type", nearfield_add(index, &bad, NULL, NULL, NULL));
    bad.type = NEARFIELD_BITS;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "vectors", nearfield_add(index, &bad, NULL, NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "queries", nearfield_search(index, &bad, 1, NULL, ids, scores, NULL));
    float infinite[2 * DIM] = {0};
    infinite[DIM] = INFINITY;
    bad = view(infinite, 2);
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "row 1", nearfield_add(index, &bad, NULL, NULL, NULL));
    stored.n = 1;
    CHECK_FAILS(NEARFIELD_INVALID_ID, "7", nearfield_add(index, &stored, known, NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ID, "99", nearfield_update(index, unknown + 1, &stored, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ID, "99", nearfield_remove(index, unknown, 2));
    CHECK_FAILS(NEARFIELD_INVALID_ID, "99", nearfield_score(index, &stored, unknown, 2, 0, 0, scores));
    CHECK_FAILS(NEARFIELD_INVALID_ID, "99", nearfield_reconstruct(index, unknown, 2, scores));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "20", nearfield_filter_mask(index, (const uint8_t*)"1", 1, &filter));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "radius", nearfield_range_search(index, &stored, NAN, NULL, &hits));
    CHECK(nearfield_size(index) == 20 && filter == NULL && hits == NULL);

    /* NULL where there must be something. */
    bad.data = NULL;
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "index", nearfield_add(NULL, &stored, NULL, NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "vectors", nearfield_add(index, NULL, NULL, NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "vectors", nearfield_add(index, &bad, NULL, NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "ids", nearfield_update(index, NULL, &stored, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "ids", nearfield_remove(index, NULL, 1));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "queries", nearfield_search(index, NULL, 1, NULL, ids, scores, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "ids", nearfield_search(index, &stored, 1, NULL, NULL, scores, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "scores", nearfield_search(index, &stored, 1, NULL, ids, NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "hits", nearfield_range_search(index, &stored, 1, NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "scores", nearfield_score(index, &stored, known, 1, 0, 0, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "ids", nearfield_filter_ids(index, NULL, 1, &filter));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "mask", nearfield_filter_mask(index, NULL, 20, &filter));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "ids", nearfield_ids(index, NULL, 20));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "vectors", nearfield_reconstruct(index, known, 1, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "path", nearfield_save(index, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "write", nearfield_save_to(index, NULL, NULL));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "path", nearfield_open(NULL, NULL, &none));
    CHECK_FAILS(NEARFIELD_INVALID_ARGUMENT, "index", nearfield_open("x", NULL, NULL));
    CHECK(nearfield_size(NULL) == 0 && nearfield_dim(NULL) == 0 && nearfield_nbytes(NULL) == 0);
    CHECK(nearfield_metric(NULL) == NULL && nearfield_contains(NULL, 0) == 0 && nearfield_range_hits_ids(NULL) == NULL);
    nearfield_close(NULL);
    nearfield_filter_free(NULL);
    nearfield_range_hits_free(NULL);

    /* Nothing to do is not an error, and needs no arrays. */
    bad.n = 0;
    CHECK_OK(nearfield_add(index, &bad, NULL, NULL, NULL));
    CHECK_OK(nearfield_search(index, &bad, 3, NULL, NULL, NULL, NULL));
    CHECK_OK(nearfield_search(index, &stored, 0, NULL, NULL, NULL, NULL));
    CHECK_OK(nearfield_remove(index, NULL, 0));
    CHECK_OK(nearfield_score(index, &stored, NULL, 0, 0, 0, NULL));
    CHECK_OK(nearfield_reconstruct(index, NULL, 0, NULL));
    CHECK(nearfield_size(index) == 20);
    nearfield_close(index);
}

int main(int argc, char** argv) {
    for (size_t i = 0; i < ROWS * DIM; ++i) vectors[i / DIM][i % DIM] = next_random();
    for (size_t i = 0; i < QUERIES * DIM; ++i) queries[i / DIM][i % DIM] = next_random();
    CHECK(strlen(nearfield_version()) > 0 && nearfield_abi_version() == NEARFIELD_ABI_VERSION);
    CHECK(nearfield_cpu_level() != NULL && strcmp(nearfield_last_error(), "") == 0);
    test_search("cosine");
    test_search("ip");
    test_search("l2");
    test_changes();
    test_element_types();
    test_bits("hamming");
    test_bits("jaccard");
    test_signs(argc > 1 ? argv[1] : "consumer_c.nearfield");
    test_rerank_parameters();
    test_codecs(argc > 1 ? argv[1] : "consumer_c.nearfield");
    test_given();
    test_tuning(argc > 1 ? argv[1] : "consumer_c.nearfield");
    test_lists("cosine", argc > 1 ? argv[1] : "consumer_c.nearfield");
    test_lists("ip", argc > 1 ? argv[1] : "consumer_c.nearfield");
    test_lists("l2", argc > 1 ? argv[1] : "consumer_c.nearfield");
    test_list_options();
    test_build(argc > 1 ? argv[1] : "consumer_c.nearfield");
    test_kmeans();
    test_files(argc > 1 ? argv[1] : "consumer_c.nearfield");
    test_errors();
    printf("nearfield %s (%s): ok\n", nearfield_version(), nearfield_cpu_level());
    return 0;
}
