#!/usr/bin/env bash
# Hours of faults: damaged files of every kind, then whole runs that are killed or stalled, or whose disks fill up or refuse.
set -euo pipefail

usage() {
  cat <<'END'
usage: tests/faults/soak.sh [--mutations N] [--runs N] [--kills N] [--seed N] [--threads N]
  --mutations N  damages of each kind of file that we read   (default: 500; 0: none)
  --runs N       runs of ./run.sh --quick, each with a fault (default: 8; 0: none)
  --kills N      of one training (tests/train/test_resume.py) (default: 0: none)
  --seed N       of all the faults                           (default: a random one, which is printed)
  --threads N    of a training; its last bits depend on them (default: 1)
The faults take turns: SIGKILL at a random moment; a limit on the size of files; and, for root, a disk of a random size
and one that cannot be written (others: a folder without permission); then a run that stalls: all its processes stand
still for seconds, at random moments, as behind a slow disk. After each the run is started again without a
fault: it must end with the same model and the same hypotheses as a run that met none.
END
}
fail() { echo "soak: $1" >&2; exit "${2:-1}"; }

mutations=500 runs=8 kills=0 seed=$RANDOM threads=1
while (($#)); do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --mutations | --runs | --kills | --seed | --threads)
      [[ ${2:-} =~ ^[0-9]+$ ]] || fail "$1 takes a whole number (see --help)" 2
      declare "${1#--}=$2"
      shift
      ;;
    *) fail "unknown option '$1' (see --help)" 2 ;;
  esac
  shift
done
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=.venv/bin/python
[[ -x $python ]] || fail "no .venv: run tools/setup.sh --dev"
export OMP_NUM_THREADS=$threads
echo "soak: seed $seed"
troubles=0

if ((mutations)); then
  "$python" -m pytest -q -s -W ignore tests/faults/test_corrupt.py --mutations "$mutations" --fault-seed "$seed" |
    grep -E '^faults:|^E  |passed|failed' || troubles=1
fi
if ((kills)); then
  "$python" -m pytest -q -s -W ignore tests/train/test_resume.py -k loop_of_kills --kills "$kills" |
    grep -E '^seed of the kills|^E  |passed|failed' || troubles=1
fi
((runs)) || exit "$troubles"

work=$(mktemp -d "${TMPDIR:-/tmp}/ctcsd-soak.XXXXXX")
disk=$work/disk
clean_up() {
  umount "$disk" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 143' INT TERM
mkdir "$disk"
can_mount=
if mount -t tmpfs -o size=1m tmpfs "$disk" 2>/dev/null; then
  umount "$disk"
  can_mount=yes
fi

whole_run() { # whole_run EXP: a tiny model of few cuts; the same result each time
  PATH=$PWD/.venv/bin:$PATH ./run.sh --no-setup --quick --methods ctc --stage 1 --exp "$1" data.train=mini_dev decode.methods='[greedy]' \
    model.layers=2 student_layers=1 model.dim=32 model.heads=2 model.subsampling_channels=4 train.epochs=4 train.save_minutes=0.01
}
results() { # results EXP: what has to come out the same
  (cd "$1" && sha256sum ctc/seed1/model.safetensors ctc/seed1/decode/greedy/hyps-*.jsonl)
}
note() { # note TEXT: a trouble, with the end of the log
  troubles=$((troubles + 1))
  echo "soak: TROUBLE: $1" >&2
  tail -n 5 "$work/log" >&2
}
check_log() { # check_log NAME: what a fault may leave behind: a line, never a stack trace, never half a checkpoint
  if grep -q 'Traceback' "$work/log"; then note "$1: a stack trace"; fi
  "$python" - "$disk" <<'END' || note "$1: a damaged checkpoint"
import pathlib, sys
from ctcsd.train.resume import damage
sys.exit(any(damage(path) for path in pathlib.Path(sys.argv[1]).rglob("*.ckpt") if not path.name.startswith(".")))
END
}

PATH=$PWD/.venv/bin:$PATH ./run.sh --no-setup --quick --stop-stage 0 >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; fail "stage 0 failed"; }
start=$SECONDS
whole_run "$work/plain" >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; fail "the run without a fault failed"; }
usual=$((SECONDS - start + 1))
expected=$(results "$work/plain")
echo "soak: a run without a fault takes $usual s"

RANDOM=$seed
for ((i = 1; i <= runs; i++)); do
  fault=$(((i - 1) % 5)) draw=$((RANDOM * 32768 + RANDOM)) code=0
  case $fault in
    0)
      name="killed after $((draw % usual + 1)) s"
      # A session of its own, so that all its processes are killed and no other.
      setsid bash -c "$(declare -f whole_run); whole_run \"\$1\"" soak "$disk" >"$work/log" 2>&1 &
      sleep $((draw % usual + 1))
      kill -9 -- "-$!" 2>/dev/null || true
      wait $! 2>/dev/null || code=$?
      ;;
    1)
      name="files of at most $((draw % 400)) KiB"
      (ulimit -c 0 && ulimit -f $((draw % 400)) && whole_run "$disk") >"$work/log" 2>&1 || code=$?
      ;;
    2)
      size=$((draw % 4000 + 50))
      name="a disk of $size KiB"
      if [[ ! $can_mount ]]; then
        echo "soak: run $i: $name: left out, it takes root" && continue
      fi
      mount -t tmpfs -o "size=${size}k" tmpfs "$disk"
      whole_run "$disk" >"$work/log" 2>&1 || code=$?
      ;;
    3)
      name="a disk that cannot be written"
      if [[ $can_mount ]]; then
        mount -t tmpfs -o ro tmpfs "$disk"
      else
        chmod a-w "$disk"
      fi
      whole_run "$disk" >"$work/log" 2>&1 || code=$?
      ;;
    4)
      name="stalled"
      setsid bash -c "$(declare -f whole_run); whole_run \"\$1\"" soak "$disk" >"$work/log" 2>&1 &
      while sleep $((RANDOM % 5 + 1)) && kill -STOP -- "-$!" 2>/dev/null; do
        sleep $((RANDOM % 4 + 1))
        kill -CONT -- "-$!"
      done
      wait $! || code=$?
      ((code == 0)) || note "run $i ($name): ended with $code"
      ;;
  esac
  check_log "run $i ($name)"
  if mountpoint -q "$disk"; then mount -o remount,rw,size=1g "$disk"; fi
  chmod u+w "$disk"
  again=0
  whole_run "$disk" >"$work/log" 2>&1 || again=$?
  if ((again)); then
    note "run $i ($name): the second start ended with $again"
  elif [[ $(results "$disk") != "$expected" ]]; then
    note "run $i ($name): another model or other hypotheses"
  else
    echo "soak: run $i: $name: ended with $code; the second start with the same model and hypotheses"
  fi
  umount "$disk" 2>/dev/null || true
  rm -rf "$disk" && mkdir "$disk"
done
((troubles == 0)) || fail "$troubles troubles, seed $seed"
echo "soak: no trouble in $SECONDS s, seed $seed"
