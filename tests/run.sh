#!/usr/bin/env bash
# Set-up, lint and all tests, each under the interpreter it is written for.
set -euo pipefail

usage() {
  cat <<'END'
usage: tests/run.sh [--fast] [--no-k2] [pytest arguments ...]
  1  tools/setup.sh --dev
  2  tools/lint.sh
  3  pytest tests --ignore=tests/k2           with the training interpreter (.venv), a process per core, at most 8
  4  pytest tests/portable tests/k2           with the interpreter that has k2
  --fast    leave out the tests marked slow
  --no-k2   leave out part 4 and the tests marked k2 (without it a missing k2 is a failure)
  Other arguments go to pytest in both parts, for instance: -k select -x
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
setup=(--dev)
pytest_args=()
marks=
k2=yes
while (($#)); do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --fast) marks="$marks and not slow" ;;
    --no-k2) k2=no && setup+=(--no-k2) && marks="$marks and not k2" ;;
    --) shift && pytest_args+=("$@") && break ;;
    *) pytest_args+=("$1") && selected=yes ;;
  esac
  shift
done
[[ ! $marks ]] || pytest_args+=(-m "${marks# and }")

passed=()
failed=()
note() { # note NAME EXIT_CODE
  # pytest says 5 when no test was selected: right when the caller selected (-k), a broken suite otherwise.
  if (($2 == 0)) || { (($2 == 5)) && [[ ${selected:-} ]]; }; then passed+=("$1"); else failed+=("$1"); fi
}
run() { # run NAME COMMAND...: a failing part does not keep the next one from running
  local name=$1 code=0
  shift
  echo "== $name"
  "$@" || code=$?
  note "$name" "$code"
}
join() { local IFS=,; echo "${*:-none}"; }

bash tools/setup.sh "${setup[@]}" || { echo "tests: FAILED: setup"; exit 1; }
run lint bash tools/lint.sh
# A process per core, each with one thread, takes about two thirds of the time of one process with all the threads.
run training env OMP_NUM_THREADS=1 .venv/bin/python -m pytest tests --ignore=tests/k2 \
  -n auto --maxprocesses 8 --dist worksteal --durations=20 --durations-min=5 ${pytest_args[@]+"${pytest_args[@]}"}
if [[ $k2 == no ]]; then
  echo "== k2: left out (--no-k2)"
elif k2_python=$(.venv/bin/python -m ctcsd.k2_env); then
  run k2 "$k2_python" -m pytest tests/portable tests/k2 ${pytest_args[@]+"${pytest_args[@]}"}
else
  echo "== k2: no interpreter with k2, and the tests want one: see what tools/setup.sh says, or give --no-k2" >&2
  failed+=(k2)
fi

if ((${#failed[@]})); then
  echo "tests: FAILED: $(join "${failed[@]}") (passed: $(join ${passed[@]+"${passed[@]}"})) in $SECONDS s"
  exit 1
fi
echo "tests: PASSED: $(join "${passed[@]}") in $SECONDS s"
