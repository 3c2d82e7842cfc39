# Shared by ./run and ./check: packages of this machine and builds out of the tree. Sourced by bash.
# Expects $top, the root of the sources.

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

# become_root WHAT_FOR : may as_root work? At a terminal sudo asks for the password here, once
become_root() {
    [ "$(id -u)" -eq 0 ] && return 0
    if command -v sudo >/dev/null 2>&1; then
        sudo -n true 2>/dev/null && return 0
        [ -t 0 ] && [ -t 2 ] && sudo -v && return 0
    fi
    echo "sudo does not work here; as root: $1" >&2
    return 1
}

# install_packages KIND... : installs what packages.txt lists under these kinds and is missing
install_packages() {
    local kind package missing=() policy=/usr/sbin/policy-rc.d made_policy=
    while read -r kind package _; do
        case "$kind" in '' | '#'*) continue ;; esac
        [[ " $* " == *" $kind "* ]] || continue
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done <"$top/packages.txt"
    [ ${#missing[@]} -gt 0 ] || return 0
    become_root "apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" || return 1
    echo "installing (log: build/packages.log): ${missing[*]}" >&2
    # a package of a server must not start that server on the ports we are about to use
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" &&
            made_policy=yes
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT # also when the user interrupts
    fi
    local log="$top/build/packages.log" ok=yes
    { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update &&
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get -q install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || ok=
    [ -z "$made_policy" ] || as_root rm -f "$policy"
    trap - EXIT
    if [ -z "$ok" ]; then
        tail -n 30 "$log" >&2
        echo "the packages could not be installed; see $log" >&2
        return 1
    fi
}

# compiler NAME : with ccache where there is one
compiler() {
    if command -v ccache >/dev/null 2>&1; then echo "ccache $1"; else echo "$1"; fi
}

# configure_in DIR CC CFLAGS [OPTION...] : once, and again when the options changed
configure_in() {
    local dir=$1 cc=$2 cflags=$3 wanted
    shift 3
    if [ ! -x "$top/configure" ] || [ "$top/configure.ac" -nt "$top/configure" ]; then
        (cd "$top" && autoreconf -fi) || return 1
    fi
    wanted="$cc|$cflags|$*"
    if [ "$(cat "$dir/.configured" 2>/dev/null)" != "$wanted" ]; then
        mkdir -p "$dir"
        (cd "$dir" && "$top/configure" -q CC="$cc" CFLAGS="$cflags" "$@") || return 1
        echo "$wanted" >"$dir/.configured"
    fi
}
