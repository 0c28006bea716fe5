#!/bin/sh
# Makes sure that this machine can build and test the feature `mpi`: an MPI library with its compiler wrapper and its
# launcher, and libclang, by which its header is read.
#
#   sh scripts/setup-mpi.sh          Open MPI, unless another one is there
#   sh scripts/setup-mpi.sh mpich    MPICH beside it, for scripts/mpich.sh
#
# What is there is left alone. Elsewhere than on Debian and Ubuntu it says what to install.
set -eu

have() { command -v "$1" >/dev/null 2>&1; }
has_clang() { [ -n "${LIBCLANG_PATH:-}" ] || ls /usr/lib/llvm-*/lib/libclang* >/dev/null 2>&1 || have llvm-config; }

case "${1:-}" in
'')
    compiler=mpicc launcher=mpirun
    packages='libopenmpi-dev openmpi-bin libclang-dev'
    elsewhere='; Fedora: dnf install openmpi-devel clang-devel; macOS: brew install open-mpi llvm'
    ;;
mpich)
    compiler=mpicc.mpich launcher=mpirun.mpich
    packages='libmpich-dev mpich libclang-dev'
    elsewhere=''
    ;;
*)
    printf 'mpi: %s is neither nothing nor mpich\n' "$1" >&2
    exit 2
    ;;
esac
if ! { have "$compiler" && have "$launcher" && has_clang; }; then
    if ! have apt-get || [ "$(id -u)" != 0 ]; then
        printf 'mpi: install an MPI library and libclang (Debian/Ubuntu: apt-get install -y %s%s)\n' "$packages" "$elsewhere" >&2
        exit 1
    fi
    # shellcheck disable=SC2086 # a list of packages
    apt-get -q update && apt-get -q install -y --no-install-recommends $packages
fi
printf 'mpi: %s\n' "$("$launcher" --version | grep -m 1 -e 'Open MPI' -e 'Version')"
