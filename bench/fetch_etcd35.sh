#!/bin/sh
# Fetches etcd 3.5 from Debian 13 for comparison, without installing anything and without touching
# the machine's apt configuration: a temporary source list, state and cache, "apt-get download",
# and dpkg-deb -x. apt verifies the signature with the keys of debian-archive-keyring.
#
#   bench/fetch_etcd35.sh [DIRECTORY]      default: a directory under ${TMPDIR:-/tmp}
#
# The last line of the output is the path of the binary; bench/run.py --etcd takes it. A directory
# that already holds it is used as it is.
set -eu

dir=${1:-${TMPDIR:-/tmp}/etcd35}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
bin=$dir/root/usr/bin/etcd

if [ -x "$bin" ]; then
    "$bin" --version >&2
    echo "$bin"
    exit 0
fi

mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/root"
dir=$(cd "$dir" && pwd)
bin=$dir/root/usr/bin/etcd
echo "deb $mirror trixie main" >"$dir/apt/sources.list"

apt_options="-qq
-o Dir::Etc::sourcelist=$dir/apt/sources.list
-o Dir::Etc::sourceparts=/dev/null
-o Dir::State::lists=$dir/apt/lists
-o Dir::Cache=$dir/apt/cache
-o APT::Sandbox::User=root"

# shellcheck disable=SC2086
apt-get $apt_options update >&2
cd "$dir"
# shellcheck disable=SC2086
apt-get $apt_options download etcd-server etcd-client >&2
for deb in "$dir"/etcd-server_*.deb "$dir"/etcd-client_*.deb; do
    dpkg-deb -x "$deb" "$dir/root"
done
rm -rf "$dir/apt"
"$bin" --version >&2
echo "$bin"
