#!/bin/sh
# Makes .venv with every pinned package, after a look at disk and memory. Does nothing when it is up to date.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

fail() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 1; }

stamp=$(cat requirements.txt requirements-embedded.txt constraints.txt | cksum)
[ "$(cat "$VENV/.installed" 2>/dev/null || true)" = "$stamp" ] && exit 0

[ -e "$VENV/pyvenv.cfg" ] || [ -z "$(ls -A "$VENV" 2>/dev/null)" ] || fail \
  "expected a virtual environment or nothing yet at $VENV, got other files" \
  "set VENV to another folder, or delete this one if it holds nothing of yours"

command -v "$PYTHON" >/dev/null || fail "expected $PYTHON, found none" "apt-get install python3 python3-pip"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail \
  "expected Python 3.11 or newer, got $("$PYTHON" --version)" "set PYTHON=/path/to/python3.11"
disk=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$disk" -ge 8 ] || fail "expected 8 GB of free disk (packages 6, base model 1, data 1), got $disk GB in $(pwd)" \
  "free some, or clone onto a larger disk"
memory=$(awk '/MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo 2>/dev/null || true)  # only Linux has this file
[ "${memory:-7}" -ge 7 ] ||
  echo "warning: $memory GB of memory are free; training the embedded model takes 6, \`make chat\` takes 3" >&2

if [ ! -x "$VENV/bin/python" ]; then
  echo "setup: making $VENV"
  "$PYTHON" -m venv "$VENV" >/dev/null 2>&1 || {  # Debian splits venv off: build it with virtualenv, kept out of the system
    rm -rf "$VENV"
    "$PYTHON" -m pip install --quiet --target "$VENV.tool" virtualenv ||
      fail "expected venv or pip, found neither" "apt-get install python3-pip"
    PYTHONPATH="$VENV.tool" "$PYTHON" -m virtualenv --quiet "$VENV"
    rm -rf "$VENV.tool"
  }
fi
echo "setup: installing pinned packages (some minutes and a few GB the first time)"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-embedded.txt
printf '%s' "$stamp" >"$VENV/.installed"
echo "setup: done"
