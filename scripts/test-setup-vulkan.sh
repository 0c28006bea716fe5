#!/bin/sh
# Tests scripts/setup-vulkan.sh in made-up systems: a folder stands for the root, and a PATH of stubs stands for the
# package managers, sudo, uname, id and ldconfig. Nothing is installed and the network is not used.
#
#   sh scripts/test-setup-vulkan.sh            with sh
#   TEST_SHELL=dash sh scripts/test-setup-vulkan.sh
# shellcheck disable=SC2016 # what is written into the stubs is expanded there
set -u

here=$(cd "$(dirname "$0")" && pwd)
script=$here/setup-vulkan.sh
shell=$(command -v "${TEST_SHELL:-sh}") || { echo "no shell ${TEST_SHELL:-sh}" >&2; exit 1; }
env=$(command -v env)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

passed=0
failed=0
case_name=

# ---- a made-up system -----------------------------------------------------------------------------------------------

# system TOOL...: a fresh, empty root (its name has a space in it on purpose) and a PATH with stubs of these tools.
# A call of a stub is a line in the log. The package managers lay down a driver unless STUB says otherwise.
system() {
    rm -rf "${work:?}"/*
    root="$work/a root"
    path=$work/path
    log=$work/log
    mkdir -p "$root" "$path"
    : >"$log"
    settings=
    kernel=Linux
    user=0
    stub=installs
    for tool in sed tr head env mkdir; do ln -s "$(command -v "$tool")" "$path/$tool"; done
    printf '#!/bin/sh\necho "$KERNEL"\n' >"$path/uname"
    printf '#!/bin/sh\necho "$USER_ID"\n' >"$path/id"
    chmod +x "$path/uname" "$path/id"
    for tool in "$@"; do stub_tool "$tool"; done
}

stub_tool() {
    case $1 in
    sudo | doas)
        cat >"$path/$1" <<'STUB'
#!/bin/sh
echo "${0##*/} $*" >>"$LOG"
[ "$STUB" != no-password ] || exit 1
[ "$1" != -n ] || shift
exec "$@"
STUB
        ;;
    *)
        cat >"$path/$1" <<'STUB'
#!/bin/sh
echo "${0##*/} $*" >>"$LOG"
case "$*" in
update*) [ "$STUB" != update-fails ]; exit ;;
esac
case $STUB in
install-fails) exit 100 ;;
installs-nothing) exit 0 ;;
esac
share=$SHADEGRAD_VULKAN_ROOT/usr/share/vulkan/icd.d
mkdir -p "$share" "$SHADEGRAD_VULKAN_ROOT/usr/lib"
: >"$SHADEGRAD_VULKAN_ROOT/usr/lib/libvulkan.so.1"
: >"$SHADEGRAD_VULKAN_ROOT/usr/lib/libvulkan_lvp.so"
echo '{"ICD": {"library_path": "/usr/lib/libvulkan_lvp.so"}}' >"$share/lvp_icd.json"
STUB
        ;;
    esac
    chmod +x "$path/$1"
}

# ldconfig_stub FILE PATH: a tool whose `-p` lists libvulkan.so.1 at PATH.
ldconfig_stub() {
    mkdir -p "${1%/*}"
    {
        printf '#!/bin/sh\n[ "$1" = -p ] || exit 1\n'
        printf 'printf "\\tlibvulkan.so.1 (libc6,x86-64) => %s\\n"\n' "$2"
        printf 'printf "\\tlibz.so.1 (libc6,x86-64) => /usr/lib/libz.so.1\\n"\n'
    } >"$1"
    chmod +x "$1"
}

file() { # file PATH [TEXT]: a file below the root
    mkdir -p "$root${1%/*}"
    printf '%s\n' "${2-}" >"$root$1"
}

manifest() { # manifest PATH LIBRARY_PATH
    file "$1" "{
    \"ICD\": {
        \"api_version\": \"1.3.230\",
        \"library_path\": \"$2\"
    },
    \"file_format_version\": \"1.0.0\"
}"
}

loader() { file /usr/lib/libvulkan.so.1; }

driver() {
    file /usr/lib/libvulkan_lvp.so
    manifest /usr/share/vulkan/icd.d/lvp_icd.x86_64.json /usr/lib/libvulkan_lvp.so
}

# with NAME=VALUE: a variable of the runs that follow (one only)
with() { settings=$1; }

run() {
    "$env" -i PATH="$path" HOME=/home/somebody LOG="$log" KERNEL="$kernel" USER_ID="$user" STUB="$stub" \
        SHADEGRAD_VULKAN_ROOT="$root" ${settings:+"$settings"} "$shell" "$script" \
        </dev/null >"$work/out" 2>"$work/err"
    status=$?
}

# ---- checks ---------------------------------------------------------------------------------------------------------

check() { # check WHAT COMMAND...: one check; shows the run when it fails
    what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED %s: %s\n' "$case_name" "$what"
        sed 's/^/    | /' "$work/out" "$work/err" "$log"
    fi
}

lines() { [ "$(sed -n '$=' "$2")" = "$1" ]; }
equals() { [ "$1" = "$2" ]; }
says() { grep -qF -e "$1" "$work/out"; }
complains() { grep -qF -e "$1" "$work/err"; }
silent() { ! [ -s "$1" ]; }

already_there() { # already_there CASE
    case_name=$1
    run
    check "exits 0" equals "$status" 0
    check "says so" says "vulkan: already there"
    check "in one line" lines 1 "$work/out"
    check "nothing on stderr" silent "$work/err"
    check "calls nothing" silent "$log"
}

installs() { # installs CASE LOG: the calls are exactly LOG, and the next run finds the driver
    case_name=$1
    run
    check "exits 0" equals "$status" 0
    check "says what it does" says "vulkan: no driver found; installing"
    check "ends by naming the driver" says "vulkan: installed: driver $root/usr/share/vulkan/icd.d/lvp_icd.json"
    check "calls '$(cat "$log")', not '$2'" equals "$(cat "$log")" "$2"
    : >"$log"
    already_there "$1, the second time"
}

refuses() { # refuses CASE TEXT LOG: exit status 1, TEXT on stderr, the calls are exactly LOG
    case_name=$1
    run
    check "exits 1, not $status" equals "$status" 1
    check "complains: $2" complains "$2"
    check "calls '$(cat "$log")', not '$3'" equals "$(cat "$log")" "$3"
}

apt_update='apt-get update -q'
apt_install='apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 mesa-vulkan-drivers libvulkan1'
apt="$apt_update
$apt_install"
dnf='dnf install -y mesa-vulkan-drivers vulkan-loader'
pacman='pacman -S --needed --noconfirm vulkan-swrast vulkan-icd-loader'
pacman_fresh='pacman -Syu --needed --noconfirm vulkan-swrast vulkan-icd-loader'
apk='apk add --no-cache mesa-vulkan-swrast vulkan-loader'

# ---- already there --------------------------------------------------------------------------------------------------

system apt-get; loader; driver
already_there "loader and driver in /usr"
check "names the driver" says "$root/usr/share/vulkan/icd.d/lvp_icd.x86_64.json"
check "names the loader" says "$root/usr/lib/libvulkan.so.1"

system apt-get; driver; file /usr/lib/aarch64-linux-gnu/libvulkan.so.1
already_there "loader in a multiarch folder"

system apt-get; driver; file /usr/lib64/libvulkan.so.1
already_there "loader in /usr/lib64"

system apt-get; driver; file /odd/libvulkan.so.1; ldconfig_stub "$path/ldconfig" /odd/libvulkan.so.1
already_there "loader known to ldconfig only"

system apt-get; driver; file /odd/libvulkan.so.1; ldconfig_stub "$root/sbin/ldconfig" /odd/libvulkan.so.1
already_there "ldconfig outside the PATH"

system apt-get; driver; file /odd/libvulkan.so.1; with LD_LIBRARY_PATH=/nowhere:/odd
already_there "loader in LD_LIBRARY_PATH"

system apt-get; loader; file /usr/lib/x86_64-linux-gnu/libGLX_nvidia.so.0
manifest /etc/vulkan/icd.d/nvidia_icd.json libGLX_nvidia.so.0
already_there "driver in /etc, its library by name"

system apt-get; loader; file /usr/share/vulkan/lib/driver.so; manifest /usr/share/vulkan/icd.d/d.json ../lib/driver.so
already_there "driver's library relative to its manifest"

system apt-get; loader; file /usr/lib/driver.so
file /usr/share/vulkan/icd.d/d.json '{"ICD":{"library_path":"\/usr\/lib\/driver.so","api_version":"1.3.0"}}'
already_there "manifest on one line with escaped slashes"

system apt-get; loader; driver; manifest /usr/share/vulkan/icd.d/a_broken.json /usr/lib/gone.so
already_there "a working driver behind a broken one"

for base in /home/somebody/.local/share /home/somebody/.config /usr/local/share /usr/local/etc /etc/xdg; do
    system apt-get; loader; file /usr/lib/driver.so; manifest "$base/vulkan/icd.d/d.json" /usr/lib/driver.so
    already_there "driver in $base"
done

for setting in XDG_DATA_HOME=/mine XDG_DATA_DIRS=/nowhere:/mine XDG_CONFIG_HOME=/mine XDG_CONFIG_DIRS=/mine; do
    system apt-get; loader; file /usr/lib/driver.so; manifest /mine/vulkan/icd.d/d.json /usr/lib/driver.so
    with "$setting"
    already_there "driver by $setting"
done

for variable in VK_DRIVER_FILES VK_ICD_FILENAMES; do
    system apt-get; loader; file /usr/lib/driver.so; manifest /mine/d.json /usr/lib/driver.so
    with "$variable=$root/mine/d.json"
    already_there "$variable: a file"
    with "$variable=/nowhere.json:$root/mine/d.json"
    already_there "$variable: a list"
    with "$variable=$root/mine"
    already_there "$variable: a folder"
done

# ---- to be installed ------------------------------------------------------------------------------------------------

system apt-get
installs "apt-get as root" "$apt"

system dnf
installs "dnf as root" "$dnf"

system pacman; file /var/lib/pacman/sync/core.db
installs "pacman as root" "$pacman"

system pacman
installs "pacman as root, no lists" "$pacman_fresh"

system apk
installs "apk as root" "$apk"

system apt-get sudo; user=1000
installs "apt-get with sudo" "sudo -n $apt_update
$apt_update
sudo -n env DEBIAN_FRONTEND=noninteractive $apt_install
$apt_install"

system dnf sudo doas; user=1000
installs "dnf with sudo, which goes before doas" "sudo -n $dnf
$dnf"

system pacman sudo; user=1000; file /var/lib/pacman/sync/extra.db
installs "pacman with sudo" "sudo -n $pacman
$pacman"

system apk doas; user=1000
installs "apk with doas" "doas -n $apk
$apk"

system apt-get sudo
installs "root does not use sudo" "$apt"

system apt-get; driver
installs "the loader is missing" "$apt"

system apt-get; loader
installs "the driver is missing" "$apt"

system apt-get; loader; manifest /usr/share/vulkan/icd.d/lvp_icd.x86_64.json /usr/lib/gone.so
installs "a manifest whose library is gone" "$apt"

system apt-get; loader; manifest /usr/share/vulkan/icd.d/nvidia_icd.json libGLX_nvidia.so.0
installs "a manifest whose library, by name, is nowhere" "$apt"

system apt-get; loader; file /usr/share/vulkan/icd.d/empty.json
installs "an empty manifest" "$apt"

system apt-get; driver; ldconfig_stub "$path/ldconfig" /odd/libvulkan.so.1
installs "a stale entry of ldconfig" "$apt"

system apt-get; file /usr/lib/driver.so; manifest /mine/d.json /usr/lib/driver.so
with "VK_DRIVER_FILES=$root/mine/d.json"
case_name="VK_DRIVER_FILES without a loader"
run
check "exits 0" equals "$status" 0
check "installs" equals "$(cat "$log")" "$apt"
check "names the chosen driver" says "installed: driver $root/mine/d.json"

system apt-get; stub=update-fails
installs "apt-get update fails" "$apt"

# ---- nothing to be done, or nothing that can be done ----------------------------------------------------------------

for kernel_name in Darwin MINGW64_NT-10.0; do
    system apt-get; kernel=$kernel_name
    case_name=$kernel_name
    run
    check "exits 0" equals "$status" 0
    check "says what is there" says "is built in"
    check "in one line" lines 1 "$work/out"
    check "calls nothing" silent "$log"
done

system
refuses "no package manager" "none of apt-get, dnf, pacman and apk" ""
check "says what to install" complains "install the Vulkan loader (libvulkan.so.1) and Mesa's software driver"

for pair in "apt-get:apt-get update && apt-get install mesa-vulkan-drivers libvulkan1" \
    "dnf:dnf install mesa-vulkan-drivers vulkan-loader" \
    "pacman:pacman -Syu vulkan-swrast vulkan-icd-loader" \
    "apk:apk add mesa-vulkan-swrast vulkan-loader"; do
    system "${pair%%:*}"; user=1000
    refuses "${pair%%:*}, neither root nor sudo nor doas" "as root, run: ${pair#*:}" ""
done

system dnf sudo; user=1000; stub=no-password
refuses "sudo wants a password" "the installation failed: as root, run: dnf install" "sudo -n $dnf"

system apt-get; stub=install-fails
refuses "the installation fails" "the installation failed: as root, run: apt-get update && apt-get install" "$apt"

system apk; stub=installs-nothing
refuses "the installation brings no driver" "still no working driver after the installation" "$apk"

system apt-get; loader; driver; with VK_DRIVER_FILES=/nowhere.json
refuses "VK_DRIVER_FILES names nothing" "set to '/nowhere.json', which names no working driver" ""

system apt-get; loader; driver; manifest /mine/d.json /usr/lib/gone.so; with "VK_ICD_FILENAMES=$root/mine/d.json"
refuses "VK_ICD_FILENAMES names a broken driver" "which names no working driver" ""

printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
