#!/bin/sh
# Runs a command of cargo with MPICH where Open MPI is what `mpicc` and `mpirun` are (scripts/setup-mpi.sh mpich):
#
#   sh scripts/mpich.sh test --all-features --test ranks
#
# The crate mpi-sys doesn't notice that it is to be built for another library. A setting of its profile that changes nothing
# keeps both builds apart in one target directory, with what depends on them; the tests build example programs by it, too.
set -eu

command -v mpicc.mpich >/dev/null || {
    printf 'mpich: run scripts/setup-mpi.sh mpich\n' >&2
    exit 1
}
export MPICC=mpicc.mpich
SHADEGRAD_CARGO_CONFIG=$(cd "$(dirname "$0")" && pwd)/mpich.toml
export SHADEGRAD_CARGO_CONFIG
exec cargo --config "$SHADEGRAD_CARGO_CONFIG" "$@"
