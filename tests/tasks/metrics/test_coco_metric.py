import json
import math
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from coco_cases import Arrays, as_batch, as_detections, by_hand, random_annotations, random_detections

from tasks.contracts import Metric
from tasks.metrics.average_precision import with_hotcoco, with_pycocotools
from tasks.metrics.coco import CocoMetric, last_limit
from tasks.metrics.table import coco_table

TWELVE = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
TWELVE += ["AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"]
BACKENDS = ["pycocotools", "hotcoco"]


def fed(metric: CocoMetric, rng: np.random.Generator, batch_size: int = 3, most: int = 12) -> CocoMetric:
    ids = metric.annotations.image_ids
    for start in range(0, len(ids), batch_size):
        metric.update(*random_detections(rng, metric.annotations, ids[start : start + batch_size], most))
    return metric


def one_object(**changes) -> Arrays:
    values = {
        "class_names": ["cat", "dog"],
        "category_ids": np.array([17, 18]),
        "image_ids": np.array([5]),
        "offsets": np.array([0, 1]),
        "ids": np.array([1]),
        "labels": np.array([1]),
        "boxes": np.array([[10.0, 10.0, 40.0, 40.0]]),
        "areas": np.array([1600.0]),
        "is_crowd": np.array([False]),
    }
    return Arrays(**{**values, **changes})


def available(backend: str) -> str:
    pytest.importorskip(backend)
    return backend


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_those_of_pycocotools_run_by_hand_on_the_written_file(tmp_path, backend, seed):
    rng = np.random.default_rng(seed)
    annotations = random_annotations(rng, num_images=14, num_classes=4)
    metric = fed(CocoMetric(annotations, backend=available(backend)), rng, most=30)
    numbers = metric.compute()
    metric.write_results(tmp_path / "detections.json")
    assert [file.name for file in tmp_path.iterdir()] == ["detections.json"], "nothing else is left behind"

    stats, printed, by_class = by_hand(annotations, tmp_path / "detections.json", tmp_path)

    assert list(numbers) == TWELVE + [f"AP/{name}" for name in annotations.class_names]
    assert [-1 if math.isnan(numbers[name]) else numbers[name] for name in TWELVE] == stats.tolist()
    ours = [numbers[f"AP/{name}"] for name in annotations.class_names]
    assert [-1 if math.isnan(value) else value for value in ours] == by_class.tolist()
    assert math.isnan(ours[-1]), "the last class has no objects"
    assert 0.05 < numbers["AP"] < 0.95
    assert coco_table(numbers).split("\n\n")[0] + "\n" == printed
    assert metric.backend_used == backend
    assert metric.results() == json.loads((tmp_path / "detections.json").read_text())


def test_a_hundred_detections_of_a_class_in_an_image_count(tmp_path):
    rng = np.random.default_rng(0)
    annotations = random_annotations(rng, num_images=2, num_classes=1, most_objects=20)
    metric = fed(CocoMetric(annotations, backend="pycocotools"), rng, most=300)
    numbers = metric.compute()
    metric.write_results(tmp_path / "detections.json")
    assert len(metric.results()) > 200
    stats, _, _ = by_hand(annotations, tmp_path / "detections.json", tmp_path)
    assert [-1 if math.isnan(numbers[name]) else numbers[name] for name in TWELVE] == stats.tolist()


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    num_images=st.integers(0, 5),
    num_classes=st.integers(1, 3),
    most_objects=st.integers(0, 8),
    most=st.sampled_from([0, 3, 20, 150]),
    limits=st.sampled_from([(1, 10, 100), (1, 2, 3), (5, 100, 200)]),
)
def test_hotcoco_equals_pycocotools_to_the_bit(seed, num_images, num_classes, most_objects, most, limits):
    pytest.importorskip("hotcoco")
    rng = np.random.default_rng(seed)
    annotations = random_annotations(rng, num_images, num_classes, most_objects)
    metric = fed(CocoMetric(annotations, max_detections=limits), rng, most=most)
    for ours, theirs in zip(
        with_hotcoco(metric._truth, metric._found(masks=False), limits),
        with_pycocotools(metric._truth, metric._found(masks=False), limits),
        strict=True,
    ):
        assert ours.dtype == theirs.dtype == np.float64
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("counts", "limit"), [((0, 0), 100), ((100, 60), 100), ((101, 0), 200), ((7, 375), 400)]
)
def test_the_last_limit_follows_from_the_objects_of_one_class_on_an_image(counts, limit):
    """Two images of 60 dogs each, and so many cats on the first and on the second."""
    labels = [[0] * count + [1] * 60 for count in counts]
    n = sum(map(len, labels))
    annotations = one_object(
        image_ids=np.array([5, 6]), offsets=np.array([0, len(labels[0]), n]), ids=np.arange(1, n + 1),
        labels=np.array(labels[0] + labels[1]), boxes=np.tile([10.0, 10.0, 40.0, 40.0], (n, 1)),
        areas=np.full(n, 1600.0), is_crowd=np.zeros(n, bool),
    )  # fmt: skip
    assert last_limit(annotations) == limit
    assert CocoMetric(annotations).max_detections == (1, 10, limit)
    assert CocoMetric(annotations, max_detections=100).max_detections == (1, 10, 100)


def test_auto_takes_hotcoco_where_it_is_installed(monkeypatch):
    pytest.importorskip("hotcoco")
    assert CocoMetric(one_object()).backend_used == "hotcoco"
    monkeypatch.setattr(
        "tasks.metrics.average_precision.find_spec", lambda name: name == "pycocotools" or None
    )
    assert CocoMetric(one_object()).backend_used == "pycocotools"
    with pytest.raises(ValueError, match="needs hotcoco, which is not installed: pip install hotcoco"):
        CocoMetric(one_object(), backend="hotcoco")


def test_neither_order_nor_size_of_batches_matters():
    rng = np.random.default_rng(3)
    annotations = random_annotations(rng, num_images=9, num_classes=3)
    parts = [random_detections(rng, annotations, annotations.image_ids[[i]], 20) for i in range(9)]
    metric: Metric = CocoMetric(annotations)
    for part in parts:
        metric.update(*part)
    first, results = metric.compute(), metric.results()
    metric.reset()
    for i in rng.permutation(9):
        metric.update(*parts[i])
    np.testing.assert_equal(metric.compute(), first)
    assert metric.results() == results


def test_update_after_compute_counts():
    annotations = one_object(image_ids=np.array([5, 6]), offsets=np.array([0, 1, 1]))
    metric = CocoMetric(annotations)
    hit = as_detections([[[10, 10, 50, 50]]], [[0.9]], [[1]])
    metric.update(hit, as_batch([5]))
    with pytest.raises(ValueError, match=r"each of its 2 images exactly once: 1 never seen .*ids 6"):
        metric.compute()
    metric.update(as_detections([[[0, 0, 5, 5]]], [[0.95]], [[1]]), as_batch([6]))
    assert metric.compute()["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("image_ids", "message"),
    [
        ([[5, 6], [5, 7]], r"1 seen more than once \(image ids 5\)"),
        ([[5, 6]], r"1 never seen \(image ids 7\)"),
        ([[5, 6], [7, 8]], r"1 not in the data set \(image ids 8\)"),
        ([], r"3 never seen \(image ids 5, 6, 7\)"),
    ],
)
def test_each_image_exactly_once(image_ids, message):
    annotations = one_object(image_ids=np.array([5, 6, 7]), offsets=np.array([0, 1, 1, 1]))
    metric = CocoMetric(annotations)
    for ids in image_ids:
        metric.update(
            as_detections(np.zeros((len(ids), 0, 4)), [[]] * len(ids), [[]] * len(ids)), as_batch(ids)
        )
    with pytest.raises(ValueError, match=message):
        metric.compute()
    with pytest.raises(ValueError, match=message):
        metric.results()


@pytest.mark.parametrize("backend", BACKENDS)
def test_hand_computed(backend):
    """IoU 40 x 30 / 1600 = 0.75: found at six of ten thresholds, after one false positive."""
    metric = CocoMetric(one_object(), backend=available(backend))
    metric.update(as_detections([[[0, 0, 9, 9], [10, 10, 50, 40]]], [[0.9, 0.8]], [[1, 1]]), as_batch([5]))
    numbers = metric.compute()
    assert numbers["AP"] == pytest.approx(0.5 * 0.6)
    assert numbers["AP50"] == numbers["AP75"] == pytest.approx(0.5)
    assert numbers["AR_1"] == 0
    assert numbers["AR_10"] == pytest.approx(0.6)
    assert numbers["AP_medium"] == pytest.approx(0.6), "the false positive is small, so out of this range"
    assert math.isnan(numbers["AP_small"])
    assert math.isnan(numbers["AP/cat"])
    assert numbers["AP/dog"] == numbers["AP"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_found_is_zero_and_nothing_there_is_nan(tmp_path, backend):
    none = as_detections(np.zeros((1, 0, 4)), [[]], [[]])
    metric = CocoMetric(one_object(), backend=available(backend))
    metric.update(none, as_batch([5]))
    numbers = metric.compute()
    assert numbers["AP"] == numbers["AR_100"] == numbers["AP/dog"] == 0
    metric.write_results(tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == metric.results() == []

    nothing = {"ids": np.zeros(0, int), "labels": np.zeros(0, int), "boxes": np.zeros((0, 4))}
    nothing |= {"areas": np.zeros(0), "is_crowd": np.zeros(0, bool), "offsets": np.array([0, 0])}
    metric = CocoMetric(one_object(**nothing), backend=backend)
    metric.update(as_detections([[[1, 1, 9, 9]]], [[0.5]], [[0]]), as_batch([5]))
    assert all(math.isnan(value) for value in metric.compute().values())
    assert len(metric.results()) == 1

    empty = one_object(**{**nothing, "image_ids": np.zeros(0, int), "offsets": np.array([0])})
    assert all(math.isnan(value) for value in CocoMetric(empty, backend=backend).compute().values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_printed(capfd, backend):
    rng = np.random.default_rng(0)
    fed(CocoMetric(random_annotations(rng, 3, 2), backend=available(backend)), rng).compute()
    assert capfd.readouterr() == ("", "")


def test_an_annotation_with_id_0_scores_as_cocos_code_does(tmp_path):
    annotations = one_object(ids=np.array([0]))
    with pytest.warns(UserWarning, match="an annotation has id 0"):
        metric = CocoMetric(annotations)
    metric.update(as_detections([[[10, 10, 50, 50]]], [[0.9]], [[1]]), as_batch([5]))
    numbers = metric.compute()
    metric.write_results(tmp_path / "detections.json")
    stats, _, _ = by_hand(annotations, tmp_path / "detections.json", tmp_path)
    assert stats[0] == numbers["AP"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["cat", "cat"]}, "class_names must all be different.*more than once: cat"),
        ({"category_ids": np.array([3, 3])}, "category_ids must all be different.*more than once: 3"),
    ],
)
def test_annotations_that_cannot_be_scored(changes, message):
    with pytest.raises(ValueError, match=message):
        CocoMetric(one_object(**changes))


def test_bad_settings():
    with pytest.raises(ValueError, match="backend 'coco' is unknown: take auto, hotcoco or pycocotools"):
        CocoMetric(one_object(), backend="coco")
    with pytest.raises(ValueError, match="three ascending limits"):
        CocoMetric(one_object(), max_detections=(1, 100, 10))


def test_predictions_that_cannot_be_scored():
    metric = CocoMetric(one_object())
    with pytest.raises(ValueError, match="predicts class number 2 but the annotations have 2"):
        metric.update(as_detections([[[0, 0, 9, 9]]], [[0.9]], [[2]]), as_batch([5]))
    with pytest.raises(ValueError, match="it has diverged"):
        metric.update(as_detections([[[0, 0, math.nan, 9]]], [[0.9]], [[1]]), as_batch([5]))


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    metric = CocoMetric(one_object())
    metric.update(as_detections([[[0, 0, 9, 9]]], [[0.9]], [[1]]), as_batch([5]))
    metric.compute()
    (tmp_path / "found.json").write_text("old")
    monkeypatch.setattr("tasks.files.json.dumps", lambda record: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        metric.write_results(tmp_path / "found.json")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("found.json", "old")]


RANK = """
import sys
import numpy as np, torch.distributed as dist
sys.path[:0] = [sys.argv[3], sys.argv[4]]
from coco_cases import random_annotations, random_detections
from tasks.metrics.coco import CocoMetric, last_limit
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
annotations = random_annotations(np.random.default_rng(1), 7, 3)
metric = CocoMetric(annotations)
for i in range(rank, 7, 2):
    metric.update(*random_detections(np.random.default_rng(i), annotations, annotations.image_ids[[i]], 9))
print(repr((metric.compute(), metric.results())))
dist.destroy_process_group()
"""


def test_two_ranks_give_the_numbers_of_one(tmp_path):
    here = Path(__file__).parent
    command = [sys.executable, "-W", "ignore", "-c", RANK]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), str(here), str(here.parents[2])],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]

    annotations = random_annotations(np.random.default_rng(1), 7, 3)
    metric = CocoMetric(annotations)
    for i in range(7):
        metric.update(
            *random_detections(np.random.default_rng(i), annotations, annotations.image_ids[[i]], 9)
        )
    assert outputs == [repr((metric.compute(), metric.results())) + "\n"] * 2


def test_table_puts_classes_in_columns_downwards():
    numbers = dict.fromkeys(TWELVE, 0.5) | {f"AP/class {k}": k / 100 for k in range(30)}
    table = coco_table(numbers, width=60)
    rows = table.split("AP by class\n")[1].split("\n")
    assert len(rows) == 10
    assert rows[1] == " class 1    0.010   class 11   0.110   class 21   0.210"
    assert max(map(len, rows)) <= 60


def test_table_of_other_limits_and_of_no_objects():
    numbers = dict.fromkeys(TWELVE, math.nan)
    numbers = {name.replace("AR_100", "AR_300"): value for name, value in numbers.items()}
    lines = coco_table(numbers).split("\n")
    assert len(lines) == 12
    assert lines[0] == " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=300 ] = -1.000"
    assert lines[7] == " Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets= 10 ] = -1.000"
