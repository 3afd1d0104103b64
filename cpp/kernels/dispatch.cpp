#include "kernels/dispatch.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/cpu.hpp"

namespace nearfield::kernels {

void fill_dense_scalar(KernelTable* table);
void fill_tile_scalar(KernelTable* table);
void fill_bits_scalar(KernelTable* table);
void fill_codes_scalar(KernelTable* table);
void fill_select_scalar(KernelTable* table);
#if defined(NEARFIELD_HAVE_AVX2)
void fill_dense_avx2(KernelTable* table);
void fill_tile_avx2(KernelTable* table);
void fill_bits_avx2(KernelTable* table);
void fill_codes_avx2(KernelTable* table);
void fill_select_avx2(KernelTable* table);
#endif
#if defined(NEARFIELD_HAVE_AVX512)
void fill_dense_avx512(KernelTable* table);
void fill_tile_avx512(KernelTable* table);
void fill_codes_avx512(KernelTable* table);
void fill_select_avx512(KernelTable* table);
#endif
#if defined(NEARFIELD_HAVE_AVX512VNNI)
void fill_dense_avx512vnni(KernelTable* table);
void fill_tile_avx512vnni(KernelTable* table);
void fill_codes_avx512vnni(KernelTable* table);
#endif
#if defined(NEARFIELD_HAVE_AVX512ICL)
void fill_bits_avx512icl(KernelTable* table);
void fill_codes_avx512icl(KernelTable* table);
#endif
#if defined(NEARFIELD_HAVE_AVX512BF16)
void fill_dense_avx512bf16(KernelTable* table);
#endif
#if defined(NEARFIELD_HAVE_NEON)
void fill_dense_neon(KernelTable* table);
void fill_tile_neon(KernelTable* table);
void fill_bits_neon(KernelTable* table);
void fill_codes_neon(KernelTable* table);
#endif
#if defined(NEARFIELD_HAVE_NEONDOT)
void fill_dense_neondot(KernelTable* table);
void fill_tile_neondot(KernelTable* table);
void fill_codes_neondot(KernelTable* table);
#endif

namespace {

using Fill = void (*)(KernelTable*);

struct Entry {
    Level level;
    const char* name;
    std::vector<Fill> fills;
};

// From the lowest to the highest; a level inherits every slot it does not fill.
const std::vector<Entry>& entries() {
    static const std::vector<Entry> all = {
        {Level::scalar,
         "scalar",
         {fill_dense_scalar, fill_tile_scalar, fill_bits_scalar, fill_codes_scalar, fill_select_scalar}},
#if defined(NEARFIELD_HAVE_AVX2)
        {Level::avx2, "avx2", {fill_dense_avx2, fill_tile_avx2, fill_bits_avx2, fill_codes_avx2, fill_select_avx2}},
#endif
#if defined(NEARFIELD_HAVE_AVX512)
        {Level::avx512, "avx512", {fill_dense_avx512, fill_tile_avx512, fill_codes_avx512, fill_select_avx512}},
#endif
#if defined(NEARFIELD_HAVE_AVX512VNNI)
        {Level::avx512vnni, "avx512vnni", {fill_dense_avx512vnni, fill_tile_avx512vnni, fill_codes_avx512vnni}},
#endif
#if defined(NEARFIELD_HAVE_AVX512ICL)
        {Level::avx512icl, "avx512icl", {fill_bits_avx512icl, fill_codes_avx512icl}},
#endif
#if defined(NEARFIELD_HAVE_AVX512BF16)
        {Level::avx512bf16, "avx512bf16", {fill_dense_avx512bf16}},
#endif
#if defined(NEARFIELD_HAVE_NEON)
        {Level::neon, "neon", {fill_dense_neon, fill_tile_neon, fill_bits_neon, fill_codes_neon}},
#endif
#if defined(NEARFIELD_HAVE_NEONDOT)
        {Level::neondot, "neondot", {fill_dense_neondot, fill_tile_neondot, fill_codes_neondot}},
#endif
    };
    return all;
}

const std::vector<KernelTable>& tables() {
    static const std::vector<KernelTable> all = [] {
        std::vector<KernelTable> out;
        KernelTable table{};
        for (const Entry& entry : entries()) {
            if (!cpu_supports(entry.level)) continue;
            for (const Fill fill : entry.fills) fill(&table);
            table.name = entry.name;
            out.push_back(table);
        }
        return out;
    }();
    return all;
}

const KernelTable& choose() {
    const char* wanted = std::getenv("NEARFIELD_ISA");
    if (wanted == nullptr || *wanted == '\0') return tables().back();
    if (const KernelTable* table = by_name(wanted)) return *table;
    std::string offered;
    for (const std::string_view name : available()) offered.append(offered.empty() ? "" : ", ").append(name);
    throw std::invalid_argument("NEARFIELD_ISA=" + std::string(wanted) + " is not offered here; this machine runs " +
                                offered);
}

struct Slot {
    const char* name;
    const void* (*address)(const KernelTable&);
};

template <auto member, int type>
const void* dense_slot(const KernelTable& table) {
    return reinterpret_cast<const void*>(table.dense[type].*member);
}

using Dense = DenseKernels;
constexpr Slot kSlots[] = {
    {"dot_f32", dense_slot<&Dense::dot, kF32>},
    {"dot_f16", dense_slot<&Dense::dot, kF16>},
    {"dot_bf16", dense_slot<&Dense::dot, kBF16>},
    {"dot_int8", dense_slot<&Dense::integer_dot, kI8>},
    {"dot_uint8", dense_slot<&Dense::integer_dot, kU8>},
    {"l2_f32", dense_slot<&Dense::l2, kF32>},
    {"l2_f16", dense_slot<&Dense::l2, kF16>},
    {"l2_bf16", dense_slot<&Dense::l2, kBF16>},
    {"settle_f32", dense_slot<&Dense::settle, kF32>},
    {"settle_f16", dense_slot<&Dense::settle, kF16>},
    {"settle_bf16", dense_slot<&Dense::settle, kBF16>},
    {"settle_int8", dense_slot<&Dense::settle, kI8>},
    {"settle_uint8", dense_slot<&Dense::settle, kU8>},
    {"encode_f16", dense_slot<&Dense::encode, kF16>},
    {"encode_bf16", dense_slot<&Dense::encode, kBF16>},
    {"quantize", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.quantize); }},
    {"tile_f32", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.tile.f32); }},
    {"tile_u8", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.tile.u8); }},
    {"bits_xor", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.bits.xor_counts); }},
    {"bits_and", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.bits.and_counts); }},
    {"bits_select", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.bits.select); }},
    {"bits_interleave", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.bits.interleave); }},
    {"bits_hamming", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.bits.hamming_tile); }},
    {"bits_planes", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.bits.planes); }},
    {"codes_dot2", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.codes.dot2); }},
    {"codes_dot4", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.codes.dot4); }},
    {"codes_dot8", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.codes.dot8); }},
    {"codes_sum4", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.codes.sum4); }},
    {"codes_sum8", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.codes.sum8); }},
    {"codes_sign_tables", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.codes.sign_tables); }},
    {"codes_estimate", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.codes.estimate); }},
    {"codes_row_dot", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.codes.row_dot); }},
    {"codes_nearest", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.codes.nearest); }},
    {"codes_hadamard", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.codes.hadamard); }},
    {"select_threshold", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.select.threshold); }},
    {"select_keep", [](const KernelTable& t) { return reinterpret_cast<const void*>(t.select.keep); }},
};

}  // namespace

const KernelTable& active() {
    static const KernelTable& table = choose();
    return table;
}

const KernelTable* by_name(std::string_view name) {
    for (const KernelTable& table : tables()) {
        if (name == table.name) return &table;
    }
    return nullptr;
}

std::vector<std::string_view> available() {
    std::vector<std::string_view> out;
    for (const KernelTable& table : tables()) out.emplace_back(table.name);
    return out;
}

std::vector<SlotLevel> slots(const KernelTable& table) {
    std::vector<SlotLevel> out;
    for (const Slot& slot : kSlots) {
        for (const KernelTable& level : tables()) {  // the lowest level with this address is the one that filled it
            if (slot.address(level) == slot.address(table)) {
                out.push_back({slot.name, level.name});
                break;
            }
        }
    }
    return out;
}

}  // namespace nearfield::kernels
