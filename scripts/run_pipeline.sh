#!/usr/bin/env bash
# All stages in sequence: scripts/run_pipeline.sh PRESET RUN [CORPUS]
# A finished stage is kept and an unfinished one continued: if interrupted, run the same command again.
# RUN and CORPUS are paths from the current folder, whichever that is.
# SEED is every stage's seed (default 1). PYTHON chooses the interpreter; LAUNCH="accelerate launch" starts every stage on all devices.
set -euo pipefail
if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    echo "error: usage: scripts/run_pipeline.sh PRESET RUN [CORPUS]" >&2
    exit 2
fi
preset=$1 run=${2/#\~\//$HOME/} corpus=${3:-auto}
read -ra launch <<<"${LAUNCH:-}"
[ ${#launch[@]} -gt 0 ] || launch=("${PYTHON:-python}")
# Python is told where the project is, and not to look for it in the current folder, which is the user's.
script=$(readlink -f "$0" || echo "$0")
PYTHONPATH=$(CDPATH='' cd -- "$(dirname "$script")/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH PYTHONSAFEPATH=1
timings=()

stage() { # NAME MODULE ARGUMENTS…
    local name=$1 started=$SECONDS resume=()
    shift
    if [ -f "$run/$name/stage.json" ]; then
        echo "$name: finished before, kept ($run/$name)" >&2
        return
    fi
    if [ -f "$run/.$name.partial/settings.json" ]; then resume=(--resume); fi
    "${launch[@]}" -m "$@" --run "$run" ${SEED:+--seed "$SEED"} ${resume[@]+"${resume[@]}"}
    timings+=("$(printf '%-9s %4d s' "$name" $((SECONDS - started)))")
}

stage pretrain pretrain "$preset" --corpus "$corpus"
stage sft sft "$preset"
stage reward reward "$preset"
stage rlhf rlhf "$preset"
stage compare rlhf.compare
printf '%s\n' ${timings[@]+"${timings[@]}"} "$(printf '%-9s %4d s' total "$SECONDS")" >&2
echo "report: $run/compare/report.html" >&2
echo "play with the models: ${PYTHON:-python} -m rlhf.play --run $run" >&2
