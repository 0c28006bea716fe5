#!/bin/sh
# Makes sure that this machine can build the browser page (docs/web.md), or also test it.
#
#   sh scripts/setup-web.sh           a compiler for WebAssembly, and wasm-opt
#   sh scripts/setup-web.sh tests     Chromium, Node.js and npm as well
#
# What is there already is reported and left alone. The compiler's target comes from rustup. Where rustup can't fetch it, or
# isn't there, Debian's compiler with the sources of its standard library is installed; the build compiles those, for about
# a minute. The other programs come from apt-get. Run it as often as you like. Exit status: 0 when all is there at the end,
# 1 with a line saying what to install when not.
#
# SHADEGRAD_WEB_ROOT is put in front of the system's compiler; scripts/test-setup-web.sh uses it.
set -eu

root=${SHADEGRAD_WEB_ROOT:-}
target=wasm32-unknown-unknown

say() { printf 'web: %s\n' "$*"; }
fail() { printf 'web: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

case ${1-} in
'') programs=wasm-opt ;;
tests) programs='wasm-opt chromium node npm' ;;
*) fail "don't know '$1': no word, or the word tests" ;;
esac

# compiler_has FILE: sets `compiler` to the first one, of the PATH or the system, whose lib/rustlib has FILE, or fails.
# web/build/src/toolchain.rs looks for the same.
compiler_has() {
    for compiler in rustc "$root/usr/bin/rustc"; do
        # Debian's compiler is of no use without its cargo.
        if ! have "$compiler" || ! have "${compiler%rustc}cargo"; then continue; fi
        sysroot=$("$compiler" --print sysroot 2>/dev/null) || continue
        if [ -e "$sysroot/lib/rustlib/$1" ]; then return 0; fi
    done
    return 1
}

find_compiler() {
    if compiler_has "$target/lib"; then
        found="$compiler, which has $target"
    elif compiler_has src/rust/library/Cargo.lock; then
        found="$compiler, with the sources of its standard library"
    else
        return 1
    fi
}

# missing_programs: those that are not there.
missing_programs() {
    for program in $programs; do
        have "$program" || printf '%s ' "$program"
    done
}

if ! find_compiler && have rustup; then
    say "adding $target to the toolchain of rustup"
    rustup target add "$target" </dev/null || say "rustup could not; looking for a compiler of the system"
fi

packages=
find_compiler || packages='rustc-web cargo-web rust-web-src'
for program in $(missing_programs); do
    case $program in
    wasm-opt) packages="$packages binaryen" ;;
    node) packages="$packages nodejs" ;;
    *) packages="$packages $program" ;;
    esac
done
packages=${packages# }

if [ -n "$packages" ]; then
    by_hand="apt-get update && apt-get install $packages"
    have apt-get || fail "missing, and no apt-get to install it with: $packages (as Debian's packages are called)." \
        "For the compiler, run: rustup target add $target; wasm-opt is a part of binaryen"
    # Passwords are asked for only where someone is there to type them.
    if [ "$(id -u)" -eq 0 ]; then
        become=
    elif have sudo; then
        become=sudo
    elif have doas; then
        become=doas
    else
        fail "missing, and neither sudo nor doas to install it with: as root, run: $by_hand"
    fi
    if [ -n "$become" ] && ! [ -t 0 ]; then become="$become -n"; fi

    as_root() {
        printf '+ %s\n' "${become:+$become }$*"
        # shellcheck disable=SC2086 # empty, or a command and its option
        $become "$@" </dev/null
    }
    say "installing with apt-get: $packages"
    # A stale or unreachable list among several need not stop the installation.
    as_root apt-get update -q || say "apt-get update failed; going on with the lists that are there"
    # shellcheck disable=SC2086 # a list of packages
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        -o DPkg::Lock::Timeout=120 $packages || fail "the installation failed: as root, run: $by_hand"
    find_compiler || fail "still no compiler for $target after the installation: as root, run: $by_hand"
    missing=$(missing_programs)
    [ -z "$missing" ] || fail "still missing after the installation: ${missing% }: as root, run: $by_hand"
fi

say "compiler: $found"
for program in $programs; do
    say "$program: $(command -v "$program")"
done
