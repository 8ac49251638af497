"""Thresholds and calibration, fitted, stored in the model file and used where it predicts."""

import json
from pathlib import Path

import numpy as np
import pytest

import tasks
from tasks.data.formats.digits import DigitsData
from tasks.harness.settings import EvaluateSettings, LoaderSettings, TrainerSettings
from tasks.harness.tuning import tune
from tasks.metrics.operating_point import KEY, OperatingPoint
from tasks.zoo.model_file import parse_header, read
from tests.commands import command
from tests.tiny_runs import quiet_lightning, tiny_run

quiet_lightning()
DATA = {"num_train": 40, "num_val": 4, "num_test": 1, "size": 96}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tiny_run("fcos", tmp_path_factory.mktemp("tuning") / "run", "model.score_threshold=0.0", steps=3)


def settings() -> EvaluateSettings:
    return EvaluateSettings(
        trainer=TrainerSettings(accelerator="cpu"), loader=LoaderSettings(batch_size=4), precision="32-true"
    )


def test_a_tuned_file_has_the_same_ap_and_shows_what_reaches_its_thresholds(
    run: Path, tmp_path: Path
) -> None:
    source, out = DigitsData(**DATA), tmp_path / "tuned.safetensors"
    point = tune(run, source, out=out, settings=settings())
    assert point.about["split"] == "val" and point.about["images"] == 4
    before, after = (
        tasks.evaluate(path, source, settings=settings()).numbers for path in (run / "model.safetensors", out)
    )
    np.testing.assert_equal(after, before)

    header, weights = read(out)
    stored = OperatingPoint.in_header(header.provenance, len(header.class_names))
    assert stored is not None
    np.testing.assert_array_equal(stored.thresholds, point.thresholds)
    assert (
        parse_header(json.loads(json.dumps(vars(header))), out).format_version == 1
    )  # what every reader takes
    for name, value in read(run)[1].items():
        assert (value == weights[name]).all()

    image = source.split("val").image(0)
    plain = tasks.load_predictor(out, score_threshold=0.0, device="cpu", precision="32-true")(image)
    own = tasks.load_predictor(out, device="cpu", precision="32-true")(image)
    shown = plain.scores >= point.thresholds[plain.labels]
    np.testing.assert_array_equal(own.boxes, plain.boxes[shown])
    np.testing.assert_allclose(own.scores, point.calibration(plain.scores[shown]), rtol=1e-6)
    everything = tasks.load_predictor(run, device="cpu", precision="32-true")(image)
    np.testing.assert_array_equal(everything.scores, plain.scores)  # an untuned file shows all


def test_the_command_writes_into_the_file_itself(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((run / "model.safetensors").read_bytes())
    words = ["data.num_train=40", "data.num_val=4", "data.num_test=1", "data.size=96", "precision=32-true"]
    done = command(
        "tune", f"checkpoint={path}", *words, "trainer.accelerator=cpu", "goal=recall", "wanted=0.5"
    )
    assert done.returncode == 0, done.stderr
    assert "Thresholds for goal=recall, on 4 images of val" in done.stdout
    assert read(path)[0].provenance[KEY]["about"]["wanted"] == 0.5
    bad = command("tune", f"checkpoint={path}", *words, "trainer.accelerator=cpu", "goal=best")
    assert bad.returncode == 2 and "goal=best is unknown; take f1, precision, recall, lrp" in bad.stderr
    last = command("tune", f"checkpoint={run / 'checkpoints' / 'last.ckpt'}", *words)
    assert (
        last.returncode == 2
        and "is not a model file; thresholds are stored in model.safetensors" in last.stderr
    )


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": [0.5]},
        {"thresholds": [2.0] * 10},
        {"thresholds": "much"},
        {"calibration": {"x": [0, 1], "y": [1, 0]}},
        {"calibration": None},
        {"calibration": {"x": [0.1] * 9999, "y": [0.1] * 9999}},
    ],
)
def test_a_damaged_operating_point_is_one_sentence(change: dict) -> None:
    good = {"thresholds": [0.5] * 10, "calibration": {"x": [0, 1], "y": [0, 1]}}
    assert OperatingPoint.in_header({KEY: good}, 10) is not None
    assert OperatingPoint.in_header({}, 10) is None
    with pytest.raises(ValueError, match="operating point is damaged .*give score_threshold=0.5"):
        OperatingPoint.in_header({KEY: good | change}, 10)
