#!/bin/sh
# Makes sure that this machine has a Vulkan driver, so that shadegrad finds an adapter.
#
#   sh scripts/setup-vulkan.sh
#
# A driver that is there already is reported and left alone. Otherwise Mesa's software driver (lavapipe, which runs
# on the processor) is installed with apt-get, dnf, pacman or apk. Run it as often as you like. Exit status: 0 when a
# driver is there at the end, 1 with a line saying what to install when not.
#
# SHADEGRAD_VULKAN_ROOT is put in front of every path looked at; scripts/test-setup-vulkan.sh uses it.
set -eu

root=${SHADEGRAD_VULKAN_ROOT:-}

say() { printf 'vulkan: %s\n' "$*"; }
fail() { printf 'vulkan: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# find_library NAME: sets `found` to the path of a shared library the dynamic linker would load, or fails.
find_library() {
    old_ifs=$IFS
    IFS=:
    # shellcheck disable=SC2086 # LD_LIBRARY_PATH is a list of folders
    set -- "$1" ${LD_LIBRARY_PATH:-}
    IFS=$old_ifs
    library=$1
    shift
    for folder in "$@" /usr/lib /lib /usr/lib64 /lib64 /usr/local/lib /usr/local/lib64 /run/opengl-driver/lib \
        "$root"/usr/lib/*-linux-*/ "$root"/lib/*-linux-*/; do
        case $folder in "$root"/*) ;; *) folder=$root$folder ;; esac
        found=${folder%/}/$library
        if [ -f "$found" ]; then return 0; fi
    done
    # Debian keeps ldconfig out of the PATH of ordinary users, and musl's ldconfig prints no list.
    for ldconfig in ldconfig "$root/sbin/ldconfig" "$root/usr/sbin/ldconfig"; do
        have "$ldconfig" || continue
        found=$("$ldconfig" -p 2>/dev/null | sed -n "s|^[[:space:]]*$library .*=> ||p" | head -n 1) || found=
        if [ -n "$found" ] && [ -f "$root$found" ]; then found=$root$found; return 0; fi
    done
    return 1
}

# driver_works MANIFEST: the driver's JSON manifest names a library that exists. A manifest can outlive its library,
# and a container can be given the one without the other.
driver_works() {
    [ -r "$1" ] || return 1
    library_path=$(tr -d '\n' <"$1" | sed -n 's/.*"library_path"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' |
        sed 's,\\/,/,g')
    case $library_path in
    '') return 1 ;;
    /*) [ -f "$root$library_path" ] ;;
    */*) [ -f "${1%/*}/$library_path" ] ;; # relative to the manifest
    *) find_library "$library_path" ;;
    esac
}

# driver_in PATH...: sets `driver` to the first working manifest among these files and folders, or fails.
driver_in() {
    for place in "$@"; do
        for driver in "$place" "$place"/*.json; do
            if [ -f "$driver" ] && driver_works "$driver"; then return 0; fi
        done
    done
    return 1
}

# The variables, when set, replace the loader's own search.
chosen_drivers=${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}

find_driver() {
    old_ifs=$IFS
    IFS=:
    if [ -n "$chosen_drivers" ]; then
        # shellcheck disable=SC2086 # a list of files and folders
        set -- $chosen_drivers
    else
        # The folders of the loader, in its order.
        # shellcheck disable=SC2086 # lists of folders
        set -- "${XDG_CONFIG_HOME:-${HOME:-}/.config}" ${XDG_CONFIG_DIRS:-/etc/xdg} /usr/local/etc /etc \
            "${XDG_DATA_HOME:-${HOME:-}/.local/share}" ${XDG_DATA_DIRS:-} /usr/local/share /usr/share \
            /run/opengl-driver/share
        for base in "$@"; do
            shift
            set -- "$@" "$root$base/vulkan/icd.d"
        done
    fi
    IFS=$old_ifs
    driver_in "$@"
}

vulkan_works() {
    find_library libvulkan.so.1 || return 1
    loader=$found
    find_driver
}

case $(uname -s) in
Darwin) say "not needed on macOS: Metal is built in"; exit 0 ;;
MINGW* | MSYS* | CYGWIN*) say "not needed on Windows: Direct3D 12 is built in"; exit 0 ;;
esac

if vulkan_works; then
    say "already there: driver $driver, loader $loader"
    exit 0
fi

if [ -n "$chosen_drivers" ] && ! find_driver; then
    fail "VK_DRIVER_FILES or VK_ICD_FILENAMES is set to '$chosen_drivers', which names no working driver," \
        "and nothing else is looked at while it is set: unset or correct it, then run this script again"
fi

if have apt-get; then
    manager=apt-get packages='mesa-vulkan-drivers libvulkan1'
    by_hand="apt-get update && apt-get install $packages"
elif have dnf; then
    manager=dnf packages='mesa-vulkan-drivers vulkan-loader'
    by_hand="dnf install $packages"
elif have pacman; then
    manager=pacman packages='vulkan-swrast vulkan-icd-loader'
    by_hand="pacman -Syu $packages"
elif have apk; then
    manager=apk packages='mesa-vulkan-swrast vulkan-loader'
    by_hand="apk add $packages"
else
    fail "no driver, and none of apt-get, dnf, pacman and apk to install one with: install the Vulkan loader" \
        "(libvulkan.so.1) and Mesa's software driver, lavapipe (libvulkan_lvp.so and its lvp_icd JSON file)," \
        "with your system's package manager"
fi

# Passwords are asked for only where someone is there to type them.
if [ "$(id -u)" -eq 0 ]; then
    become=
elif have sudo; then
    become=sudo
elif have doas; then
    become=doas
else
    fail "no driver, and neither sudo nor doas to install one with: as root, run: $by_hand"
fi
if [ -n "$become" ] && ! [ -t 0 ]; then become="$become -n"; fi

as_root() {
    printf '+ %s\n' "${become:+$become }$*"
    # shellcheck disable=SC2086 # empty, or a command and its option
    $become "$@" </dev/null
}

install_driver() {
    # shellcheck disable=SC2086 # a list of packages
    case $manager in
    apt-get)
        # A stale or unreachable list among several need not stop the installation.
        as_root apt-get update -q || say "apt-get update failed; going on with the lists that are there"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
            -o DPkg::Lock::Timeout=120 $packages
        ;;
    dnf) as_root dnf install -y $packages ;;
    pacman)
        # Without lists (a fresh image) they must be fetched, and Arch supports that only together with an upgrade.
        # With lists there is no reason to upgrade somebody's whole system.
        refresh=y
        for list in "$root"/var/lib/pacman/sync/*.db; do
            if [ -f "$list" ]; then refresh=; fi
        done
        as_root pacman "-S${refresh:+yu}" --needed --noconfirm $packages
        ;;
    apk) as_root apk add --no-cache $packages ;;
    esac
}

say "no driver found; installing Mesa's software driver with $manager: $packages"
install_driver || fail "the installation failed: as root, run: $by_hand"
vulkan_works || fail "still no working driver after the installation: as root, run: $by_hand"
say "installed: driver $driver, loader $loader"
