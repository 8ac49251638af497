"""Predicts many generated pictures over several ranks, kills the run twice, and says what is in the results and memory.

python tools/benchmarks/many_pictures.py --pictures 2000 --ranks 2

One JSON line: how often each picture is in the results, and the resident memory of the ranks in the last run: the most
of the first minute, the most afterwards, and their ratio for the rank where it is worst. Exit status 1 where a picture
is missing or twice, or memory grows by more than 5 %. Needs /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
SIZES = ((120, 160), (160, 120), (140, 180), (160, 160))
FIRST = 60.0
"""Seconds that memory is compared with."""
GROWTH = 1.05


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--port", type=int, default=29641)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        report = measure(Path(place), arguments.pictures, arguments.ranks, arguments.port)
    print(json.dumps(report))
    sys.exit(report["missing"] > 0 or report["repeated"] > 0 or report["memory_ratio"] > GROWTH)


def measure(place: Path, num_pictures: int, ranks: int, port: int) -> dict[str, float]:
    """Runs it all in the folder `place`."""
    names = write_pictures(place / "in", num_pictures)
    model = write_model(place)
    words = [f"checkpoint={model}", f"source={place / 'in'}", f"output={place / 'out'}", "device=cpu",
             "precision=32-true", "score_threshold=0.1", "draw=false"]  # fmt: skip
    done_at_kills = []
    for kill, share in enumerate((0.05, 0.15)):
        process = start(words, ranks, port + kill)
        while num_done(place / "out") < share * num_pictures:
            time.sleep(0.1)
            assert process.poll() is None, "the run ended by itself"
        for pid in [process.pid, *descendants(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        done_at_kills.append(num_done(place / "out"))
        print(f"killed with {done_at_kills[-1]} of {num_pictures} done", file=sys.stderr, flush=True)
    process = start(words, ranks, port + 2)
    memory: dict[int, list[tuple[float, int]]] = {}
    while num_done(place / "out") <= done_at_kills[-1]:  # importing and reading the model
        time.sleep(0.1)
        assert process.poll() is None, "the last run failed"
    begin = time.monotonic()
    while process.poll() is None:
        time.sleep(0.5)
        for pid in descendants(process.pid):
            if (size := resident(pid)) is not None:
                memory.setdefault(pid, []).append((time.monotonic() - begin, size))
    assert process.returncode == 0, "the last run failed"
    report = json.loads((place / "out" / "predictions.json").read_text())
    counts = Counter(Path(entry["file"]).name for entry in report["pictures"])
    first, later = [], []
    for samples in memory.values():
        early = [size for seconds, size in samples if seconds <= FIRST]
        late = [size for seconds, size in samples if seconds > FIRST]
        if early and late:
            first.append(max(early))
            later.append(max(late))
    ratios = [late / early for early, late in zip(first, later, strict=True)]
    assert len(ratios) >= ranks, "the last run took less than a minute; give more pictures"
    return {
        "pictures": num_pictures,
        "ranks": ranks,
        "missing": len(set(names) - set(counts)),
        "repeated": sum(count > 1 for count in counts.values()),
        "unreadable": len(report["unreadable"]),
        "killed_at": done_at_kills,  # type: ignore[dict-item]
        "seconds_of_last_run": round(time.monotonic() - begin),
        "first_minute_mib": round(max(first) / 2**20),
        "afterwards_mib": round(max(later) / 2**20),
        "memory_ratio": round(max(ratios), 4),
    }


def write_pictures(folder: Path, count: int) -> list[str]:
    """JPEGs of a few sizes, in two folders; their names."""
    names = []
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        blocks = np.random.default_rng(number).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
        image = Image.fromarray(blocks).resize((width, height), Image.Resampling.BILINEAR)
        names.append(f"{number:06d}.jpg")
        path = folder / ("even", "odd")[number % 2] / names[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return names


def write_model(folder: Path) -> Path:
    """A tiny Faster R-CNN of random weights that finds something everywhere."""
    import torch

    from tasks.preprocessing import Preprocessing
    from tasks.zoo.model_file import new_model, save_model

    torch.manual_seed(0)
    spec = {
        "name": "faster_rcnn", "pyramid": {"name": "fpn", "channels": 32},
        "backbone": {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [16, 32, 48, 64]},
        "box_representation_size": 64, "rpn_post_nms_test": 50, "score_threshold": 0.05,
    }  # fmt: skip
    model = new_model("detection", spec, ["a", "b", "c"], [1, 2, 3], Preprocessing(short_side=None))
    path = folder / "model.safetensors"
    save_model(path, model, model.header)
    return path


def start(words: list[str], ranks: int, port: int) -> subprocess.Popen[bytes]:
    """`predict` under torchrun."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}"]
    command = [sys.executable, *launch, str(ROOT / "tools" / "predict.py"), *words]
    return subprocess.Popen(command, env=environment, stdout=sys.stderr)


def num_done(output: Path) -> int:
    """Pictures whose results are written."""
    return sum(path.read_bytes().count(b"\n") for path in output.glob(".unfinished/[0-9]*.jsonl"))


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    try:
        files = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has ended
        return []
    children = [int(child) for text in files for child in text.split()]
    return children + [other for child in children for other in descendants(child)]


def resident(pid: int) -> int | None:
    """Bytes of memory that a process has; None where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


if __name__ == "__main__":
    main()
