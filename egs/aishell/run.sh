#!/usr/bin/env bash
# The shared driver, for this recipe; see ../../run.sh --help.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../run.sh" --recipe "egs/$(basename "$here")" "$@"
