#!/usr/bin/env bash
# Cross-compiles the core and its native tests for 64-bit ARM and runs them under qemu, on a CPU without the dot-product
# instructions and on one with everything that qemu has. Debian packages: g++-aarch64-linux-gnu qemu-user.
# Usage: scripts/test_aarch64.sh [build folder]
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/aarch64}

cmake -S . -B "$build" -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64-linux-gnu.cmake" -DNEARFIELD_TESTS=ON \
    -DNEARFIELD_WERROR=ON
cmake --build "$build" --parallel "$(nproc)"
python3 scripts/check_isa.py "$build" --expect neon neondot

for cpu in cortex-a72 max; do
    for test in "$build"/tests/native/test_* "$build"/tests/native/stress_*; do
        [[ -f $test && -x $test ]] || continue
        echo "== ${test##*/} on $cpu"
        qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu "$cpu" "$test"
    done
done
