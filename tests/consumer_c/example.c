/* Eight vectors, three questions, and a file. */
#include <nearfield.h>
#include <stdio.h>
#include <stdlib.h>

#define DIM 4
#define K 3

static void check(nearfield_status status) {
    if (status != NEARFIELD_OK) {
        fprintf(stderr, "nearfield: %s\n", nearfield_last_error());
        exit(1);
    }
}

static void print_hits(const int64_t* ids, const float* scores) {
    for (int i = 0; i < K; ++i) printf("  id %lld  score %.3f\n", (long long)ids[i], scores[i]);
}

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "example.nearfield";
    static const float vectors[8][DIM] = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1},
                                          {1, 1, 0, 0}, {0, 1, 1, 0}, {0, 0, 1, 1}, {1, 0, 0, 1}};
    static const int64_t own_ids[8] = {100, 101, 102, 103, 200, 201, 202, 203};
    static const float query[DIM] = {3, 2, 0, 0};
    int64_t ids[K];
    float scores[K];

    /* An empty index. Fields that are left out have their defaults. */
    nearfield_index* index = NULL;
    check(nearfield_create(
        &(nearfield_index_options){.struct_size = sizeof(nearfield_index_options), .dim = DIM, .metric = "cosine"},
        &index));

    /* Vectors under our own ids; with NULL in their place the index counts from 0. */
    check(nearfield_add(index, &(nearfield_vectors){.data = vectors, .n = 8, .dim = DIM}, own_ids, NULL, NULL));

    /* The three most similar ones, into our own arrays. */
    const nearfield_vectors queries = {.data = query, .n = 1, .dim = DIM};
    check(nearfield_search(index, &queries, K, NULL, ids, scores, NULL));
    puts("most similar:");
    print_hits(ids, scores);

    /* The same among some ids only. A filter may serve any number of searches. */
    static const int64_t allowed[3] = {101, 102, 203};
    nearfield_filter* filter = NULL;
    check(nearfield_filter_ids(index, allowed, 3, &filter));
    nearfield_search_options options = {.struct_size = sizeof(options), .filter = filter};
    check(nearfield_search(index, &queries, K, &options, ids, scores, NULL));
    puts("most similar of 101, 102 and 203:");
    print_hits(ids, scores);
    nearfield_filter_free(filter);

    /* Everything with a similarity of at least 0.5. */
    nearfield_range_hits* hits = NULL;
    check(nearfield_range_search(index, &queries, 0.5, NULL, &hits));
    printf("similarity 0.5 or more: %lld vectors\n", (long long)nearfield_range_hits_offsets(hits)[1]);
    nearfield_range_hits_free(hits);

    /* One file, which another program maps into memory. */
    check(nearfield_save(index, path));
    nearfield_close(index);
    check(nearfield_open(path, &(nearfield_open_options){.struct_size = sizeof(nearfield_open_options), .mmap = 1},
                         &index));
    printf("%s: %zu vectors of dimension %zu\n", path, nearfield_size(index), nearfield_dim(index));
    nearfield_close(index);
    return 0;
}
