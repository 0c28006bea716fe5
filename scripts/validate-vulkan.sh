#!/bin/sh
# Runs tests under the Khronos validation layers, synchronisation validation included, and fails if they complain.
#
#   sh scripts/validate-vulkan.sh cargo test --test suite nn::      any command that scripts/recent-mesa.sh takes
#
# The layers and the driver are those that scripts/recent-mesa.sh brings.
#
# One error is known: naga decorates arrays in workgroup memory with strides (VUID-StandaloneSpirv-None-10684), which
# Vulkan has no use for there. That the layers say what they check is a condition, too: else nothing was heard of them.
set -eu

known='VUID-StandaloneSpirv-None-10684'

if [ $# -eq 0 ]; then
    printf 'usage: sh scripts/validate-vulkan.sh cargo test ...\n' >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$work/vk_layer_settings.txt" <<'END'
khronos_validation.validate_sync = true
khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG
khronos_validation.report_flags = error,warn,info
END
status=0
VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation VK_LAYER_SETTINGS_PATH=$work \
    sh "$(dirname "$0")/recent-mesa.sh" "$@" >"$work/out" 2>"$work/err" || status=$?

# A message begins with `Validation Error: [ its name ]`, wherever in the line another thread has left it, and ends
# with an empty line, after which more paragraphs may follow: all is shown up to the next message.
messages() {
    awk -v known="$known" -v kind="$1" '
        match($0, /Validation [A-Z][A-Za-z ]*: *\[ [^ ]* \]/) {
            name = substr($0, RSTART, RLENGTH)
            sub(/.*\[ /, "", name)
            sub(/ \].*/, "", name)
            is_known = name == known
            is_hello = name == "CURRENT-VALIDATION-ENABLED"
            if (is_known) count++
            shown = 0
        }
        is_hello && /- Synchronization/ { heard++ }
        name != "" && !is_known && !is_hello && shown++ < 12 { unknown = unknown $0 "\n" }
        END { if (kind == "unknown") printf "%s", unknown; else print (kind == "heard" ? heard : count) + 0 }
    ' "$work/out" "$work/err"
}

if [ "$status" -ne 0 ]; then
    cat "$work/out" "$work/err" >&2
    exit "$status"
fi
grep '^test result' "$work/out" || true
unknown=$(messages unknown)
if [ -n "$unknown" ]; then
    printf '%s\n' "$unknown" >&2
    printf 'validation: the layers complain, see above\n' >&2
    exit 1
fi
if [ "$(messages heard)" -eq 0 ]; then
    printf 'validation: the layers were not heard: did the command run a test on a device?\n' >&2
    exit 1
fi
printf 'validation: no complaint but %s, %s times\n' "$known" "$(messages count)"
