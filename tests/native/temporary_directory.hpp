// A directory that is empty at first and removed at the end.
#pragma once

#include <filesystem>
#include <iterator>
#include <random>
#include <string>

struct TemporaryDirectory {
    std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("nearfield-test-" + std::to_string(std::random_device{}()));

    TemporaryDirectory() { std::filesystem::create_directory(path); }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory() { std::filesystem::remove_all(path); }

    size_t files() const { return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path), {})); }
};
