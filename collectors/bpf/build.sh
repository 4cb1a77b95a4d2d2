#!/bin/sh
# Compiles the eBPF programs beside their sources, or with --check says whether the object files are what the sources give.
# built_from.txt holds the digest of the sources and the version of clang: another one may give other octets.
set -eu
cd "$(dirname "$0")"
for tool in clang llvm-strip llvm-objcopy; do
    command -v $tool >/dev/null || { echo "$tool is missing: apt-get install clang llvm libbpf-dev"; exit 1; }
done
stamp() { cat sekisho.h flow.bpf.c iter.bpf.c tc.bpf.c | sha256sum | cut -d' ' -f1; clang -dumpversion | cut -d. -f1; }
out=.
[ "${1:-}" = --check ] && out=$(mktemp -d)
for name in flow iter tc; do
    clang -O2 -g -Wall -Werror -target bpf -mcpu=v3 -fdebug-compilation-dir=. -ffile-prefix-map="$PWD"=. \
        -I"/usr/include/$(uname -m)-linux-gnu" -c $name.bpf.c -o "$out/$name.bpf.o"
    llvm-strip -g "$out/$name.bpf.o"
done
[ "$out" = . ] && { stamp >built_from.txt; exit 0; }
for name in flow iter tc; do
    cmp -s $name.bpf.o "$out/$name.bpf.o" || { echo "$name.bpf.o is not what its source gives: make bpf"; rm -r "$out"; exit 1; }
done
rm -r "$out"
echo "the object files are what their sources give"
