#!/bin/sh
# Put a copy of this system's libbpf.so.1 beside the programs, with its licence, for a wheel that needs none on the host.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
found=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | awk '$1 == "libbpf.so.1" { print $NF; exit }')
if [ -z "$found" ]; then
    echo "libbpf.so.1 is not installed here: apt-get install libbpf1 (Debian 12, Ubuntu 24.04), dnf install libbpf (Fedora, RHEL 9)" >&2
    exit 1
fi
licence=
for file in /usr/share/doc/libbpf1/copyright /usr/share/licenses/libbpf/LICENSE.BSD-2-Clause; do
    [ -f "$file" ] && licence=$file && break
done
if [ -z "$licence" ]; then
    echo "the licence note of libbpf is not installed (LGPL-2.1 or BSD-2-Clause): install its package with documentation" >&2
    exit 1
fi
mkdir -p "$here/lib"
install -m 644 "$(readlink -f "$found")" "$here/lib/libbpf.so.1"
install -m 644 "$licence" "$here/lib/libbpf.so.1.licence.txt"
echo "bundled $(readlink -f "$found")"
