#!/bin/sh
# A recent Mesa, and the Khronos validation layers, beside whatever this machine has installed.
#
#   sh scripts/recent-mesa.sh                         brings it and says where it is
#   sh scripts/recent-mesa.sh PROGRAM ARGUMENTS...    brings it if it isn't there, and runs the program with it
#   sh scripts/recent-mesa.sh cargo test ...          cargo's test binaries run with it; cargo itself does not
#
# Mesa's software driver, with all the libraries that it needs down to the C library, comes from Debian's release that
# SHADEGRAD_MESA_SUITE names (forky), and is unpacked into a folder of the user's cache: nothing is installed, and no
# root is needed. Programs run by that folder's dynamic linker, since its libraries need a newer C library than older
# systems have. So programs that they start in turn don't have it.
#
# That Mesa has matrix units: a test that needs some and finds none fails, unless they, `f16` or everything optional are
# turned off, or SHADEGRAD_REQUIRE_MATRIX_UNITS is set to something else than 1.
#
# It needs a system with apt-get and Debian's keyring: Debian itself, or another one where SHADEGRAD_DEBIAN_MIRROR names
# a mirror. About 80 MB are downloaded, and 250 MB kept; remove the folder to have it brought anew.
set -eu

suite=${SHADEGRAD_MESA_SUITE:-forky}
packages='mesa-vulkan-drivers libvulkan1 vulkan-validationlayers'
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'recent mesa: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
[ -n "$cache" ] || fail "neither XDG_CACHE_HOME nor HOME says where to keep it"
root=$cache/shadegrad/mesa-$suite

# mirrors: the addresses that this system has Debian's packages from.
mirrors() {
    if [ -n "${SHADEGRAD_DEBIAN_MIRROR:-}" ]; then
        printf '%s\n' "$SHADEGRAD_DEBIAN_MIRROR"
    else
        # shellcheck disable=SC2016 # apt-get's own variable
        apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
            sed 's,/*$,,' | grep '/debian$' | sort -u
    fi
}

# apt WORDS...: apt-get with the lists, the archives and the (empty) state in $work alone.
apt() {
    apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status" \
        -o Dir::State::extended_states="$work/extended_states" -o Dir::Cache="$work" \
        -o Dir::Cache::archives="$work/archives" -o Debug::NoLocking=true -o APT::Sandbox::User=root \
        -o Acquire::Languages=none -o Acquire::Retries=3 "$@" </dev/null
}

bring() {
    for tool in apt-get dpkg-deb; do
        command -v "$tool" >/dev/null 2>&1 ||
            fail "no $tool: it is made of Debian's packages; elsewhere, update the system's Mesa and run without this script"
    done
    [ -r "$keyring" ] || fail "no $keyring: install debian-archive-keyring"
    mkdir -p "${root%/*}" || fail "can't make ${root%/*}"
    work=$(mktemp -d "$root.XXXXXX") || fail "can't make a folder in ${root%/*}"
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/root"
    : >"$work/status"

    from=
    for mirror in $(mirrors); do
        printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" >"$work/sources.list"
        if apt update >"$work/log" 2>&1 && ! grep -q '^[EW]:' "$work/log"; then
            from=$mirror
            break
        fi
        cat "$work/log" >&2
    done
    [ -n "$from" ] || fail "no mirror with $suite: set SHADEGRAD_DEBIAN_MIRROR to the address of one, such as apt's sources name"
    say "downloading $packages and what they need ($suite, from $from)"
    # shellcheck disable=SC2086 # a list of packages
    apt install -y --no-install-recommends --download-only $packages >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        fail "the download failed"
    }
    for package in "$work"/archives/*.deb; do
        dpkg-deb -x "$package" "$work/root" || fail "can't unpack ${package##*/}"
    done
    # Drivers of real GPUs, other layers, and what is only read by people, are of no use here.
    (
        cd "$work/root"
        find usr/lib -name 'libvulkan_*.so' ! -name libvulkan_lvp.so -delete
        rm -rf etc usr/bin usr/share/[!v]* usr/share/vulkan/implicit_layer.d usr/lib/*/gconv usr/lib/*/libVkLayer_[IM]*
        find usr/share/vulkan -name '*.json' ! -name 'lvp_icd*' ! -name VkLayer_khronos_validation.json -delete
    )
    dpkg-deb -f "$work"/archives/mesa-vulkan-drivers_*.deb Version >"$work/root/version"
    # Another run may have been faster.
    mv -T "$work/root" "$root" 2>/dev/null || [ -f "$root/version" ] || fail "can't move it to $root"
    rm -rf "$work"
    trap - EXIT HUP INT TERM
}

[ -f "$root/version" ] || bring
linker=$(find "$root/usr" -name 'ld-linux*.so.*' | head -n 1)
libraries=$(find "$root/usr/lib" -name libvulkan_lvp.so)
driver=$(find "$root/usr/share/vulkan/icd.d" -name 'lvp_icd*.json')
if [ -z "$linker" ] || [ -z "$libraries" ] || [ -z "$driver" ]; then
    fail "something is missing in $root: remove it and try again"
fi

case ${1-} in
'')
    say "Mesa $(cat "$root/version") is in $root; run programs with it by: sh scripts/recent-mesa.sh PROGRAM ARGUMENTS..."
    ;;
cargo)
    script=$(cd "$(dirname "$0")" && pwd)/${0##*/}
    shift
    command=$1
    shift
    exec cargo "$command" --config "target.'cfg(all())'.runner=['sh','$script']" "$@"
    ;;
*)
    # The machine's own layers belong to its own libraries. wgpu looks for validation layers in debug builds: they are there
    # only for who asks for them.
    layers=$root/none
    [ -z "${VK_INSTANCE_LAYERS:-}" ] || layers=$root/usr/share/vulkan/explicit_layer.d
    case ,${SHADEGRAD_MATRIX_UNITS:-},${SHADEGRAD_F16:-},${SHADEGRAD_PORTABLE:-}, in
    *,off,* | *,1,*) ;;
    *) export SHADEGRAD_REQUIRE_MATRIX_UNITS="${SHADEGRAD_REQUIRE_MATRIX_UNITS:-1}" ;;
    esac
    export VK_DRIVER_FILES="$driver" VK_LAYER_PATH="$layers" VK_LOADER_LAYERS_DISABLE='~implicit~'
    exec "$linker" --library-path "${libraries%/*}" "$@"
    ;;
esac
