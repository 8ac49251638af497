#!/usr/bin/env bash
# Collects, as wheels, what tools/gpu_check.sh needs beside torch, torchvision, lightning and numpy, for a GPU machine
# without a package index: under 15 MB, the project's own wheel among them. PYTHON_VERSION is that machine's.
#
#   PYTHON_VERSION=3.12 tools/gpu_wheels.sh FOLDER
#   there: python3 -m pip install --no-index --no-deps --target SITE FOLDER/*.whl; PYTHONPATH=.:SITE tools/gpu_check.sh OUT
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?give the folder for the wheels: tools/gpu_wheels.sh FOLDER}
python=${PYTHON:-python3}
mkdir -p "$folder"
packages=(hydra-core omegaconf antlr4-python3-runtime pycocotools hotcoco albumentations albucore stringzilla simsimd
  pydantic pydantic_core annotated-types typing-inspection)
for name in "${packages[@]}"; do grep -i "^$name==" constraints.txt; done > "$folder/wanted.txt"
# This one comes as source alone, and is the same on every machine.
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$(grep '^antlr4' "$folder/wanted.txt")" .
grep -v '^antlr4' "$folder/wanted.txt" > "$folder/ready.txt"
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
  --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
  --platform manylinux2014_x86_64 --dest "$folder" --requirement "$folder/ready.txt"
rm "$folder/wanted.txt" "$folder/ready.txt"
du -sh "$folder"
