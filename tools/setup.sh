#!/usr/bin/env bash
# Make what ctcsd runs in: .venv for training and, only where k2 cannot live there, .venv-k2 for the k2 decoders.
set -euo pipefail

usage() {
  cat <<'END'
usage: tools/setup.sh [--dev] [--no-k2] [--python PATH] [--help]
  --dev          also install what the tests and linters need
  --no-k2        make .venv only
  --python PATH  interpreter for .venv, 3.10 or newer (default: python3.11, 3.12, 3.10, 3.13, python3)
Makes .venv and, where no k2 wheel fits its torch, .venv-k2 with Python 3.9. Needs about 10 GB and an internet
connection. A second run takes a second; a killed one is taken up where it stopped.
END
}
say() { echo "setup: $*"; }
die() { echo "setup: $1" >&2; exit "${2:-1}"; }

dev=
want_k2=yes
python=
while (($#)); do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --dev) dev=yes ;;
    --no-k2) want_k2= ;;
    --python)
      (($# > 1)) || die "--python wants a path (see tools/setup.sh --help)" 2
      python=$2
      shift
      ;;
    *) die "unknown option '$1' (see tools/setup.sh --help)" 2 ;;
  esac
  shift
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
train=$root/.venv
k2=$root/.venv-k2
log=$(mktemp "${TMPDIR:-/tmp}/ctcsd-setup.XXXXXX")

# The lock is on the folder itself, so that no file is left behind, and pip inherits it: a pip that outlives a killed
# set-up still keeps the next one out.
exec 9<"$root"
if command -v flock >/dev/null; then
  code=0
  flock -n -E 75 9 || code=$?
  if ((code == 75)); then
    say "another set-up of this checkout is running; waiting for it"
    flock -w 3600 9 || die "it did not end within an hour"
  elif ((code)); then
    say "this file system has no locks: do not run two set-ups at once"
  fi
fi

# step TEXT COMMAND...: one line with the seconds it took; the command's own words go to the log.
step() {
  local start=$SECONDS text=$1
  shift
  printf 'setup: %s ... ' "$text"
  if "$@" >>"$log" 2>&1; then
    echo "$((SECONDS - start)) s"
  else
    echo "failed after $((SECONDS - start)) s"
    return 1
  fi
}

explain_pip() { # one line for the usual causes, then where to read on
  local why
  if grep -qE 'NewConnectionError|ProxyError|name resolution|Max retries|ConnectTimeout|is unreachable' "$log"; then
    why="the package index cannot be reached (no network?)"
  elif grep -q 'No space left' "$log"; then
    why="the disk is full"
  else
    why=$(grep -E '^ERROR' "$log" | tail -n 1 || true)
  fi
  die "$1: ${why:-see the log} (log: $log; run tools/setup.sh again to go on)"
}

version_of() { "$1" -c 'import sys; print("%d%02d" % sys.version_info[:2])' 2>/dev/null || echo 0; }

# find_python LOWEST HIGHEST CANDIDATE...: sets $found. Candidates are run, because a name on PATH may be a mere shim.
find_python() {
  local lowest=$1 highest=$2 candidate version
  shift 2
  found=
  without_venv=
  for candidate; do
    version=$(version_of "$candidate")
    ((version >= lowest && version <= highest)) || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      found=$candidate
      return
    fi
    without_venv=${without_venv:-python${version:0:1}.$((10#${version:1}))}
  done
}

need_disk() { # need_disk GIGABYTES: before anything large is fetched
  local free
  free=$(df -Pk "$root" | awk 'NR == 2 {print int($4 / 1048576)}')
  ((free >= $1)) || die "$free GB free under $root, about $1 GB needed"
}

# make_venv FOLDER PYTHON: leaves a working one alone; one without pip was killed while it was made.
make_venv() {
  "$1/bin/python" -m pip --version >/dev/null 2>&1 && return
  step "make ${1##*/} with Python $("$2" -c 'import platform; print(platform.python_version())')" \
    "$2" -m venv --clear "$1" || die "python -m venv failed (log: $log)"
}

# A pip killed half-way leaves packages that look installed. RECORD is written last, so one that is missing, or names
# missing files, gives them away; without its metadata folder pip installs such a package anew.
forget_half_installed() {
  "$1/bin/python" - <<'END'
import csv, pathlib, shutil, sysconfig
site = pathlib.Path(sysconfig.get_paths()["purelib"])
for info in site.glob("*.dist-info"):
    record = info / "RECORD"
    whole = record.is_file()
    if whole:
        with record.open(newline="", encoding="utf-8") as rows:
            whole = all((site / row[0]).exists() for row in csv.reader(rows) if row and not row[0].endswith(".pyc"))
    if not whole:
        print("half-installed:", info.name)
        shutil.rmtree(info)
END
}

# A stamp says what an environment was completed with: the same files, the same interpreter, the same place.
stamp_of() { # stamp_of FOLDER KIND
  "$1/bin/python" -c '
import hashlib, sys
digest = hashlib.sha256(repr((sys.version, sys.argv[1:3])).encode())
for name in ("tools/constraints.txt", "tools/constraints-k2.txt", "setup.cfg", "pyproject.toml"):
    digest.update(open(name, "rb").read())
print(digest.hexdigest())' "$root" "$2" 2>/dev/null
}
is_complete() { # is_complete FOLDER KIND...: stamped for one of the kinds
  local folder=$1 kind stamp
  shift
  stamp=$(cat "$folder/.ctcsd-setup" 2>/dev/null) || return 1
  for kind; do
    [[ $stamp != "$(stamp_of "$folder" "$kind")" ]] || return 0
  done
  return 1
}
write_stamp() { stamp_of "$1" "$2" >"$1/.ctcsd-setup.new" && mv "$1/.ctcsd-setup.new" "$1/.ctcsd-setup"; }

pip() { # pip FOLDER ARGUMENTS...
  local folder=$1
  shift
  "$folder/bin/python" -m pip install --disable-pip-version-check --no-input --retries 2 "$@"
}

set_up_training() {
  local kinds=(dev) extras=train,export,dev kind=dev modules="torch, torchaudio, lhotse, lightning, ctcsd" size=6
  [[ $dev ]] || { kinds=(base dev) && extras=train,export && kind=base; }
  if [[ $python && -x $train/bin/python ]]; then
    (($(version_of "$python") == $(version_of "$train/bin/python"))) ||
      step "remove .venv (another Python)" rm -rf "$train"
  fi
  if is_complete "$train" "${kinds[@]}"; then
    say ".venv is complete"
    return
  fi
  if (($(version_of "$train/bin/python") < 310)); then
    local candidates=(python3.11 python3.12 python3.10 python3.13 python3 "$HOME"/.pyenv/versions/3.1[0-3]*/bin/python)
    [[ ! $python ]] || candidates=("$python")
    find_python 310 999 "${candidates[@]}"
    [[ $found || -z $without_venv ]] ||
      die "$without_venv cannot make environments; on Debian: apt-get install $without_venv-venv"
    [[ $found ]] || die "no Python 3.10 or newer found; give one with --python PATH"
  else
    found=$train/bin/python
  fi
  [[ ! -d $(echo "$train"/lib/python3.*/site-packages/torch) ]] || size=1
  need_disk "$size"
  rm -f "$train/.ctcsd-setup"
  make_venv "$train" "$found"
  step "look for half-installed packages in .venv" forget_half_installed "$train" ||
    die "cannot read .venv (log: $log)"
  step "install torch, lightning, lhotse and the rest into .venv" \
    pip "$train" -c tools/constraints.txt -e ".[$extras]" || explain_pip "cannot complete .venv"
  step "import them" "$train/bin/python" -c "import $modules" ||
    die ".venv does not work: $(tail -n 1 "$log") (log: $log)"
  write_stamp "$train" "$kind"
}

# k2 in .venv itself: once it is there, or by a wheel of the k2 project's page that fits .venv's torch.
k2_fits_training() {
  local mark=$train/.ctcsd-k2 status
  if [[ $(cat "$mark" 2>/dev/null) == "$(stamp_of "$train" k2)" ]]; then
    say "k2 is in .venv"
    return
  fi
  rm -f "$mark"
  if ! "$train/bin/python" -m ctcsd.k2_env "$train/bin/python" >/dev/null 2>&1; then
    if ! status=$(bash tools/install_k2.sh --python "$train/bin/python" --allow-cpu --timeout 4 2>&1); then
      say "no k2 wheel for .venv: ${status%%$'\n'*}"
      return 1
    fi
  fi
  stamp_of "$train" k2 >"$mark"
  say "k2 is in .venv"
}

# The index has a k2 wheel for each Python, all tagged alike, and pip has been seen to take the one for Python 3.10: the
# digest names the one for Python 3.9 on Linux. --force-reinstall, because a wrong one may be there already.
install_k2_wheel() {
  "$k2/bin/python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("_k2") is None)' && return
  pip "$k2" --no-deps --force-reinstall --require-hashes -r /dev/stdin <<<"$k2_wheel"
}
k2_wheel="k2==1.23.4 --hash=sha256:e483092fc06bbf211827474e17d71c3acee8a37ddbee32cbf2706bf179f2fa19"

set_up_k2() {
  if is_complete "$k2" k2; then
    say ".venv-k2 is complete"
    return
  fi
  if [[ ! -x $k2/bin/python ]] && k2_fits_training; then
    return
  fi
  find_python 309 309 python3.9 "$HOME"/.pyenv/versions/3.9*/bin/python
  if [[ ! $found ]]; then
    say "no k2: no wheel fits and there is no Python 3.9${without_venv:+ with venv}; the decoders without k2 work"
    return
  fi
  local size=4
  [[ ! -d $k2/lib/python3.9/site-packages/torch ]] || size=1
  need_disk "$size"
  rm -f "$k2/.ctcsd-setup"
  (($(version_of "$k2/bin/python") == 309)) || rm -rf "$k2"
  make_venv "$k2" "$found"
  step "look for half-installed packages in .venv-k2" forget_half_installed "$k2" ||
    die "cannot read .venv-k2 (log: $log)"
  step "install k2 into .venv-k2" install_k2_wheel || explain_pip "cannot install k2 into .venv-k2"
  step "install its torch and the rest" pip "$k2" -r tools/constraints-k2.txt || explain_pip "cannot complete .venv-k2"
  # --no-deps: ctcsd's requirements are those of the training; what the search needs stands in constraints-k2.txt.
  step "install ctcsd there" pip "$k2" --no-deps -e . || explain_pip "cannot complete .venv-k2"
  step "build a graph with k2" "$k2/bin/python" -m ctcsd.k2_env "$k2/bin/python" ||
    die "k2 does not work in .venv-k2: $(tail -n 1 "$log") (log: $log)"
  write_stamp "$k2" k2
}

set_up_training
code=0
if [[ $want_k2 ]]; then
  set +e # a subshell that is tested would not stop at errors
  (set -e; set_up_k2)
  code=$?
  set -e
  # Without k2 all else works; the tests want it, and an interrupted set-up is not taken for a failed one.
  ((code == 0)) || [[ ! $dev ]] || exit "$code"
  ((code <= 1)) || exit "$code"
  ((code == 0)) || say "no k2, for the reason above; the decoders without k2 work"
fi
((code)) || rm -f "$log"
say "done in $SECONDS s; next: .venv/bin/ctcsd doctor"
