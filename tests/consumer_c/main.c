/* The life of an index through the C interface: create, add, search, score, save, open, errors. Returns 0 if all of it
 * is as nearfield.h says. The file is saved in the working directory. */
#include <math.h>
#include <nearfield.h>
#include <stdio.h>
#include <string.h>

#define CHECK(condition)                                                                                             \
    do {                                                                                                             \
        if (!(condition)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, nearfield_last_error()); \
            return 1;                                                                                                \
        }                                                                                                            \
    } while (0)

#define DIM 3
#define QUERIES 2
#define K 5

static const float stored[4][DIM] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {1, 1, 0}};
static const int64_t stored_ids[4] = {10, 20, 30, 40};
static const float queries[QUERIES][DIM] = {{1, 0, 0}, {0, 0, 2}};

/* Both queries, by Euclidean distance: 10 at 0 and 40 at 1 for the first, 30 at 1 for the second. */
static int check_search(const nearfield_index* index) {
    nearfield_vectors q = {queries, QUERIES, DIM, 0, NEARFIELD_F32};
    int64_t ids[QUERIES][K], counts[QUERIES];
    float scores[QUERIES][K];
    CHECK(nearfield_search(index, &q, K, NULL, &ids[0][0], &scores[0][0], counts) == NEARFIELD_OK);
    CHECK(counts[0] == 4 && counts[1] == 4);
    CHECK(ids[0][0] == 10 && scores[0][0] == 0.0f);
    CHECK(ids[0][1] == 40 && scores[0][1] == 1.0f);
    CHECK(ids[1][0] == 30 && scores[1][0] == 1.0f);
    CHECK(ids[0][4] == -1 && isnan(scores[0][4]));
    return 0;
}

static int check_filter(const nearfield_index* index) {
    const int64_t allowed[2] = {20, 999};
    nearfield_vectors q = {queries, 1, DIM, 0, NEARFIELD_F32};
    nearfield_filter* filter = NULL;
    nearfield_search_options options = {sizeof(options), NULL, 0, 0, 0};
    int64_t ids[2], counts[1];
    float scores[2];
    CHECK(nearfield_filter_ids(index, allowed, 2, &filter) == NEARFIELD_OK);
    options.filter = filter;
    CHECK(nearfield_search(index, &q, 2, &options, ids, scores, counts) == NEARFIELD_OK);
    CHECK(counts[0] == 1 && ids[0] == 20 && ids[1] == -1);
    nearfield_filter_free(filter);
    return 0;
}

int main(void) {
    nearfield_index_options options = {sizeof(options), NULL, DIM, "l2", NULL, NULL, 0, 0};
    nearfield_vectors vectors = {stored, 4, DIM, 0, NEARFIELD_F32};
    nearfield_index *index = NULL, *opened = NULL;
    const int64_t asked[3] = {40, -1, 10};
    float scores[QUERIES][3];

    CHECK(strlen(nearfield_version()) > 0);
    CHECK(nearfield_abi_version() == NEARFIELD_ABI_VERSION);
    CHECK(nearfield_cpu_level() != NULL);
    printf("nearfield %s, kernels %s\n", nearfield_version(), nearfield_cpu_level());

    CHECK(nearfield_create(&options, &index) == NEARFIELD_OK);
    CHECK(nearfield_add(index, &vectors, stored_ids, NULL, NULL) == NEARFIELD_OK);
    CHECK(nearfield_size(index) == 4 && nearfield_dim(index) == DIM);
    CHECK(strcmp(nearfield_kind(index), "flat") == 0 && strcmp(nearfield_metric(index), "l2") == 0);
    if (check_search(index) || check_filter(index)) return 1;

    vectors.data = queries;
    vectors.n = QUERIES;
    CHECK(nearfield_score(index, &vectors, asked, 3, 0, 1, &scores[0][0]) == NEARFIELD_OK);
    CHECK(scores[0][0] == 1.0f && isnan(scores[0][1]) && scores[0][2] == 0.0f);

    /* An error leaves the index as it was, and says what was wrong. */
    CHECK(nearfield_add(index, &vectors, stored_ids, NULL, NULL) == NEARFIELD_INVALID_ID);
    CHECK(strlen(nearfield_last_error()) > 0 && nearfield_size(index) == 4);
    vectors.dim = 2;
    CHECK(nearfield_add(index, &vectors, NULL, NULL, NULL) == NEARFIELD_INVALID_ARGUMENT);
    CHECK(nearfield_open("no such file", NULL, &opened) == NEARFIELD_IO && opened == NULL);
    CHECK(nearfield_open_memory("not an index", 12, &opened) == NEARFIELD_FILE_FORMAT && opened == NULL);

    CHECK(nearfield_save(index, "consumer_c.nearfield") == NEARFIELD_OK);
    CHECK(nearfield_open("consumer_c.nearfield", NULL, &opened) == NEARFIELD_OK);
    if (check_search(opened)) return 1;
    nearfield_close(opened);
    nearfield_close(index);
    puts("ok");
    return 0;
}
