// k-means by many threads: clusterings beside each other, assignments to shared centroids, and calls that are stopped.
#include <atomic>
#include <cmath>
#include <random>
#include <thread>

#include "check.hpp"
#include "search/clustering.hpp"

using namespace nearfield;

namespace {

constexpr size_t kPoints = 3000, kDim = 19, kClusters = 300;

std::vector<float> random_points(uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<float> out(kPoints * kDim);
    for (float& value : out) value = static_cast<float>(random() >> 40) * 0x1p-23f - 1;
    // Duplicates, zeros, and values that screening cannot be trusted with.
    for (size_t i = 0; i < 200 * kDim; ++i) out[i] = out[i % kDim];
    for (size_t i = 200 * kDim; i < 210 * kDim; ++i) out[i] = 0;
    for (size_t i = 210 * kDim; i < 212 * kDim; ++i) out[i] *= 1e30f;
    for (size_t i = 212 * kDim; i < 214 * kDim; ++i) out[i] *= 1e-30f;
    return out;
}

bool equal(const Clustering& a, const Clustering& b) {
    return a.centroids == b.centroids && a.labels == b.labels && a.iterations == b.iterations && a.inertia == b.inertia;
}

void nearest_by_brute_force(const std::vector<float>& points, const Clustering& clustering) {
    for (size_t i = 0; i < kPoints; ++i) {
        const auto squared = [&](size_t c) {
            double sum = 0;
            for (size_t d = 0; d < kDim; ++d) {
                const double difference =
                    static_cast<double>(points[i * kDim + d]) - static_cast<double>(clustering.centroids[c * kDim + d]);
                sum += difference * difference;
            }
            return sum;
        };
        const double own = squared(clustering.labels[i]);
        for (size_t c = 0; c < kClusters; ++c) CHECK(squared(c) >= own * (1 - 1e-13));
    }
}

}  // namespace

int main() {
    const std::vector<float> points = random_points(1);
    for (const Balance balance : {Balance::none, Balance::capacity, Balance::sinkhorn}) {
        for (const size_t sample : {size_t{0}, size_t{4}}) {
            KMeansOptions options;
            options.k = kClusters;
            options.iterations = 8;
            options.balance = balance;
            options.sample = sample;
            const Clustering right = kmeans_cluster(points.data(), kPoints, kDim, options, Run{1, {}});
            if (balance == Balance::none) nearest_by_brute_force(points, right);
            const Centroids centroids(right.centroids, kDim);
            std::vector<uint32_t> labels(kPoints);
            centroids.assign(points.data(), kPoints, labels.data(), nullptr);
            if (balance == Balance::none) CHECK(labels == right.labels);

            std::vector<std::thread> threads;
            for (size_t t = 0; t < 3; ++t) {
                threads.emplace_back([&, t] {
                    CHECK(equal(right, kmeans_cluster(points.data(), kPoints, kDim, options, Run{t + 2, {}})));
                    std::vector<uint32_t> own(kPoints);
                    std::vector<float> squared(kPoints);
                    centroids.assign(points.data(), kPoints, own.data(), squared.data(), Run{2, {}});
                    CHECK(own == labels);
                });
            }
            threads.emplace_back([&] {
                std::atomic<size_t> polls{0};
                const Run stopped{2, [&](double) { return ++polls < 2; }};
                try {
                    kmeans_cluster(points.data(), kPoints, kDim, options, stopped);
                } catch (const Interrupted&) {
                }
            });
            for (std::thread& thread : threads) thread.join();
        }
    }
    return 0;
}
