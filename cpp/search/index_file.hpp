// What the files that read and write indexes share.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "search/code_store.hpp"
#include "storage/container.hpp"

namespace nearfield {

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
    return std::as_bytes(std::span(values));
}

// The type and shape of a store's tensor: (n, dim) elements where a row is nothing else, otherwise (n, stride) bytes;
// of groups (groups, stride).
TensorType stored_type(const Codec& codec);
std::vector<uint64_t> shape_of(const CodeStore& store, TensorType type, size_t n);
// Adds the tensor of a store's first n rows.
void add_rows(std::vector<TensorSource>& tensors, const std::string& name, const Codec& codec, const CodeStore& store,
              const CodeStore::Tail& tail, size_t n);
// Finds it in a file, and checks rows that have been read.
const std::byte* stored_rows(const Container& file, std::string_view name, const Codec& codec, const CodeStore& store,
                             size_t n);

// A tensor of an index file with the shape it must have.
const Tensor& expect(const Container& file, std::string_view name, TensorType type, std::vector<uint64_t> shape);
// A number in the metadata.
uint64_t number(const Container& file, std::string_view key);
std::vector<double> reals(const Container& file, std::string_view key, size_t n);
// A number as text that reads back as the same number, whatever the locale.
std::string decimal(double value);

}  // namespace nearfield
