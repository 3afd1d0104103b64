/* nearfield: exact and approximate vector search, as a C library (C99 and C++).
 *
 * Shapes      A set of vectors is n rows of dim elements. Results are row-major: (queries, k) means queries * k values,
 *             those of query 0 first.
 * Units       Metrics: "cosine" (cosine similarity, from -1 to 1, higher is better; a zero vector scores 0), "ip"
 *             (inner product, higher is better) and "l2" (Euclidean distance, not squared, lower is better); of packed
 *             bits "hamming" (bits that differ, lower is better) and "jaccard" (from 0 to 1, higher is better; 1 for
 *             two vectors without ones). Results come best first, equal scores by lower id. Vectors are kept as given:
 *             the metric does its own normalisation.
 * Ids         int64, not negative. An id that is -1 in a result means "none"; its score is NaN then.
 * Ownership   Pointers passed in are read during the call only, and memory behind them stays the caller's. What is
 *             returned through a `**` argument belongs to the caller, who gives it to nearfield_close or to the _free
 *             function of its type. Strings returned by an index live as long as the index.
 * Errors      A function that can fail returns a status: NEARFIELD_OK (0) or one of the codes below. The text is in
 *             nearfield_last_error(). After an error the index is as it was and output arrays are undefined; an output
 *             `**` is NULL. No exception leaves the library, and it never aborts, prints or exits.
 * Threads     Any number of threads may use one index: calls that take a const nearfield_index run beside each other
 *             and beside one that changes it. Those and saves wait for each other. A reader sees the index as it was
 *             between two changes. nearfield_close must be the last call.
 * Options     An option struct begins with its own size, and 0 (or NULL) in a field stands for its default:
 *                 nearfield_search_options options = {.struct_size = sizeof(options), .threads = 1};
 *             NULL in place of a struct means all defaults. Later versions add fields at the end; programs compiled
 *             before go on working, and a field that the library does not know is an error unless it is 0.
 */
#ifndef NEARFIELD_H
#define NEARFIELD_H

#include <stddef.h>
#include <stdint.h>

#if defined(NEARFIELD_STATIC)
#define NEARFIELD_API
#elif !defined(_WIN32)
#define NEARFIELD_API __attribute__((visibility("default")))
#elif defined(NEARFIELD_EXPORTS)
#define NEARFIELD_API __declspec(dllexport)
#else
#define NEARFIELD_API __declspec(dllimport)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------------------------------
 * Library
 * ------------------------------------------------------------------------------------------------------------------ */

/* The library's version, "major.minor.patch". */
NEARFIELD_API const char* nearfield_version(void);

/* Raised when programs compiled against an older header no longer work. A program that loads the library by itself
 * compares the macro with the function. */
#define NEARFIELD_ABI_VERSION 1
NEARFIELD_API int nearfield_abi_version(void);

/* The instruction-set level that this process uses: "scalar", "avx2", "avx512", ..., "neon", .... It is the best that
 * the CPU offers unless the environment variable NEARFIELD_ISA names another one. NULL, with an error, if that names
 * none. */
NEARFIELD_API const char* nearfield_cpu_level(void);

typedef int32_t nearfield_status;
enum {
    NEARFIELD_OK = 0,
    NEARFIELD_INVALID_ARGUMENT = 1, /* the message names the argument, the value and what was expected */
    NEARFIELD_INVALID_ID = 2,       /* an id that is not in the index, or that is to be added and is there already */
    NEARFIELD_FILE_FORMAT = 3,      /* not an index file, damaged, or of a newer version */
    NEARFIELD_IO = 4,               /* what the operating system refused, and write functions that failed */
    NEARFIELD_OUT_OF_MEMORY = 5,
    NEARFIELD_INTERNAL = 6 /* a defect of the library */
};

/* The message of the last call on this thread that failed, "" before any did. Valid until the next call on this thread
 * fails. */
NEARFIELD_API const char* nearfield_last_error(void);

/* ---------------------------------------------------------------------------------------------------------------------
 * Vectors
 * ------------------------------------------------------------------------------------------------------------------ */

/* Element types. */
enum {
    NEARFIELD_F32 = 0,
    NEARFIELD_F16 = 1,  /* IEEE 754 binary16 */
    NEARFIELD_BF16 = 2, /* the upper half of a float32 */
    NEARFIELD_INT8 = 3,
    NEARFIELD_UINT8 = 4,
    NEARFIELD_BITS = 5 /* eight to a byte, the first in the highest place; padding of the last byte does not count */
};

/* n vectors in the caller's memory. Every value must be finite. `data` needs no alignment. */
typedef struct nearfield_vectors {
    const void* data; /* element 0 of vector 0; may be NULL if n is 0 */
    size_t n;
    size_t dim;    /* elements; of NEARFIELD_BITS, the number of bits */
    size_t stride; /* bytes from one vector to the next; 0: they lie side by side */
    int32_t type;  /* NEARFIELD_F32, ... */
} nearfield_vectors;

/* ---------------------------------------------------------------------------------------------------------------------
 * Making, opening and closing an index
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct nearfield_index nearfield_index;

typedef struct nearfield_index_options {
    size_t struct_size;
    const char* kind; /* "flat" (default): exact search over all vectors; "ivf": search of inverted lists, see below */
    size_t dim;       /* 1 to 65535, of packed bits to 1048576; no default */
    const char* metric; /* "cosine" (default), "ip", "l2"; of packed bits "hamming", "jaccard" */
    const char* codec;  /* how vectors are stored: "f32" (default of "flat"), "f16", "bf16", "int8", "uint8", "sq8",
                           "sq6", "sq4", "lvq8", "lvq4", "lvq4x4", "lvq4x8", "lvq8x8", "pq8", "pq4", "rabitq1" (default
                           of "ivf") to "rabitq8", "lloyd4", "lloyd2", "sign", "recurrent_binary"; packed bits as they
                           are, "bits" (their default) */
    const char* rerank; /* a finer codec that scores the candidates of the first again, "" for none; default: "" for
                           "flat", "f16" for "ivf" */
    double oversample;  /* candidates per result when reranking, at least 1; default: 4 for "flat", 10 for "ivf" */
    int64_t no_screen;  /* 1: keep no compact image of the vectors; saves memory, costs time, changes no result */
    /* Parameters of the codec: name, value, name, value, ..., NULL; default: none. Values are text, and those that are
     * left out have their defaults, the first in these lists:
     *     "sq8", ...      "range" ("dimension", "global"), "clip" (share of a sample outside of the range; "0")
     *     "pq4", ...      "subspaces" ("0": as many as make one bit for each dimension), "anisotropic" ("0": no; the
     *                     score from which on inner products count), "seed" ("0")
     *     "rabitq4", ...  "seed"
     *     "lloyd4", ...   "calibrated" ("true", "false"), "seed"
     *     "sign"          "threshold" ("zero", "mean", "median"), "rotation" ("none", "random", "learned"),
     *                     "query" ("int4", "int2", "code", "float")
     *     "recurrent_binary"  the same, but "query" is "code" by default, and "bits" ("2"; "1" to "8")
     *     all of numbers  "transform.0" (a transform in front: "pca", "leanvec", "rotation", "prefix",
     *                     "random_rotation", "blocks"), "transform.0.dims", ...; "transform.1", ...
     * A codec that has to learn does so from the first vectors that are added, or by nearfield_train. */
    const char* const* codec_parameters;
    const char* const* rerank_parameters; /* those of the finer codec */
    /* Of "ivf": vectors are clustered, and a search visits the lists of the centroids nearest to its query. Metrics are
     * "cosine", "ip" and "l2". Lists are learned from the first vectors that are added, or by nearfield_train, and hold
     * vectors of one version. Codecs "rabitq*", "lloyd*" and "pq*" code what is left of a vector beside its centroid.
     */
    size_t lists;     /* how many; default: four times the square root of how many vectors they are learned from */
    size_t probes;    /* lists that a search visits; default: one in 32, and at least 8 */
    double soar;      /* puts each vector into a second list, chosen by this weight of the part of its residual there
                         that is parallel to its first one; usual: 1 to 1.5. Default: one list for each vector */
    size_t list_dims; /* lists are learned from the first so many dimensions; default: all */
    uint64_t seed;    /* of where k-means starts */
} nearfield_index_options;

/* Makes an empty index. `options` must not be NULL, since dim has no default. */
NEARFIELD_API nearfield_status nearfield_create(const nearfield_index_options* options, nearfield_index** index);

typedef struct nearfield_open_options {
    size_t struct_size;
    int64_t mmap; /* 1: map the file instead of reading it; a save may replace it then, but nobody may change it. 2: map
                     the rerank copy only, and read the rest */
    int64_t verify; /* 1: compare the checksum of every array also when mapping, which reads the whole file */
} nearfield_open_options;

/* Opens the index in a file; the path is UTF-8. `options` may be NULL. */
NEARFIELD_API nearfield_status nearfield_open(const char* path, const nearfield_open_options* options,
                                              nearfield_index** index);

/* Opens an index from the bytes of a file, which are copied. */
NEARFIELD_API nearfield_status nearfield_open_memory(const void* data, size_t bytes, nearfield_index** index);

/* Frees the index; NULL is allowed. */
NEARFIELD_API void nearfield_close(nearfield_index* index);

/* ---------------------------------------------------------------------------------------------------------------------
 * Changing an index
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct nearfield_write_options {
    size_t struct_size;
    size_t threads;      /* how many threads may work; default: all CPUs that this process may use */
    const char* version; /* the model that the vectors come from; a search can be limited to one. Default: "" */
} nearfield_write_options;

/* Numbers that a codec is given instead of learning them. */
typedef struct nearfield_learned {
    const char* name;
    const float* data;
    size_t n; /* numbers */
} nearfield_learned;

/* Lets the codec learn from a sample of the vectors of a version (NULL: "") that has none yet. Without it, it learns
 * from the first that are added. `given` (n_given; NULL if 0) holds what was learned elsewhere:
 *     "rotation"            (dim, dim), whose rows are orthonormal: needed for the parameter "rotation" of signs
 *     "codebook"            (subspaces, 2^bits, ceil(dim / subspaces)): for "pq4" and "pq8", which learn it otherwise
 *     "transform.0.matrix"  (dims, dim): needed for "pca", "leanvec" and "rotation"; also "transform.0.query_matrix"
 *                           where "transform.0.queries" is "given", and "transform.0.shift" (dim) for "pca" that
 *                           whitens or has metric l2
 * What is for the finer codec has a name that begins with "rerank.". */
NEARFIELD_API nearfield_status nearfield_train(nearfield_index* index, const nearfield_vectors* sample,
                                               const nearfield_learned* given, size_t n_given, const char* version);

/* Adds vectors under the ids (n), none of which may be in the index; NULL: ids that continue after the largest ever
 * used. `given` (n), if not NULL, receives the ids. `options` may be NULL. */
NEARFIELD_API nearfield_status nearfield_add(nearfield_index* index, const nearfield_vectors* vectors,
                                             const int64_t* ids, int64_t* given,
                                             const nearfield_write_options* options);

/* Replaces the vectors of ids (n) that are in the index, all of one version, which they keep (the option `version` is
 * ignored). `options` may be NULL. */
NEARFIELD_API nearfield_status nearfield_update(nearfield_index* index, const int64_t* ids,
                                                const nearfield_vectors* vectors,
                                                const nearfield_write_options* options);

/* Removes n ids. */
NEARFIELD_API nearfield_status nearfield_remove(nearfield_index* index, const int64_t* ids, size_t n);

/* Writes the file of an index of kind "ivf" that holds these vectors, under ids 0, 1, ..., without taking more than
 * `memory_budget` bytes of memory. The vectors may lie in a mapped file, which is read several times. `index` must hold
 * no vectors, and stays as it is: open the file to search it. What it was trained for is used; otherwise lists and
 * codec are learned from a sample of the vectors. A file that is there is replaced in one step at the end. */
NEARFIELD_API nearfield_status nearfield_build(const nearfield_index* index, const nearfield_vectors* source,
                                               const char* path, uint64_t memory_budget,
                                               const nearfield_write_options* options);

/* Puts the next vectors into `batch`, which is empty before and stays so at the end, and returns 0, or anything else to
 * give up. The memory behind it must stay valid until the next call. */
typedef int (*nearfield_read_function)(void* context, nearfield_vectors* batch);

/* The same of batches that can be read once: they are copied to a scratch file beside `path`, as float32.
 * NEARFIELD_IO if the function gives up. */
NEARFIELD_API nearfield_status nearfield_build_from(const nearfield_index* index, nearfield_read_function read,
                                                    void* context, const char* path, uint64_t memory_budget,
                                                    const nearfield_write_options* options);

/* ---------------------------------------------------------------------------------------------------------------------
 * Searching
 * ------------------------------------------------------------------------------------------------------------------ */

/* The ids that a search may return, made once for any number of searches of the index that it was made with. It keeps
 * meaning these ids while the index changes, and may be freed before or after the index. */
typedef struct nearfield_filter nearfield_filter;

/* Allows the listed ids (n); those that are not in the index are ignored. */
NEARFIELD_API nearfield_status nearfield_filter_ids(const nearfield_index* index, const int64_t* ids, size_t n,
                                                    nearfield_filter** filter);

/* Allows the vectors whose byte in the mask (n) is not 0. The mask is aligned with nearfield_ids; n must be the size of
 * the index. */
NEARFIELD_API nearfield_status nearfield_filter_mask(const nearfield_index* index, const uint8_t* mask, size_t n,
                                                     nearfield_filter** filter);

/* NULL is allowed. */
NEARFIELD_API void nearfield_filter_free(nearfield_filter* filter);

typedef struct nearfield_search_options {
    size_t struct_size;
    const nearfield_filter* filter; /* default: all vectors */
    size_t threads;                 /* default: all CPUs that this process may use, 1 for a single query */
    double oversample;              /* at least 1; default: that of the index */
    int64_t exact;                  /* 1: compare every vector by the finest codec, without candidates */
    const char* version;            /* only vectors of this version; default: all, the query coded as the last one's */
    double recall; /* the share of the true results to be found: takes the oversample and the probes that are in the
                      index for it, see nearfield_set_tuning; default: these as they are */
    size_t probes; /* lists that are visited, of "ivf"; more than there are: all. Default: those of the index */
} nearfield_search_options;

/* Finds the k best vectors for each query. Writes ids and scores (queries, k), and to `counts` (queries), if not NULL,
 * how many there are of each: min(k, vectors allowed). Places left over hold id -1 and score NaN. `options` may be
 * NULL. */
NEARFIELD_API nearfield_status nearfield_search(const nearfield_index* index, const nearfield_vectors* queries,
                                                size_t k, const nearfield_search_options* options, int64_t* ids,
                                                float* scores, int64_t* counts);

typedef struct nearfield_range_hits nearfield_range_hits;

/* Finds every vector within a radius, the boundary included: at most that distance for l2 and hamming, at least that
 * score for the others; of "ivf" among the lists that are visited. `options` may be NULL; `oversample`, `recall` and
 * `exact` are ignored, the finest codec is always compared. */
NEARFIELD_API nearfield_status nearfield_range_search(const nearfield_index* index, const nearfield_vectors* queries,
                                                      double radius, const nearfield_search_options* options,
                                                      nearfield_range_hits** hits);

/* Hits of query q stand at [offsets[q], offsets[q + 1]) of ids and scores, best first. The arrays belong to `hits`. */
NEARFIELD_API const int64_t* nearfield_range_hits_offsets(const nearfield_range_hits* hits);
NEARFIELD_API const int64_t* nearfield_range_hits_ids(const nearfield_range_hits* hits);
NEARFIELD_API const float* nearfield_range_hits_scores(const nearfield_range_hits* hits);

/* NULL is allowed. */
NEARFIELD_API void nearfield_range_hits_free(nearfield_range_hits* hits);

/* Scores given vectors: ids (m) for all queries, or ids (queries, m), a row for each query, if `per_query` is not 0.
 * Writes scores (queries, m), NaN where an id is -1. `threads` is that of nearfield_search_options. */
NEARFIELD_API nearfield_status nearfield_score(const nearfield_index* index, const nearfield_vectors* queries,
                                               const int64_t* ids, size_t m, int per_query, size_t threads,
                                               float* scores);

/* ---------------------------------------------------------------------------------------------------------------------
 * Declared recall
 * ------------------------------------------------------------------------------------------------------------------ */

/* A line of the table from recall to the search parameters that reach it. */
typedef struct nearfield_tuning_entry {
    double recall;     /* that was asked for, above 0 and at most 1 */
    double measured;   /* that was measured */
    double oversample; /* with which, at least 1; no matter without rerank */
    size_t probes;     /* with which; 0: those of the index */
} nearfield_tuning_entry;

/* Keeps what was measured, in the index and its file, for the search option `recall`: it takes the values of the first
 * entry that has as much. `entries` (n) come by growing recall, and replace those from before; n = 0: none. `k`
 * (results per query) and `queries` say with how many it was measured, and are kept for information. */
NEARFIELD_API nearfield_status nearfield_set_tuning(nearfield_index* index, const nearfield_tuning_entry* entries,
                                                    size_t n, size_t k, size_t queries);

/* How many entries there are, and these; n must be that number. */
NEARFIELD_API size_t nearfield_tuning_size(const nearfield_index* index);
NEARFIELD_API nearfield_status nearfield_tuning(const nearfield_index* index, nearfield_tuning_entry* entries,
                                                size_t n);

/* ---------------------------------------------------------------------------------------------------------------------
 * Looking into an index. Those that return a value and no status return 0 or NULL when `index` is NULL.
 * ------------------------------------------------------------------------------------------------------------------ */

NEARFIELD_API const char* nearfield_kind(const nearfield_index* index);
NEARFIELD_API const char* nearfield_metric(const nearfield_index* index);
/* The codecs' kinds: "pq" of "pq4", whose parameter "bits" is "4"; "" where there is none. A parameter that the codec
 * does not have is NULL. */
NEARFIELD_API const char* nearfield_codec(const nearfield_index* index);
NEARFIELD_API const char* nearfield_codec_parameter(const nearfield_index* index, const char* name);
NEARFIELD_API const char* nearfield_rerank(const nearfield_index* index);
NEARFIELD_API const char* nearfield_rerank_parameter(const nearfield_index* index, const char* name);
NEARFIELD_API size_t nearfield_dim(const nearfield_index* index);
NEARFIELD_API size_t nearfield_size(const nearfield_index* index);   /* vectors */
NEARFIELD_API size_t nearfield_nbytes(const nearfield_index* index); /* of vectors, codes and ids */
NEARFIELD_API int nearfield_contains(const nearfield_index* index, int64_t id);
/* How many lists there are, 0 before they are learned and for other kinds than "ivf". */
NEARFIELD_API size_t nearfield_lists(const nearfield_index* index);

/* Writes all ids, in the order that filter masks are aligned with; n must be the size of the index. */
NEARFIELD_API nearfield_status nearfield_ids(const nearfield_index* index, int64_t* ids, size_t n);

/* Writes the vectors (n, dim) of ids (n) as float32, as they were added to the precision of the finest codec. */
NEARFIELD_API nearfield_status nearfield_reconstruct(const nearfield_index* index, const int64_t* ids, size_t n,
                                                     float* vectors);

/* Writes what the first codec keeps of ids (n): nearfield_code_bytes each; the packed bits of "bits" and "sign". */
NEARFIELD_API size_t nearfield_code_bytes(const nearfield_index* index);
NEARFIELD_API nearfield_status nearfield_codes(const nearfield_index* index, const int64_t* ids, size_t n,
                                               uint8_t* codes);

/* ---------------------------------------------------------------------------------------------------------------------
 * Saving
 * ------------------------------------------------------------------------------------------------------------------ */

/* Saves to a file; the path is UTF-8. The file is replaced in one step: it holds the old index or the new one, never
 * half of either. It is a safetensors file. */
NEARFIELD_API nearfield_status nearfield_save(const nearfield_index* index, const char* path);

/* Takes the next bytes of the file and returns 0, or anything else to give up. It must not change or save the same
 * index, which waits for it. */
typedef int (*nearfield_write_function)(void* context, const void* data, size_t bytes);

/* Saves through a function of the caller; NEARFIELD_IO if it gives up. */
NEARFIELD_API nearfield_status nearfield_save_to(const nearfield_index* index, nearfield_write_function write,
                                                 void* context);

/* ---------------------------------------------------------------------------------------------------------------------
 * Clustering
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct nearfield_kmeans_options {
    size_t struct_size;
    size_t k;          /* clusters, at most n; no default */
    size_t iterations; /* at most; default: 25 */
    int64_t spherical; /* 1: vectors and centroids are scaled to unit length */
    double capacity;   /* no cluster gets more than ceil(capacity * n / k) vectors, at least 1; default: no limit */
    int64_t sinkhorn;  /* 1: clusters of nearly equal sizes, by entropic optimal transport, which takes much longer */
    size_t sample;     /* vectors per cluster, at most, that centroids are trained on; default: 1024 */
    uint64_t seed;
    const float* init; /* centroids (k, dim) to start from; default: drawn from the vectors */
    size_t threads;    /* default: all CPUs that this process may use. Never changes a result */
} nearfield_kmeans_options;

/* Finds k centroids such that the vectors are near to the nearest one. Writes the centroids (k, dim); to `labels` (n),
 * if not NULL, the cluster of each vector; and to `inertia`, if not NULL, the sum of squared distances of all vectors
 * from the centroids of their clusters. `options` must not be NULL, since k has no default. */
NEARFIELD_API nearfield_status nearfield_kmeans(const nearfield_vectors* vectors,
                                                const nearfield_kmeans_options* options, float* centroids,
                                                uint32_t* labels, double* inertia);

#ifdef __cplusplus
}
#endif

#endif /* NEARFIELD_H */
