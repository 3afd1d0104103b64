// The graph over centroids: recall of its searches against exact distances, reachability of every node, and data that
// is hard on graphs.
#include "search/centroid_graph.hpp"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "check.hpp"

using namespace nearfield;

namespace {

using Found = CentroidGraph::Found;

std::vector<float> normal(size_t count, float scale, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> draw(0.0f, scale);
    std::vector<float> out(count);
    for (float& x : out) x = draw(random);
    return out;
}

// `n` points around `clusters` points.
std::vector<float> clustered(size_t n, size_t dim, size_t clusters, float spread, unsigned seed) {
    const std::vector<float> centers = normal(clusters * dim, 1.0f, 1);
    std::vector<float> out = normal(n * dim, spread, seed);
    for (size_t i = 0; i < out.size(); ++i) out[i] += centers[i / dim % clusters * dim + i % dim];
    return out;
}

double distance(const float* query, const float* centroid, size_t dim, Metric metric) {
    double sum = 0;
    for (size_t d = 0; d < dim; ++d) {
        const double q = static_cast<double>(query[d]), c = static_cast<double>(centroid[d]);
        sum += metric == Metric::l2 ? (q - c) * (q - c) : -q * c;
    }
    return sum;
}

// Checks the form of what a search finds, and returns the share of the true nearest that is among it.
double recall(const CentroidGraph& graph, const std::vector<float>& centroids, const std::vector<float>& queries,
              size_t dim, Metric metric, size_t count, size_t beam) {
    const size_t n = centroids.size() / dim, expected = std::min(n, count);
    size_t hits = 0;
    std::vector<Found> found;
    for (size_t q = 0; q < queries.size(); q += dim) {
        graph.nearest(&queries[q], count, beam, found);
        CHECK(found.size() == expected);
        std::set<uint32_t> nodes;
        for (size_t i = 0; i < found.size(); ++i) {
            CHECK(found[i].node < n && nodes.insert(found[i].node).second);
            const double exact = distance(&queries[q], &centroids[found[i].node * dim], dim, metric);
            CHECK(std::abs(static_cast<double>(found[i].distance) - exact) <= 1e-4 * (1 + std::abs(exact)));
            if (i == 0) continue;
            const Found &a = found[i - 1], &b = found[i];
            CHECK(a.distance < b.distance || (a.distance == b.distance && a.node < b.node));
        }
        std::vector<double> all;
        for (size_t i = 0; i < n; ++i) all.push_back(distance(&queries[q], &centroids[i * dim], dim, metric));
        std::sort(all.begin(), all.end());
        for (const Found& f : found) {
            hits += distance(&queries[q], &centroids[f.node * dim], dim, metric) <= all[expected - 1];
        }
    }
    return static_cast<double>(hits) / static_cast<double>(expected * queries.size() / dim);
}

void check_reachable(const CentroidGraph& graph, size_t n) {
    const std::vector<uint32_t>& edges = graph.edges();
    CHECK(CentroidGraph::valid(edges, n));
    std::vector<uint32_t> reached(edges.begin() + static_cast<std::ptrdiff_t>(n * CentroidGraph::kDegree), edges.end());
    std::vector<bool> seen(n);
    size_t count = 0;
    while (!reached.empty()) {
        const uint32_t node = reached.back();
        reached.pop_back();
        if (seen[node]) continue;
        seen[node] = true;
        ++count;
        const uint32_t* own = &edges[node * CentroidGraph::kDegree];
        reached.insert(reached.end(), own, own + CentroidGraph::kDegree);
    }
    CHECK(count == n);
}

void test_recall() {
    for (const size_t dim : {7u, 64u, 100u}) {
        const std::vector<float> centroids = clustered(3000, dim, 300, 0.7f, 2);
        const std::vector<float> near = clustered(25, dim, 300, 0.7f, 3), far = normal(25 * dim, 2.0f, 4);
        for (const Metric metric : {Metric::l2, Metric::ip}) {
            const CentroidGraph graph(centroids.data(), 3000, dim, metric, Run{});
            check_reachable(graph, 3000);
            for (const auto& queries : {near, far}) {
                CHECK(recall(graph, centroids, queries, dim, metric, 10, 200) > 0.97);
                CHECK(recall(graph, centroids, queries, dim, metric, 64, 64) > 0.8);
                CHECK(recall(graph, centroids, queries, dim, metric, 3000, 0) == 1);  // reaches everything
            }
        }
    }
}

// Clusters with more members than a node has neighbours, far apart: no edge leads out of them.
void test_far_clusters() {
    const size_t dim = 24;
    for (const size_t clusters : {2u, 10u, 30u}) {
        const std::vector<float> centroids = clustered(6000, dim, clusters, 0.2f, 5);
        const CentroidGraph graph(centroids.data(), 6000, dim, Metric::l2, Run{});
        check_reachable(graph, 6000);
        const std::vector<float> queries = clustered(60, dim, clusters, 0.2f, 6);
        CHECK(recall(graph, centroids, queries, dim, Metric::l2, 20, 60) > 0.9);
    }
}

void test_few_and_equal() {
    for (const size_t n : {1u, 2u, 5u, 31u, 32u, 33u, 200u}) {
        for (const float spread : {0.0f, 1.0f}) {
            const size_t dim = 5;
            const std::vector<float> centroids = normal(n * dim, spread, 7), queries = normal(5 * dim, 1.0f, 8);
            const CentroidGraph graph(centroids.data(), n, dim, Metric::ip, Run{});
            check_reachable(graph, n);
            for (const size_t count : {size_t{1}, n / 2 + 1, n, n + 10}) {
                CHECK(recall(graph, centroids, queries, dim, Metric::ip, count, n) == 1);
            }
            std::vector<Found> found(3);
            graph.nearest(queries.data(), 0, 0, found);
            CHECK(found.empty());
        }
    }
    // Many equal centroids among others: connected by edges of their own.
    std::vector<float> centroids = normal(3000 * 8, 1.0f, 9);
    std::fill(centroids.begin(), centroids.begin() + 2500 * 8, 0.5f);
    const CentroidGraph graph(centroids.data(), 3000, 8, Metric::l2, Run{});
    check_reachable(graph, 3000);
    CHECK(recall(graph, centroids, normal(20 * 8, 1.0f, 10), 8, Metric::l2, 3000, 3000) == 1);
}

// Values beyond float32 squares are legal; results have the right form.
void test_huge_values() {
    std::vector<float> centroids = normal(500 * 16, 1.0f, 11);
    for (size_t i = 0; i < 40; ++i) centroids[i * 16 * 3] = i % 2 == 0 ? 3e38f : -3e38f;
    std::vector<Found> found;
    for (const Metric metric : {Metric::l2, Metric::ip}) {
        const CentroidGraph graph(centroids.data(), 500, 16, metric, Run{});
        check_reachable(graph, 500);
        for (const float value : {1.0f, 3e38f}) {
            graph.nearest(std::vector<float>(16, value).data(), 500, 500, found);
            CHECK(found.size() == 500);
            for (size_t i = 1; i < found.size(); ++i) CHECK(found[i - 1].distance <= found[i].distance);
        }
    }
}

// Inner products with centroids of very different lengths, as k-means makes them of unit vectors.
void test_lengths() {
    const size_t n = 4000, dim = 48;
    std::vector<float> centroids = clustered(n, dim, 300, 0.7f, 15);
    for (size_t i = 0; i < n; ++i) {
        for (size_t d = 0; d < dim; ++d) centroids[i * dim + d] *= 0.3f + 0.7f * static_cast<float>(i * 37 % n) / n;
    }
    const CentroidGraph graph(centroids.data(), n, dim, Metric::ip, Run{});
    check_reachable(graph, n);
    CHECK(recall(graph, centroids, clustered(40, dim, 300, 0.7f, 16), dim, Metric::ip, 32, 128) > 0.95);
}

void test_determinism_and_saving() {
    const size_t n = 2500, dim = 33;
    const std::vector<float> centroids = normal(n * dim, 1.0f, 12), queries = normal(20 * dim, 1.0f, 13);
    const CentroidGraph one(centroids.data(), n, dim, Metric::ip, Run{1, {}});
    const CentroidGraph two(centroids.data(), n, dim, Metric::ip, Run{2, {}});
    CHECK(one.edges() == two.edges());
    const CentroidGraph loaded(centroids.data(), n, dim, Metric::ip, one.edges());
    CHECK(loaded.nbytes() == one.nbytes() && one.nbytes() > n * (dim + CentroidGraph::kDegree * 4));
    std::vector<Found> a, b;
    for (size_t q = 0; q < queries.size(); q += dim) {
        one.nearest(&queries[q], 30, 50, a);
        loaded.nearest(&queries[q], 30, 50, b);
        CHECK(std::equal(a.begin(), a.end(), b.begin(), b.end(),
                         [](const Found& x, const Found& y) { return x.node == y.node && x.distance == y.distance; }));
    }
    std::vector<uint32_t> edges = one.edges();
    CHECK(edges.size() == CentroidGraph::rows(n) * CentroidGraph::kDegree && CentroidGraph::valid(edges, n));
    CHECK(!CentroidGraph::valid(edges, n - 1) && !CentroidGraph::valid({}, n));
    edges.back() = static_cast<uint32_t>(n);
    CHECK(!CentroidGraph::valid(edges, n));
    // Edges that lead nowhere: a search finds the entries.
    std::fill(edges.begin(), edges.end(), 0u);
    CentroidGraph(centroids.data(), n, dim, Metric::l2, edges).nearest(queries.data(), 30, 50, a);
    CHECK(a.size() == 1 && a[0].node == 0);
}

}  // namespace

int main() {
    test_recall();
    test_far_clusters();
    test_few_and_equal();
    test_huge_values();
    test_lengths();
    test_determinism_and_saving();
    return 0;
}
