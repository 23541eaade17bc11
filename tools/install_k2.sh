#!/usr/bin/env bash
# Install the k2 wheel that fits an interpreter's torch, Python and CUDA, and prove that it works.
set -euo pipefail

usage() {
  cat <<'END'
usage: tools/install_k2.sh [--python PATH] [--page URL|FILE] [--allow-cpu] [--timeout SECONDS] [--dry-run] [--help]
  --python PATH      interpreter to install into (default: .venv/bin/python)
  --page URL|FILE    wheel page (default: the k2 project's cuda.html or cpu.html); may be given twice
  --allow-cpu        beside a CUDA torch, take a CPU wheel if there is no CUDA one (k2 then computes on the CPU)
  --timeout SECONDS  how long to wait for the page (default: 20)
  --dry-run          print the address of the chosen wheel and stop
END
}
fail() { echo "install_k2: $1" >&2; exit "${2:-1}"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$root/.venv/bin/python
choose=()
dry_run=
while (($#)); do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --allow-cpu) choose+=(--allow-cpu) ;;
    --dry-run) dry_run=yes ;;
    --python | --page | --timeout)
      (($# > 1)) || fail "$1 wants a value (see tools/install_k2.sh --help)" 2
      if [[ $1 == --python ]]; then python=$2; else choose+=("$1" "$2"); fi
      shift
      ;;
    *) fail "unknown option '$1' (see tools/install_k2.sh --help)" 2 ;;
  esac
  shift
done
"$python" -c '' 2>/dev/null || fail "$python does not run: run tools/setup.sh first, or give --python"

if ! wheel=$("$python" "$root/tools/k2_wheel.py" --python "$python" ${choose[@]+"${choose[@]}"}); then
  cat >&2 <<'END'
install_k2: no wheel was installed. What you can do:
  - install one of the torch versions named above (pip install torch==VERSION torchaudio==VERSION), then run this again
  - give --allow-cpu: a CPU build of k2 beside a CUDA torch
  - with a Python 3.9 on the machine, run tools/setup.sh: it makes .venv-k2, which the k2 decoders use by themselves
  - go on without k2: greedy and beam search, with n-gram LM and lexicon, need none
END
  exit 1
fi
if [[ $dry_run ]]; then
  echo "$wheel"
  exit 0
fi

log=$(mktemp "${TMPDIR:-/tmp}/ctcsd-install-k2.XXXXXX")
pip=("$python" -m pip --disable-pip-version-check --no-input)
echo "install_k2: $wheel"
# --no-deps: k2 must take the torch that is there, never bring another one along.
if ! { "${pip[@]}" install --no-deps --force-reinstall "$wheel" && "${pip[@]}" install graphviz; } >"$log" 2>&1; then
  fail "pip could not install it: $(grep -m1 '^ERROR' "$log" || tail -n 1 "$log") (log: $log)"
fi
rm -f "$log"
cd "$root"
if ! status=$("$python" -m ctcsd.k2_env "$python"); then
  "${pip[@]}" uninstall -y k2 >/dev/null 2>&1 || true
  fail "the wheel was installed but does not work, so it is removed again: $status"
fi
echo "install_k2: k2 $status"
