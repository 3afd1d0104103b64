#include "codecs/screen.hpp"

#include <cmath>
#include <limits>

#include "kernels/dispatch.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kLongest = 1e18, kShortest = 1e-17;
// Rounding of a direction to float32 (three operations), and of lengths whose squares vanish.
constexpr float kDirection = 0x1p-21f, kVanishing = 1e-17f;

double length(const float* vector, size_t dim) {
    double sums[3];
    kernels::active().dense[kernels::kF32].settle(vector, reinterpret_cast<const uint8_t*>(vector), 1.0f, dim, sums);
    return std::sqrt(sums[1]);
}

double dot(const float* a, const float* b, size_t dim) {
    double sums[3];
    kernels::active().dense[kernels::kF32].settle(a, reinterpret_cast<const uint8_t*>(b), 1.0f, dim, sums);
    return sums[0];
}

class ScreenScanner final : public Scanner {
  public:
    explicit ScreenScanner(TiledQueries tiles) : tiles_(std::move(tiles)) {}
    void scan(Block block, SurvivorSink& sink) const noexcept override { tiles_.scan(block.data, block.n, sink); }

  private:
    TiledQueries tiles_;
};

}  // namespace

ScreenCodec::ScreenCodec(size_t dim, Metric metric, std::vector<float> center)
    : dim_(dim), metric_(metric), center_(std::move(center)) {}

bool ScreenCodec::image(const float* vector, const float* center, size_t dim, Metric metric, float* out) {
    const double norm = length(vector, dim);
    if (!(norm < kLongest)) return false;
    double factor = 1;
    if (metric == Metric::cosine) {
        if (norm > 0 && norm < kShortest) return false;
        factor = norm > 0 ? 1 / norm : 0;
    }
    const auto scale = static_cast<float>(factor);
    for (size_t d = 0; d < dim; ++d) out[d] = vector[d] * scale - (center ? center[d] : 0.0f);
    return true;
}

std::vector<float> ScreenCodec::center_of(const float* vectors, size_t n, size_t dim, Metric metric) {
    std::vector<double> sum(dim);
    std::vector<float> one(dim);
    for (size_t i = 0; i < n; ++i) {
        if (!image(vectors + i * dim, nullptr, dim, metric, one.data())) continue;
        for (size_t d = 0; d < dim; ++d) sum[d] += one[d];
    }
    for (size_t d = 0; d < dim; ++d) one[d] = static_cast<float>(sum[d] / static_cast<double>(n));
    return one;
}

size_t ScreenCodec::group_bytes() const { return tile_group_bytes(TileCodes::u8, dim_); }

void ScreenCodec::encode_group(const float* vectors, std::byte* group) const {
    auto* factors = reinterpret_cast<float*>(group + tile_code_bytes(TileCodes::u8, dim_));
    thread_local std::vector<float> y;
    thread_local std::vector<int8_t> code;
    y.resize(dim_);
    code.assign((dim_ + 3) / 4 * 4, 0);
    for (size_t i = 0; i < kGroup; ++i) {
        float lengths[3] = {0, 0, 0};
        float add = 0, err = kInfinity, norm = 0;
        if (image(vectors + i * dim_, center_.data(), dim_, metric_, y.data())) {
            kernels::active().quantize(y.data(), dim_, 127, code.data(), lengths);
            const auto full = static_cast<float>(length(y.data(), dim_));
            err = lengths[1] + TiledQueries::kRelative * full + kVanishing;
            if (metric_ == Metric::cosine) err += kDirection;
            if (metric_ == Metric::l2) add = full * full * (1 - TiledQueries::kRelative);
            norm = lengths[2];
        }
        for (size_t d = 0; d < code.size(); d += 4) {
            for (size_t j = 0; j < 4; ++j) {
                group[(d / 4 * kGroup + i) * 4 + j] = static_cast<std::byte>(code[d + j]) ^ std::byte{0x80};
            }
        }
        factors[i] = lengths[0];
        factors[kGroup + i] = add;
        factors[2 * kGroup + i] = err;
        factors[3 * kGroup + i] = norm;
    }
}

std::unique_ptr<Scanner> ScreenCodec::prepare(const float* queries, size_t n) const {
    return std::make_unique<ScreenScanner>(tiles(queries, n));
}

void ScreenCodec::estimates(const float* queries, size_t n, const std::byte* groups, size_t count, float* out) const {
    tiles(queries, n).score(groups, count, out);
}

TiledQueries ScreenCodec::tiles(const float* queries, size_t n) const {
    TiledQueries out(TileCodes::u8, dim_, n);
    std::vector<float> q(dim_);
    for (size_t i = 0; i < n; ++i) {
        const float* query = queries + i * dim_;
        // ip and cosine: <q, x> = <q, y> + <q, centre>. l2: |q - x|^2 = |q - centre|^2 + |y|^2 - 2 <q - centre, y>.
        const bool known = image(query, metric_ == Metric::l2 ? center_.data() : nullptr, dim_, metric_, q.data());
        const double norm = known ? length(q.data(), dim_) : 0;
        const IntegerQuery rounded = round_query(q.data(), dim_);
        if (!known || (norm > 0 && norm < kShortest)) {
            out.set_u8(i, rounded, 0, 128, 1, kInfinity, 0);
        } else if (metric_ == Metric::l2) {
            out.set_u8(i, rounded, static_cast<float>(norm), 128, 2, 2 * static_cast<float>(norm), norm * norm);
        } else {
            out.set_u8(i, rounded, static_cast<float>(norm), 128, 1, static_cast<float>(norm),
                       -dot(q.data(), center_.data(), dim_));
        }
    }
    return out;
}

}  // namespace nearfield
