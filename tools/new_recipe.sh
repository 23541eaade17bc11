#!/usr/bin/env bash
# Start a recipe for a new corpus: copy egs/_template to egs/NAME.
set -euo pipefail

usage="usage: tools/new_recipe.sh NAME    (lower-case letters, digits, - and _; begins with a letter)"
fail() { echo "error: $1" >&2; exit "${2:-1}"; }

[[ "${1:-}" == -h || "${1:-}" == --help ]] && { echo "$usage"; exit 0; }
[[ $# -eq 1 ]] || fail "$usage" 2
name=$1
[[ "$name" =~ ^[a-z][a-z0-9_-]{0,39}$ ]] || fail "'$name' cannot name a recipe; $usage" 2

egs=$(cd "$(dirname "${BASH_SOURCE[0]}")/../egs" && pwd)
[[ -d "$egs/_template" ]] || fail "$egs/_template is missing"
target=$egs/$name
[[ ! -e "$target" && ! -L "$target" ]] || fail "egs/$name exists already"

partial=$(mktemp -d "$egs/.new-recipe.XXXXXX")
trap 'rm -rf "$partial"' EXIT
cp -R "$egs/_template" "$partial/recipe"
rm -rf "$partial/recipe/data" "$partial/recipe/exp"
find "$partial/recipe" -name __pycache__ -prune -exec rm -rf {} +
sed -i "s/NAME/$name/g" "$partial"/recipe/conf/*.yaml "$partial/recipe/README.md"
mv -T "$partial/recipe" "$target"

cat <<NEXT
egs/$name is there. Next:
  1. egs/$name/local/prepare.py: fill in utterances(), or keep it for a folder of audio with a transcripts.tsv
  2. egs/$name/conf/corpus.yaml: sizes and schedule
  3. ./run.sh --recipe egs/$name --prepare "--audio DIR", then read egs/$name/data/report.txt
  4. egs/$name/README.md: what the corpus is, its licence, its sizes
NEXT
