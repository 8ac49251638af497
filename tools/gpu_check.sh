#!/usr/bin/env bash
# All that a CUDA device is needed for, in under eight minutes: the tests marked `gpu`, then our training step,
# inference, RoIAlign and counts beside torchvision's. The environment needs torch, torchvision and the extras
# `train` and `dev`; PYTHON says which.
#
#   tools/gpu_check.sh OUT      OUT gets tests.log, benchmark.jsonl and versions.txt
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?give the folder for what comes out: tools/gpu_check.sh OUT}
python=${PYTHON:-python3}
mkdir -p "$out"
"$python" -c "import torch; assert torch.cuda.is_available(), 'no CUDA device'" || exit 2
{ nvidia-smi --query-gpu=name,driver_version --format=csv; "$python" -m pip freeze; } > "$out/versions.txt" 2>&1

status=0
timeout 200 "$python" -m pytest -m gpu -q tests 2>&1 | tee "$out/tests.log" || status=1

benchmark() { # what takes too long or fails leaves the others their turn
  timeout "$1" "$python" tools/benchmark.py "${@:2}" --device cuda | tee -a "$out/benchmark.jsonl" || status=1
}
: > "$out/benchmark.jsonl"
benchmark 90 train-step --batch 2,8,16 --precision fp32,bf16
benchmark 60 infer --batch 2,8,16 --precision fp32,bf16
benchmark 30 train-step --model resnet50 --size 224x224 --batch 8 --precision fp32,bf16
benchmark 20 roi-align --rois 1024 --precision fp32,bf16
benchmark 20 assign --gts 7,20,100
benchmark 60 train-step --batch 2 --precision bf16 --compile
exit $status
