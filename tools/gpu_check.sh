#!/usr/bin/env bash
# All that a CUDA device is needed for, in about nine minutes: the tests marked `gpu`, then training and inference of
# every detector and of ResNet-50 beside torchvision's. Needs torch, torchvision, lightning, pytest, pytest-xdist and
# what tools/gpu_wheels.sh collects; PYTHON says which interpreter.
#
#   tools/gpu_check.sh OUT      OUT gets tests.log, benchmark.jsonl, table.md, table.json and versions.txt
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?give the folder for what comes out: tools/gpu_check.sh OUT}
python=${PYTHON:-python3}
export PYTHONPATH="$PWD:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
mkdir -p "$out"
"$python" -c "import torch; assert torch.cuda.is_available(), 'no CUDA device'" || exit 2
{
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
  nproc
  "$python" -c "import torch, torchvision, numpy, lightning, triton
for module in (torch, torchvision, numpy, lightning, triton): print(module.__name__, module.__version__)"
} > "$out/versions.txt" 2>&1
cat "$out/versions.txt"

status=0
# Only the files that have such tests are collected. TF32 would round the factors of a comparison to ten bits.
mapfile -t files < <(grep -rlE '(pytest\.)?mark\.gpu' tests --include='test_*.py')
NVIDIA_TF32_OVERRIDE=0 timeout 200 "$python" -m pytest -m gpu -q -p no:benchmark -p no:cacheprovider -n 4 \
  --durations 5 "${files[@]}" 2>&1 | tee "$out/tests.log" | tail -n 40 || status=1

benchmark() { # what takes too long or fails leaves the others their turn
  timeout "$1" "$python" tools/benchmark.py "${@:2}" --device cuda >> "$out/benchmark.jsonl" \
    2>> "$out/benchmark.log" || { echo "failed: ${*:2}" >&2; status=1; }
}
: > "$out/benchmark.jsonl"
for model in mask_rcnn_r50_fpn faster_rcnn_r50_fpn retinanet_r50_fpn fcos_r50_fpn; do
  benchmark 60 train-step --model "$model" --batch 2,8,16 --precision bf16
done
for model in faster_rcnn_r50_fpn retinanet_r50_fpn fcos_r50_fpn; do
  benchmark 60 infer --model "$model" --batch 1,8 --precision bf16
done
benchmark 60 infer --model mask_rcnn_r50_fpn --batch 1,8 --precision bf16 --repeats 3
benchmark 40 train-step --model resnet50 --size 224x224 --batch 256 --precision bf16
benchmark 20 roi-align --rois 1024 --precision fp32,bf16
benchmark 20 assign --gts 7,20,100
benchmark 140 train-step --model mask_rcnn_r50_fpn --batch 8 --precision bf16 --compile
"$python" tools/benchmarks/table.py "$out" || status=1
exit $status
