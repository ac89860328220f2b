#!/usr/bin/env bash
# All stages in sequence: scripts/run_pipeline.sh PRESET RUN [CORPUS], which is `python -m rlhf.pipeline` from any folder.
# RUN and CORPUS are paths from the current folder, whichever that is.
# SEED is every stage's seed (default 1). PYTHON chooses the interpreter; LAUNCH="accelerate launch" starts every stage on all devices.
set -euo pipefail
if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    echo "error: usage: scripts/run_pipeline.sh PRESET RUN [CORPUS]" >&2
    exit 2
fi
# Python is told where the project is, and not to look for it in the current folder, which is the user's.
script=$(readlink -f "$0" || echo "$0")
PYTHONPATH=$(CDPATH='' cd -- "$(dirname "$script")/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH PYTHONSAFEPATH=1
exec "${PYTHON:-python}" -m rlhf.pipeline "$1" --run "$2" --corpus "${3:-auto}" ${SEED:+--seed "$SEED"} ${LAUNCH:+--launch "$LAUNCH"}
