#!/usr/bin/env bash
# The linters, with the versions pinned for .venv: also the pre-commit hook.
set -euo pipefail

usage() {
  cat <<'END'
usage: tools/lint.sh [--fix] [--help]
  ruff check, ruff format --check, mypy on ctcsd/ and shellcheck on every script. --fix lets ruff repair what it can.
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
check=(check --quiet)
format=(format --check)
while (($#)); do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --fix) check+=(--fix) && format=(format --quiet) ;;
    *) echo "lint: unknown option '$1' (see tools/lint.sh --help)" >&2 && exit 2 ;;
  esac
  shift
done

bin=$root/.venv/bin
for tool in ruff mypy shellcheck; do
  [[ -x $bin/$tool ]] || { echo "lint: $tool is not in .venv: run tools/setup.sh --dev" >&2; exit 1; }
done

scripts=()
while IFS= read -r -d '' file; do
  [[ ! -f $file ]] || scripts+=("$file") # a tracked file may be deleted in the working tree
done < <(git ls-files -z --cached --others --exclude-standard -- '*.sh' .ci/run)

failed=()
# Every linter runs even after one failed: one pass shows all there is to repair.
"$bin/ruff" "${check[@]}" . || failed+=("ruff check")
"$bin/ruff" "${format[@]}" . || failed+=("ruff format (the files above want tools/lint.sh --fix)")
"$bin/mypy" --no-error-summary ctcsd/ || failed+=("mypy")
"$bin/shellcheck" -x -P SCRIPTDIR "${scripts[@]}" || failed+=("shellcheck")

if ((${#failed[@]})); then
  printf 'lint: FAILED: %s\n' "${failed[@]}" >&2
  exit 1
fi
echo "lint: ok"
