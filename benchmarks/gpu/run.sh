#!/usr/bin/env bash
# Measures on the GPU of this machine, in under eight minutes, and prints one JSON.
#
#     bash benchmarks/gpu/run.sh [OUT.json [OPTIONS OF bench.py]]
#
# Needs no network. What wheels.sh has collected comes before what is installed, which stays as it is.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if compgen -G 'benchmarks/gpu/wheels/*.whl' > /dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" \
        benchmarks/gpu/wheels/*.whl >&2
    # reasoning-gym imports it for a task that is not run here; it has no wheel.
    "$python" -c 'import pycosat' 2> /dev/null || : > "$site/pycosat.py"
fi
export PYTHONPATH="$PWD/src:$PWD/benchmarks:$site${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m gpu.bench ${1:+--output "$1"} "${@:2}"
