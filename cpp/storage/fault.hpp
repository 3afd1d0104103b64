// Faults for the tests of saving: every system call that changes a file or a directory goes through fault_at_call().
#pragma once

#include <cerrno>
#include <cstdint>

namespace nearfield::storage {

enum class Fault { off, fail, kill };

// Starts counting calls anew. Call number `at` (from 1; 0 is none) then fails with errno `error`, or ends the process
// on the spot with exit status kKilled. Fault::off stops counting.
void set_fault(Fault fault, uint64_t at = 0, int error = EIO);

// Calls counted since set_fault.
uint64_t fault_calls();

inline constexpr int kKilled = 137;

// Asked before each call: the errno with which it must fail, or 0.
int fault_at_call();

}  // namespace nearfield::storage
