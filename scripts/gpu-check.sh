#!/usr/bin/env bash
# What to run on a GPU that is there for a few minutes: tests, those of matrix units first, then the figures that have a bar
# on GPUs, beside PyTorch's where it is there, and two ranks on one card against one.
#
#   bash scripts/gpu-check.sh pack [DIR]   builds for release and puts stripped programs into DIR (target/gpu-check)
#   bash scripts/gpu-check.sh run [DIR]    runs them there, six minutes at most, and prints one line for each and a last
#                                          one with the counts; what they print goes to DIR/out (or $OUT)
#
# `run` needs neither cargo nor the sources' build folder, only the checkout that the tests read their files from, at the
# same path as where they were built or with CARGO_MANIFEST_DIR's files there.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-}
dir=${2:-target/gpu-check}

# Tests that say most about kernels, the others if there is time; those that run programs are left to machines with cargo.
first=(golden differential iterations nan ops::indices ops::attention ops::matmul ops::norm ops::softmax ops::reduce)
# The rows of `cargo bench` with a bar, in f32 and mixed.
bars=(step/series step/char10m step/gpt2_small matmul/square/4096 matmul/d384 matmul/d768 attention/fused/8x2048
    attention/fused/1x2048 smollm)
limit=360

pack() {
    mkdir -p "$dir"
    rm -f "$dir"/test-* "$dir"/bench-* "$dir/ranks"
    local artifacts
    artifacts=$(cargo test --release --no-run --message-format=json 2>/dev/null)
    printf '%s\n' "$artifacts" | sed -n 's/.*"kind":\["test"\].*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p' |
        while read -r name path; do
            case $name in programs) continue ;; esac
            cp "$path" "$dir/test-$name"
        done
    artifacts=$(cargo bench --no-run --message-format=json 2>/dev/null)
    printf '%s\n' "$artifacts" | sed -n 's/.*"kind":\["bench"\].*"executable":"\([^"]*\)".*/\1/p' |
        while read -r path; do cp "$path" "$dir/bench-device"; done
    # Where there is no MPI, it is left out, and `run` says so.
    if command -v mpicc >/dev/null 2>&1; then
        cargo build --release --features mpi --example train_names
        cp target/release/examples/train_names "$dir/ranks"
        strip "$dir/ranks"
    fi
    strip "$dir"/test-* "$dir"/bench-*
    du -sh "$dir"
}

run() {
    local out=${OUT:-$dir/out} passed=0 failed=0 skipped=0 name
    mkdir -p "$out"
    # one NAME SECONDS COMMAND...: a line with how it ended.
    one() {
        local name=$1 seconds=$2 start=$SECONDS status=0
        shift 2
        if ((SECONDS + 5 > limit)); then
            skipped=$((skipped + 1))
            printf '%-24s no time left\n' "$name"
            return
        fi
        ((SECONDS + seconds > limit)) && seconds=$((limit - SECONDS))
        timeout "$seconds" "$@" >"$out/$name.txt" 2>&1 || status=$?
        if ((status == 0)); then passed=$((passed + 1)); else failed=$((failed + 1)); fi
        printf '%-24s %s, %d s\n' "$name" "$([ "$status" = 0 ] && echo ok || echo "FAILED ($status)")" $((SECONDS - start))
    }
    one matrix-units 60 env SHADEGRAD_REQUIRE_MATRIX_UNITS=1 "$dir/test-suite" attention::units matmul_half
    # The modules of `suite` one by one, so that each has its line and its time; those that leave no time for what follows are
    # run at the end.
    local skip=() all=$limit
    limit=150
    for name in "${first[@]}"; do
        ((SECONDS + 5 > limit)) && break
        one "${name//::/-}" 60 "$dir/test-suite" "$name::"
        skip+=(--skip "$name::")
    done
    limit=$all
    # Every figure that has a bar on GPUs; beside PyTorch's in the same turn where there is one that sees the card.
    if python3 -c 'import torch, transformers; assert torch.cuda.is_available()' 2>/dev/null; then
        one bench 200 python3 benches/peers/compare.py --device cuda --turns 1 --seconds 0.5 --table --binary "$dir/bench-device" \
            --only "${bars[@]}"
    else
        printf '%-24s left out: no PyTorch with transformers that sees a GPU\n' 'beside PyTorch'
        one bench 150 "$dir/bench-device" --bench "$(IFS='|' && echo "${bars[*]}")"
    fi
    if [ -x "$dir/ranks" ] && command -v mpirun >/dev/null 2>&1; then
        for name in 1 2; do
            one "ranks-$name" 30 mpirun --oversubscribe --allow-run-as-root -n "$name" "$dir/ranks" --steps 300 --eval-interval 0 \
                --final-eval-iters 1 --d-model 256 --n-heads 8 --batch-size 512
            grep 'mean.*ms/step' "$out/ranks-$name.txt" || true
        done
    else
        printf '%-24s left out: no mpirun, or packed without MPI\n' ranks
    fi
    for path in "$dir"/test-*; do
        name=${path##*/test-}
        if [ "$name" = suite ]; then
            one "$name" 120 "$path" "${skip[@]}"
        else
            one "$name" 30 "$path"
        fi
    done
    tail -n 80 "$out/bench.txt" 2>/dev/null || true
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    ((failed == 0 && skipped == 0))
}

case $mode in
pack) pack ;;
run) run ;;
*)
    sed -n '2,10p' "$0" >&2
    exit 2
    ;;
esac
