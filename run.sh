#!/usr/bin/env bash
# The stage driver of every recipe: data, features, lang, train, decode, score.
set -euf -o pipefail  # -f: no word that the user gives is a pattern of file names
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'EOF'
Usage: ./run.sh [OPTION]... [KEY=VALUE]...

Set up on first use, then run the stages of a recipe and print the table of results:
  0 data        download, check and split the corpus   -> RECIPE/data/manifests
  1 features    80-bin log-mel filterbank              -> RECIPE/data/fbank80
  2 lang        units, lexicon, n-gram LM              -> RECIPE/data/lang_*
  3 train       every method and seed                  -> EXP/METHOD/seedN
  4 decode      posteriors, then search (greedy, beam, wfst, k2) -> EXP/METHOD/seedN/{posteriors,decode}
  5 score       WER, CER, intervals, comparisons       -> EXP/RESULTS.md
What is up to date is skipped, but for scoring; a run that was stopped goes on where it was.

  --recipe DIR         the recipe                                   (default: egs/fotaq)
  --stage N            first stage                                  (default: 0)
  --stop-stage N       last stage                                   (default: 5)
  --methods "A B"      methods of ctcsd/conf/methods, or YAML files (default: "ctc skd"); the teacher that one
                       depends on is trained first; NAME+KEY=VALUE is a variant of its own, such as
                       kd_symmetric+distill.frames=symmetric:4
  --seeds "1 2"        a run per seed                               (default: "1")
  --exit NAME          decode and score this exit only              (default: all)
  --baseline METHOD    compare the others with it in the table      (default: ctc, where it is among others)
  --quick              a small subset and model: all stages in minutes
  --full               the long configuration of the recipe
  --config FILE        a YAML file on top of the recipe's, below the method's: KEY=VALUE changes what a method sets
  --exp DIR            where the runs go                            (default: RECIPE/exp/default, or quick, full)
  --data DIR           where the data goes                          (default: RECIPE/data)
  --prepare "ARGS"     further arguments of the recipe's local/prepare.py, such as "--deb FILE"; quotes keep a space
  --nj N               parallel jobs                                (default: number of cores)
  --no-setup           use the interpreter 'python3' as it is, and install nothing
  -h, --help           this text
  KEY=VALUE            overrides of the configuration, such as train.epochs=5

Exit code: 0 done, 2 wrong usage, 3 all done, but some utterances could not be decoded (they count as
deleted; decode/*/failed-*.txt have them), otherwise that of the stage that failed, 1 as a rule.

Examples:
  ./run.sh --quick
  ./run.sh --stage 3 --methods "ctc interctc skd" --seeds "1 2 3"
  ./run.sh --stage 4 --stop-stage 5 --exit student
EOF
}

fail() { echo "run.sh: $1" >&2; exit "${2:-1}"; }
# A path that the user gave from another folder still means the user's, and none looks like an option.
from_caller() {
  case $1 in
    /*) printf '%s\n' "${1%/}" ;;
    *) if [ "$caller" != "$PWD" ]; then printf '%s\n' "$caller/${1%/}"; else as_path "${1%/}"; fi ;;
  esac
}
as_path() { case $1 in -*) printf './%s\n' "$1" ;; *) printf '%s\n' "$1" ;; esac; }
existing() { if [ -e "$1" ]; then as_path "${1%/}"; else from_caller "$1"; fi; }
path_or_word() { if [ -e "$(from_caller "$1")" ]; then from_caller "$1"; else printf '%s\n' "$1"; fi; }
number() { [[ $2 =~ ^[0-9]{1,9}$ ]] || fail "$1 takes a whole number, not '$2'" 2; }

recipe=egs/fotaq stage=0 stop_stage=5 methods="ctc skd" seeds=1 preset=default nj=$(nproc) setup=yes
exp="" data="" prepare_args="" baseline="" given=""
exits=() configs=() overrides=()
[ $# -eq 0 ] || given=$(printf ' %q' "$@")
while [ $# -gt 0 ]; do
  option=$1
  case $option in
    --recipe|--stage|--stop-stage|--stop_stage|--methods|--seeds|--exit|--baseline|--config|--exp|--data|--prepare|--nj)
      [ $# -ge 2 ] || fail "$option needs a value; see ./run.sh --help" 2
      value=$2; shift ;;
  esac
  case $option in
    --recipe) recipe=$(existing "$value") ;;
    --stage) number "$option" "$value"; stage=$value ;;
    --stop-stage|--stop_stage) number "$option" "$value"; stop_stage=$value ;;
    --methods) methods=$value ;;
    --seeds) seeds=$value ;;
    --exit) exits+=(--exit "$value") ;;
    --baseline) baseline=$value ;;
    --config) configs+=(--config "$(from_caller "$value")") ;;
    --exp) exp=$(from_caller "$value") ;;
    --data) data=$(from_caller "$value") ;;
    --prepare) prepare_args=$value ;;
    --nj) number "$option" "$value"; [ "$value" -ge 1 ] || fail "--nj must be at least 1" 2; nj=$value ;;
    --quick) preset=quick ;;
    --full) preset=full ;;
    --no-setup) setup=no ;;
    -h|--help) usage; exit 0 ;;
    -*) fail "unknown option '$option'; see ./run.sh --help" 2 ;;
    *=*) overrides+=("$option") ;;
    *) fail "'$option' is neither an option nor KEY=VALUE; see ./run.sh --help" 2 ;;
  esac
  shift
done
[ "$stage" -le 5 ] || fail "there is no stage $stage; the stages are 0 to 5" 2
[ "$stop_stage" -le 5 ] || fail "there is no stage $stop_stage; the stages are 0 to 5" 2
[ "$stage" -le "$stop_stage" ] || fail "--stage $stage comes after --stop-stage $stop_stage" 2
[ -f "$recipe/conf/corpus.yaml" ] || fail "no recipe at '$recipe': $recipe/conf/corpus.yaml is missing" 2
[ -n "$methods" ] && [ -n "$seeds" ] || fail "--methods and --seeds must not be empty" 2
for seed in $seeds; do number --seeds "$seed"; done
corpus_config=(--config "$recipe/conf/corpus.yaml")
if [ $preset != default ]; then
  [ -f "$recipe/conf/$preset.yaml" ] || fail "$recipe has no conf/$preset.yaml, so no --$preset" 2
  corpus_config+=(--config "$recipe/conf/$preset.yaml")
fi
configs=("${corpus_config[@]}" "${configs[@]}")
data=${data:-$recipe/data}
exp=${exp:-$recipe/exp/$preset}

if [ $setup = yes ]; then
  tools/setup.sh
  python=.venv/bin/python
else
  python=python3
fi
ctcsd=("$python" -m ctcsd)

# run NAME COMMAND...: the command's output goes to the screen and to a log; a failure names both.
# On a terminal its stderr stays there, so that progress bars move.
incomplete=""  # logs of searches that could not decode some utterances, and are done but for these
run() {
  local log=$exp/log/$1.log status=0
  shift
  if [ -t 2 ]; then
    "$@" | tee "$log" || status=$?
  else
    "$@" 2>&1 | tee "$log" || status=$?
  fi
  if [ "$status $current" = "3 4" ]; then incomplete+=" $log"; return; fi
  [ $status -eq 0 ] || fail "stage $current failed: ${*@Q} (output: above and in $log)" $status
}
wanted() {
  current=$1
  [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ] || return 1
  echo "$(date +%T) stage $1: $2"
}

method_options=()
for method in $methods; do
  file=${method%%+*}
  [[ $file != *.yaml ]] || method=$(existing "$file")${method#"$file"}
  method_options+=(--method "$method")
done
# Every method's configuration is checked before anything long starts; what a method depends on comes before it.
decodes=()
if [ "$stage" -le 4 ] && [ "$stop_stage" -ge 4 ]; then decodes=(--decodes); fi
plan=$("${ctcsd[@]}" plan "${decodes[@]}" "${configs[@]}" "${method_options[@]}" "${exits[@]}" "${overrides[@]}")
read -r lang without_k2 <<< "${plan%%$'\n'*}"
lang=$data/$lang
[ -z "$without_k2" ] || overrides+=("$without_k2")
mapfile -t methods <<< "${plan#*$'\n'}"  # each "NAME METHOD"
names="" table_options=()
for planned in "${methods[@]}"; do
  names+=" ${planned%% *}"
  table_options+=(--method "${planned%% *}")
done
if [ -n "$baseline" ]; then
  [[ "$names " == *" $baseline "* ]] || [ -d "$exp/$baseline" ] || fail "no baseline '$baseline' among the methods:$names" 2
  table_options+=(--baseline "$baseline")
fi
mkdir -p "$exp/log"

if wanted 0 "data"; then
  # xargs parts words as a shell does, quotes and all, but runs nothing that stands in them.
  words=$(xargs -r printf '%s\n' <<< "$prepare_args") || fail "--prepare: the quotes of $prepare_args do not match" 2
  extra=()
  [ -z "$words" ] || mapfile -t extra <<< "$(sed -E 's/^(--[a-z-]+)=/\1\n/' <<< "$words")"  # --dir=D is --dir D
  inputs=(--depends "$recipe/local")
  # A file or folder that the recipe is told to read is an input too: when it changes, the data is prepared again.
  for i in "${!extra[@]}"; do
    # Not a download folder, though: the recipe itself fills it, and may have to make it.
    if ((i > 0)) && [ "${extra[i - 1]}" = --dl-dir ]; then
      extra[i]=$(from_caller "${extra[i]}")
    else
      extra[i]=$(path_or_word "${extra[i]}")
      [ ! -e "${extra[i]}" ] || inputs+=(--depends "${extra[i]}")
    fi
  done
  run prepare "${ctcsd[@]}" once "$data/.prepared" "${inputs[@]}" --output "$data/manifests" --jobs "$nj" -- \
    "$recipe/local/prepare.py" --out "$data" "${extra[@]}"
fi
if wanted 1 "features"; then
  run features "${ctcsd[@]}" features --data "$data" --jobs "$nj" "${configs[@]}" "${overrides[@]}"
fi
if wanted 2 "lang"; then
  run lang "${ctcsd[@]}" lang --data "$data" --out "$lang" "${configs[@]}" "${overrides[@]}"
fi
for planned in "${methods[@]}"; do
  read -r name method <<< "$planned"
  for seed in $seeds; do
    dir=$exp/$name/seed$seed
    if wanted 3 "train $name, seed $seed"; then
      run "train-$name-seed$seed" "${ctcsd[@]}" train --method "$method" --data "$data" --lang "$lang" --run "$dir" \
        "${configs[@]}" "seed=$seed" "${overrides[@]}"
    fi
    if wanted 4 "decode $name, seed $seed"; then
      run "posteriors-$name-seed$seed" "${ctcsd[@]}" posteriors --run "$dir" --data "$data" --lang "$lang" "${exits[@]}" \
        "${configs[@]}" "${overrides[@]}"
      run "search-$name-seed$seed" "${ctcsd[@]}" search --run "$dir" --lang "$lang" "${exits[@]}" "${configs[@]}" \
        "${overrides[@]}"
    fi
  done
done
# After all the decoding: a student is compared with its separate teacher too.
for planned in "${methods[@]}"; do
  read -r name method <<< "$planned"
  for seed in $seeds; do
    if wanted 5 "score $name, seed $seed"; then
      run "score-$name-seed$seed" "${ctcsd[@]}" score --run "$exp/$name/seed$seed" --data "$data" --lang "$lang" \
        "${exits[@]}" "${configs[@]}" "${overrides[@]}"
    fi
  done
done
if wanted 5 "table"; then
  run table "${ctcsd[@]}" table "$exp" --out "$exp/RESULTS.md" --command "./run.sh$given" "${table_options[@]}"
fi
[ -z "$incomplete" ] || fail "all done, but some utterances could not be decoded; which: see$incomplete" 3
