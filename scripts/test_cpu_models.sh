#!/usr/bin/env bash
# Imports the installed package and searches with it on emulated x86 CPUs: a Nehalem, which has nothing beyond the
# baseline, and a Haswell. Debian package: qemu-user. Usage: scripts/test_cpu_models.sh [python]
set -euo pipefail
python=$(command -v "${1:-python}")

program='
import sys
import numpy as np
import nearfield as nf

level = nf.cpu_info()["level"]
vectors = np.random.default_rng(0).standard_normal((200, 33)).astype(np.float32)
for codec in ["f32", "f16", "bf16"]:
    index = nf.Flat(33, metric="l2", codec=codec)
    index.add(vectors)
    ids, scores = index.search(vectors[:5], k=3)
    assert ids[:, 0].tolist() == [0, 1, 2, 3, 4], (codec, ids)
print(f"{sys.argv[1]}: kernel level {level}")
assert level == sys.argv[2], f"expected {sys.argv[2]}"
'
# Without the features, useless to a program, that qemu warns of not emulating.
haswell=Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid
# -I: not a folder named nearfield that happens to be here, but what is installed.
qemu-x86_64 -cpu Nehalem "$python" -I -c "$program" Nehalem scalar
qemu-x86_64 -cpu "$haswell" "$python" -I -c "$program" Haswell avx2
