#!/bin/sh
# Makes sure that this machine can build and test the feature `mpi`: an MPI library with its compiler wrapper and its
# launcher, and libclang, by which its header is read.
#
#   sh scripts/setup-mpi.sh
#
# What is there is left alone. Elsewhere than on Debian and Ubuntu it says what to install.
set -eu

have() { command -v "$1" >/dev/null 2>&1; }
has_clang() { [ -n "${LIBCLANG_PATH:-}" ] || ls /usr/lib/llvm-*/lib/libclang* >/dev/null 2>&1 || have llvm-config; }

packages='libopenmpi-dev openmpi-bin libclang-dev'
if ! { have mpicc && have mpirun && has_clang; }; then
    if ! have apt-get || [ "$(id -u)" != 0 ]; then
        printf 'mpi: install an MPI library and libclang (Debian/Ubuntu: apt-get install -y %s; Fedora: dnf install openmpi-devel clang-devel; macOS: brew install open-mpi llvm)\n' "$packages" >&2
        exit 1
    fi
    # shellcheck disable=SC2086 # a list of packages
    apt-get -q update && apt-get -q install -y --no-install-recommends $packages
fi
printf 'mpi: %s\n' "$(mpirun --version | head -n 1)"
