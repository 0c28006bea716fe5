#!/bin/sh
# Tests scripts/setup-web.sh in made-up systems: a folder stands for the root, and a PATH of stubs for the programs.
# Nothing is installed and the network is not used.
#
#   sh scripts/test-setup-web.sh            with sh
#   TEST_SHELL=dash sh scripts/test-setup-web.sh
# shellcheck disable=SC2016 # what is written into the stubs is expanded there
set -u

here=$(cd "$(dirname "$0")" && pwd)
script=$here/setup-web.sh
shell=$(command -v "${TEST_SHELL:-sh}") || { echo "no shell ${TEST_SHELL:-sh}" >&2; exit 1; }
env=$(command -v env)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

passed=0
failed=0

# ---- a made-up system -----------------------------------------------------------------------------------------------

# system NAME TOOL...: a fresh system with these programs. `rustc` is rustup's, whose target is missing.
system() {
    case_name=$1
    shift
    rm -rf "${work:?}"/*
    root="$work/a root"
    path=$work/path
    log=$work/log
    mkdir -p "$root/usr/bin" "$path"
    : >"$log"
    user=0
    stub=works
    for tool in env mkdir; do ln -s "$(command -v "$tool")" "$path/$tool"; done
    printf '#!/bin/sh\necho "$USER_ID"\n' >"$path/id"
    chmod +x "$path/id"
    for tool in "$@"; do stub_tool "$tool"; done
}

stub_tool() {
    case $1 in
    rustc) printf '#!/bin/sh\necho "$SHADEGRAD_WEB_ROOT/rustup"\n' >"$path/rustc" ;;
    rustup)
        cat >"$path/rustup" <<'STUB'
#!/bin/sh
echo "rustup $*" >>"$LOG"
[ "$STUB" = works ] && mkdir -p "$SHADEGRAD_WEB_ROOT/rustup/lib/rustlib/$3/lib"
STUB
        ;;
    sudo)
        cat >"$path/sudo" <<'STUB'
#!/bin/sh
echo "sudo $*" >>"$LOG"
[ "$1" != -n ] || shift
exec "$@"
STUB
        ;;
    apt-get)
        cat >"$path/apt-get" <<'STUB'
#!/bin/sh
echo "apt-get $*" >>"$LOG"
case $STUB in
apt-fails) exit 100 ;;
apt-brings-nothing) exit 0 ;;
esac
for package in "$@"; do
    case $package in
    rust-web-src)
        mkdir -p "$SHADEGRAD_WEB_ROOT/usr/lib/rustlib/src/rust/library"
        : >"$SHADEGRAD_WEB_ROOT/usr/lib/rustlib/src/rust/library/Cargo.lock"
        ;;
    rustc-web | cargo-web) file=$SHADEGRAD_WEB_ROOT/usr/bin/${package%-web} ;;
    binaryen) file=$BIN/wasm-opt ;;
    nodejs) file=$BIN/node ;;
    chromium | npm) file=$BIN/$package ;;
    esac
    [ -n "${file-}" ] || continue
    printf '#!/bin/sh\necho "$SHADEGRAD_WEB_ROOT/usr"\n' >"$file"
    "$CHMOD" +x "$file"
done
STUB
        ;;
    *) printf '#!/bin/sh\n' >"$path/$1" ;;
    esac
    chmod +x "$path/$1"
}

target() { mkdir -p "$root/rustup/lib/rustlib/wasm32-unknown-unknown/lib"; }

# ---- checks ---------------------------------------------------------------------------------------------------------

# run STATUS LOG WORD...: the script with these words ends so, after exactly these calls.
run() {
    want=$1 calls=$2
    shift 2
    "$env" -i PATH="$path" BIN="$path" CHMOD="$(command -v chmod)" LOG="$log" USER_ID="$user" STUB="$stub" \
        SHADEGRAD_WEB_ROOT="$root" "$shell" "$script" "$@" </dev/null >"$work/out" 2>"$work/err"
    status=$?
    check "exits $want, not $status" equals "$status" "$want"
    check "calls '$(cat "$log")', not '$calls'" equals "$(cat "$log")" "$calls"
    if [ "$want" = 0 ]; then check "nothing on stderr" equals "$(cat "$work/err")" ""; fi
    : >"$log"
}

check() { # check WHAT COMMAND...: one check; shows the run when it fails
    what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED %s: %s\n' "$case_name" "$what"
        sed 's/^/    | /' "$work/out" "$work/err"
    fi
}

equals() { [ "$1" = "$2" ]; }
says() { grep -qF -e "$1" "$work/out"; }
complains() { grep -qF -e "$1" "$work/err"; }

rustup='rustup target add wasm32-unknown-unknown'
apt() { # apt PACKAGES: the calls that install them
    printf 'apt-get update -q\napt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 %s' "$1"
}
debian='rustc-web cargo-web rust-web-src'

system "all is there" rustc cargo rustup wasm-opt apt-get; target
run 0 ""
check "names the compiler" says "compiler: rustc, which has wasm32-unknown-unknown"
check "names wasm-opt" says "wasm-opt: $path/wasm-opt"

system "the target is missing" rustc cargo rustup wasm-opt apt-get
run 0 "$rustup"
run 0 ""

system "rustup can't fetch it" rustc cargo rustup wasm-opt apt-get; stub=offline
run 0 "$rustup
$(apt "$debian")"
check "says so" says "rustup could not"
check "names the system's compiler" says "compiler: $root/usr/bin/rustc, with the sources of its standard library"
run 0 ""

system "no Rust at all" apt-get
run 0 "$(apt "$debian binaryen")"
run 0 ""

system "a compiler without its cargo" rustc wasm-opt apt-get; target
run 0 "$(apt "$debian")"

system "wasm-opt is missing" rustc cargo rustup apt-get; target
run 0 "$(apt binaryen)"
run 0 ""

system "for tests" rustc cargo rustup apt-get; target
run 0 "$(apt 'binaryen chromium nodejs npm')" tests
run 0 "" tests
check "names the browser" says "chromium: $path/chromium"

system "with sudo" rustc cargo apt-get sudo; target; user=1000
install="env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 binaryen"
run 0 "sudo -n apt-get update -q
apt-get update -q
sudo -n $install
${install#* * }"

system "neither root nor sudo" rustc cargo apt-get; target; user=1000
run 1 ""
check "says what to run" complains "as root, run: apt-get update && apt-get install binaryen"

system "no apt-get" rustc cargo
run 1 ""
check "says what is missing" complains "$debian binaryen"
check "says what to do" complains "$rustup"

system "the installation fails" rustc cargo apt-get; target; stub=apt-fails
run 1 "$(apt binaryen)"
check "says what to run" complains "the installation failed: as root, run: apt-get update"

system "the installation brings no compiler" wasm-opt apt-get; stub=apt-brings-nothing
run 1 "$(apt "$debian")"
check "says so" complains "still no compiler for wasm32-unknown-unknown"

system "the installation brings no wasm-opt" rustc cargo apt-get; target; stub=apt-brings-nothing
run 1 "$(apt binaryen)"
check "says so" complains "still missing after the installation: wasm-opt: as root"

system "an unknown word" rustc cargo wasm-opt apt-get; target
run 1 "" test
check "says what it knows" complains "don't know 'test'"

printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
