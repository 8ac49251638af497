"""TensorBoard and wandb get numbers, pictures, configuration and environment; read back from what they wrote."""

import json
import re
import struct
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.cli.compose import compose
from tasks.cli.train import train
from tasks.harness.loggers import open_logger
from tests.tiny_runs import TASKS, rows, tiny_run

NUMBERS = {"train/loss", "val/loss", "perf/images_per_second", "perf/data_wait", "perf/memory_gib"}


def leveldb_records(contents: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, which wandb writes behind seven bytes of its own: blocks of 32 KiB, in
    them pieces with checksum (4 bytes), length (2) and kind (1): 1 whole, 2 first, 3 middle, 4 last."""
    place, record = 7, b""
    while place + 7 <= len(contents):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        length, kind = struct.unpack("<HB", contents[place + 4 : place + 7])
        record += contents[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tiny_run("detection", tmp_path / "run", "logger=tensorboard", steps=3)
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0}).Reload()
    tags = events.Tags()
    assert {*NUMBERS, "val/AP", "lr-AdamW/head"} <= set(tags["scalars"])
    assert [e.step for e in events.Scalars("train/loss")] == [0, 1, 2]
    assert tags["images"] == ["val/predictions"]
    (picture, *_) = events.Images("val/predictions")
    assert picture.encoded_image_string.startswith(b"\x89PNG") and picture.width > 100
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags["tensors"]}
    assert '"max_steps": 3' in texts["config/text_summary"]
    assert '"fingerprint"' in texts["environment/text_summary"]


def test_mlflow(tmp_path: Path, monkeypatch) -> None:
    """Numbers, pictures, configuration and the model file in a store of files; a run that resumes goes on in it."""
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")  # and taken back at the end
        monkeypatch.delenv(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="mlflow")
        folder = tiny_run("detection", tmp_path / "run", "logger=mlflow", steps=3)
        train(compose("train", [f"resume={folder}", "trainer.max_steps=5"]))
    client = MlflowClient((folder / "mlruns").as_uri())
    (experiment,) = [e for e in client.search_experiments() if e.name == "vertebra"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == (folder / "mlflow_id.txt").read_text().strip() and run.info.status == "FINISHED"
    assert set(run.data.metrics) >= {*NUMBERS, "val/AP", "val/AP_by_class/0"}
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [0, 1, 2, 3, 4]
    assert run.data.params["trainer/max_steps"] == "3"  # of the command that began it
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert json.loads((artifacts / "config.json").read_text())["trainer"]["max_steps"] == 5
    assert "fingerprint" in (artifacts / "environment.json").read_text()
    assert list((artifacts / "val").glob("predictions-*.png"))


def test_mlflow_writes_nowhere_else(tmp_path: Path, monkeypatch) -> None:
    """As if the folder of the run came from somebody else, or had been moved."""
    pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    open_logger("mlflow", tmp_path).finalize("success")
    (description,) = tmp_path.glob("mlruns/*/*/meta.yaml")
    text = description.read_text()
    description.write_text(re.sub("artifact_uri: .*", f"artifact_uri: file://{tmp_path}/elsewhere", text))
    with pytest.raises(ValueError, match="keeps its files at file:.*elsewhere, outside of"):
        open_logger("mlflow", tmp_path)
    (tmp_path / "mlflow_id.txt").write_text("0" * 32)
    with pytest.raises(ValueError, match="MLflow does not go on with the run in .*mlflow_id.txt"):
        open_logger("mlflow", tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_wandb_without_a_key_and_a_network(task: str, tmp_path: Path, monkeypatch) -> None:
    import wandb
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tiny_run(task, tmp_path / "run", "logger=wandb", steps=3)
    wandb.finish()
    (place,) = (folder / "wandb").glob("offline-run-*")
    assert len(list(place.glob("files/media/images/val/predictions_*.png"))) == 4
    seen, config, artifacts, is_whole = {}, {}, [], False
    deadline = time.monotonic() + 60
    while not is_whole and time.monotonic() < deadline:  # another process of wandb's writes the file
        for data in leveldb_records(next(place.glob("*.wandb")).read_bytes()):
            record = wandb_internal_pb2.Record()
            try:
                record.ParseFromString(data)
            except DecodeError:
                break  # half of it is on the disk
            for item in record.history.item:
                seen[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            for item in (*record.config.update, *record.run.config.update):
                config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            if record.WhichOneof("record_type") == "request" and record.request.HasField("log_artifact"):
                artifacts.append(record.request.log_artifact.artifact)
            elif record.WhichOneof("record_type") == "artifact":
                artifacts.append(record.artifact)
            is_whole = record.WhichOneof("record_type") == "exit"
        time.sleep(0.2)
    assert set(seen) >= NUMBERS
    assert seen["val/predictions/count"] == 4
    model = next(artifact for artifact in artifacts if artifact.type == "model")
    assert model.name == f"model-{(folder / 'wandb_id.txt').read_text().strip()}"
    assert [entry.path for entry in model.manifest.contents] == ["model.safetensors"]
    if task == "classification":
        assert len(seen["val/predictions/captions"]) == 4
    elif task == "semantic_segmentation":
        assert len(seen["val/predictions/all_masks"]) == 4
    elif task == "detection":
        assert len(seen["val/predictions/all_boxes"]) == 4
    assert config["trainer"]["max_steps"] == 3 and config["environment"]["data"]["train"]["images"] == 40


def test_csv_has_the_same_numbers(tmp_path: Path) -> None:
    folder = tiny_run("classification", tmp_path / "run", steps=3)
    names = {name for row in rows(folder) for name in row}
    assert {"train/loss", "val/loss", "val/top1", "lr-AdamW/head", "epoch", "step"} <= names
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(header) >= NUMBERS
