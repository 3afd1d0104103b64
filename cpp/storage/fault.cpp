#include "storage/fault.hpp"

#include <atomic>
#include <cstdlib>

namespace nearfield::storage {
namespace {

std::atomic<Fault> active_fault{Fault::off};
std::atomic<uint64_t> calls{0}, fault_call{0};
std::atomic<int> fault_error{0};

}  // namespace

void set_fault(Fault fault, uint64_t at, int error) {
    calls = 0;
    fault_call = at;
    fault_error = error;
    active_fault = fault;
}

uint64_t fault_calls() { return calls; }

int fault_at_call() {
    const Fault fault = active_fault.load(std::memory_order_relaxed);
    if (fault == Fault::off || ++calls != fault_call) return 0;
    if (fault == Fault::kill) std::_Exit(kKilled);
    return fault_error;
}

}  // namespace nearfield::storage
