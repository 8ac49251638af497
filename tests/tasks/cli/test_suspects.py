"""`vertebra suspects`: who judges, that folds never judge what they have learnt, and what is written."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tasks.cli.suspects import write
from tasks.data.formats.coco import CocoData
from tasks.data.formats.digits import DigitsData
from tasks.data.parts import Parts, folds
from tasks.harness import cross_fit
from tasks.harness.evaluate import evaluate
from tasks.harness.reporter import Reporter
from tasks.harness.settings import EvaluateSettings, LoaderSettings, TrainerSettings
from tasks.metrics.average_precision import GroundTruth, Predictions
from tasks.metrics.matches import match
from tasks.metrics.suspects import Suspect
from tasks.report.objects import ObjectResults
from tasks.report.results import results_of
from tasks.zoo.model_file import read
from tests.commands import command
from tests.tasks.zoo.small_weights import write_coco
from tests.tiny_runs import quiet_lightning, tiny_run

quiet_lightning()
DATA = {"num_train": 40, "num_val": 4, "num_test": 1, "size": 96}
WORDS = [
    *(f"data.{key}={value}" for key, value in DATA.items()), "data=digits", "precision=32-true", "pictures=2",
    "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tiny_run("fcos", tmp_path_factory.mktemp("suspects") / "run", "model.score_threshold=0.0", steps=2)


@pytest.fixture(scope="module")
def folded(run: Path) -> Path:
    """What `folds=2` has left."""
    out = run.parent / "folded"
    words = [f"checkpoint={run}", "split=train", "folds=2", "steps=1", f"run_dir={out}", *WORDS]
    done = command("suspects", *words)
    assert done.returncode == 0, done.stderr
    assert "fold 2 of 2: trained on 20 images" in done.stdout
    assert f"judged by 2 models of the recipe of {run}, trained now, each on its own fold" in done.stdout
    return out


def test_one_model_says_that_it_must_not_have_learnt_from_them(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = command("suspects", f"checkpoint={run}", f"run_dir={out}", "number=7", *WORDS)
    assert done.returncode == 0, done.stderr
    assert f"judged by {run} alone, which must not have learnt from them" in done.stdout
    with open(out / "suspects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert f"judged by {run} alone" in (out / "suspects.html").read_text()
    bad = command("suspects", f"checkpoint={run}", "split=train", *WORDS)
    assert bad.returncode == 2 and "give folds=5" in bad.stderr


def test_folds_are_disjoint_and_models_say_which_is_theirs(folded: Path) -> None:
    places = [read(folded / f"fold-{k}" / "model.safetensors")[0].provenance[cross_fit.KEY] for k in (1, 2)]
    assert [place["place"] for place in places] == [0, 1] and {place["split"] for place in places} == {
        "train"
    }
    environments = [
        json.loads((folded / f"fold-{k}" / "environment.json").read_text())["data"] for k in (1, 2)
    ]
    assert environments[0]["train"]["fingerprint"] == environments[1]["val"]["fingerprint"]
    assert environments[0]["val"]["fingerprint"] == environments[1]["train"]["fingerprint"]
    with open(folded / "suspects.csv", newline="") as file:
        images = {row["image"] for row in csv.DictReader(file)}
    parts = folds(40, 2)
    assert all(any(f"train/{i:05d}.png" in images for i in part.tolist()) for part in parts)


def test_given_models_judge_their_own_folds_alone(folded: Path, tmp_path: Path) -> None:
    files = [folded / f"fold-{k}" / "model.safetensors" for k in (1, 2)]
    listed = "[" + ",".join(map(str, files)) + "]"
    again = command("suspects", f"models={listed}", "split=train", f"run_dir={tmp_path / 'again'}", *WORDS)
    assert again.returncode == 0, again.stderr
    assert "judged by 2 given models, each on its own fold" in again.stdout
    assert (tmp_path / "again" / "suspects.csv").read_text() == (folded / "suspects.csv").read_text()
    turned = "[" + ",".join(map(str, files[::-1])) + "]"
    for words, message in (
        ([f"models={turned}", "split=train"], "is of fold 2 of 2"),
        ([f"models={listed}", "split=val"], "has learnt from other annotations, or another split"),
        ([f"models=[{files[0]}]", "split=train"], "is of fold 1 of 2"),
        ([f"models={listed}", "folds=2", "split=train"], "not both"),
    ):
        bad = command("suspects", *words, f"run_dir={tmp_path / 'bad'}", *WORDS)
        assert bad.returncode == 2 and message in bad.stderr, bad.stderr
    assert not (tmp_path / "bad").exists()


def test_bad_folds(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "model.safetensors"
    alone.write_bytes((run / "model.safetensors").read_bytes())
    for words, message in (
        ([f"checkpoint={alone}", "folds=2"], "the config.yaml of its run does not lie in"),
        ([f"checkpoint={run}", "folds=3"], "folds=3 must be at least 2, and leave 2 images of the 4 in each"),
    ):
        bad = command("suspects", *words, f"run_dir={tmp_path / 'bad'}", *WORDS)
        assert bad.returncode == 2 and message in bad.stderr, bad.stderr


def test_what_folds_find_is_put_together_by_image(run: Path) -> None:
    """The same model for both folds finds on the whole split what it finds on it at once."""
    quiet_lightning()
    source = DigitsData(**DATA)
    settings = EvaluateSettings(
        trainer=TrainerSettings(accelerator="cpu"), loader=LoaderSettings(batch_size=4), precision="32-true"
    )
    results = cross_fit.judge([run, run], source, "train", settings, Reporter())
    whole = results_of(evaluate(run, source, split="train", settings=settings).results)["objects"][0]
    for name in ("images", "categories", "boxes", "scores"):
        np.testing.assert_allclose(
            getattr(results.found, name), getattr(whole.found, name), rtol=1e-4, atol=1e-3
        )
    np.testing.assert_array_equal(results.truth.images, whole.truth.images)


def test_joining_nothing_and_parts() -> None:
    nothing = Predictions(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    one = Predictions(np.array([3, 1]), np.array([0, 1]), np.ones((2, 4)), np.array([0.5, 0.6]))
    assert cross_fit.joined([nothing, one]).images.tolist() == [1, 3]


def test_folds_are_as_equal_as_can_be() -> None:
    parts = folds(11, 3)
    assert sorted(map(len, parts)) == [3, 4, 4]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(11))
    data = Parts(DigitsData(**DATA), {"train": ("train", parts[0])})
    assert not data.has_split("val")
    with pytest.raises(ValueError, match="have no val split; they have train"):
        data.split("val")


@pytest.mark.parametrize("ids", [[0, 7], ["first", "second"]])
def test_annotations_are_called_as_their_file_calls_them(ids: list[int | str], tmp_path: Path) -> None:
    """Also the one of id 0."""
    root = write_coco(tmp_path / "coco", {"cat": 1})
    path = root / "annotations" / "instances_val2017.json"
    contents = json.loads(path.read_text())
    one = contents["annotations"][0]
    contents["annotations"] = [
        {**one, "id": written, "bbox": [8 * place, 8, 24, 24]} for place, written in enumerate(ids)
    ]
    path.write_text(json.dumps(contents))
    source = CocoData(root)
    annotations = source.with_boxes().split("val").annotations
    images, categories = np.zeros(2, np.int64), np.zeros(2, np.int64)
    truth = GroundTruth(
        len(annotations), 1, images, categories, annotations.boxes, annotations.areas, annotations.is_crowd,
        annotations.ids,
    )  # fmt: skip
    nothing = Predictions(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    results = ObjectResults("boxes", truth, nothing, match(truth, nothing, 100), ["cat"], None)
    ranked = [Suspect("spurious", 0.9, 0, row, -1) for row in (0, 1)]
    listed = write(tmp_path, ranked, results, source, "val", 0, "")
    assert [entry["annotation"] for entry in listed] == ids
    assert json.loads((tmp_path / "suspects.json").read_text()) == listed


def test_one_model_alone_is_no_list_of_letters(run: Path, tmp_path: Path) -> None:
    words = [f"models={run / 'model.safetensors'}", "split=val", f"run_dir={tmp_path / 'out'}"]
    bad = command("suspects", *words, *WORDS)
    assert bad.returncode == 2 and "does not say which images it has not learnt from" in bad.stderr
