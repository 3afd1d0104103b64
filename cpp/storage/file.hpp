// Files of the operating system: one that is read or mapped, one that replaces another, one that is only a store. What
// fails throws std::filesystem::filesystem_error with the error code and the path that the caller gave.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace nearfield::storage {

// A path for error messages.
std::string display_name(const std::filesystem::path& path);

// A file descriptor, closed at the end.
class Descriptor {
  public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() { close(); }

    int get() const { return fd_; }
    void set(int fd);  // closes the one before
    int close();       // 0, or -1 and errno

  private:
    int fd_;
};

// A regular file, open for reading.
class InputFile {
  public:
    explicit InputFile(const std::filesystem::path& path);

    uint64_t size() const { return size_; }
    // Reads at an offset; FileFormatError if the file ends before.
    void read(uint64_t offset, std::byte* to, size_t bytes) const;
    // Maps the whole file, which must not be empty, read-only until the last copy of the pointer goes.
    std::shared_ptr<const std::byte> map() const;

  private:
    std::filesystem::path path_;
    Descriptor file_;
    uint64_t size_ = 0;
};

// A file that is written beside its target and takes the target's place in one step when it is complete; without
// commit() it is removed. Symbolic links to the target are followed.
class ReplacementFile {
  public:
    explicit ReplacementFile(const std::filesystem::path& target);
    ReplacementFile(const ReplacementFile&) = delete;
    ReplacementFile& operator=(const ReplacementFile&) = delete;
    ~ReplacementFile();

    // Gives the file its length, where nothing is written zeros, and the disk's room for it where the system can.
    void reserve(uint64_t bytes);
    // At any offset; threads may write different ranges, and read what nobody writes, at the same time.
    void write(uint64_t offset, const std::byte* data, size_t bytes);
    void read(uint64_t offset, std::byte* to, size_t bytes) const;
    void commit();  // makes it durable under the target's name

  private:
    void create();

    std::filesystem::path named_;   // as the caller wrote it
    std::filesystem::path target_;  // with symbolic links followed
    std::filesystem::path temporary_;
    Descriptor directory_;
    Descriptor file_;
};

// A file without a name for what does not fit into memory, gone with this object.
class ScratchFile {
  public:
    explicit ScratchFile(const std::filesystem::path& directory);

    uint64_t size() const { return size_; }
    // Adds bytes at the end. They are buffered: the last ones may never reach the disk.
    void append(const std::byte* data, size_t bytes);
    // Reads bytes [offset, offset + bytes), which must have been appended. Threads may read at the same time, while
    // none appends.
    void read(uint64_t offset, std::byte* to, size_t bytes) const;

  private:
    std::filesystem::path directory_;  // for error messages
    Descriptor file_;
    uint64_t size_ = 0;
    std::vector<std::byte> buffer_;  // the last bytes, not yet in the file
};

}  // namespace nearfield::storage
