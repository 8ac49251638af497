"""TensorBoard and wandb get numbers, pictures, configuration and environment; read back from what they wrote."""

import json
from pathlib import Path

import pytest

from tests.tiny_runs import TINY, rows, tiny_run

NUMBERS = {"train/loss", "val/loss", "perf/images_per_second", "perf/data_wait", "perf/memory_gib"}


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


@pytest.mark.slow
@pytest.mark.parametrize("task", TINY)
def test_wandb_without_a_key_and_a_network(task: str, tmp_path: Path, monkeypatch) -> None:
    import wandb
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tiny_run(task, tmp_path / "run", "logger=wandb", steps=3)
    wandb.finish()
    (place,) = (folder / "wandb").glob("offline-run-*")
    assert len(list(place.glob("files/media/images/val/predictions_*.png"))) == 4
    if "segmentation" in task:
        assert list(place.glob("files/media/images/mask/**/*.png"))
    store = DataStore()
    store.open_for_scan(str(next(place.glob("*.wandb"))))
    seen, config = {}, {}
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            seen[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for item in (*record.config.update, *record.run.config.update):
            config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert set(seen) >= NUMBERS
    pictures = seen["val/predictions"]
    assert pictures["count"] == 4
    if task == "classification":
        assert len(pictures["captions"]) == 4
    elif "segmentation" in task:
        assert pictures["all_masks"]
    assert config["trainer"]["max_steps"] == 3 and config["environment"]["data"]["train"]["images"] == 40


def test_csv_has_the_same_numbers(tmp_path: Path) -> None:
    folder = tiny_run("classification", tmp_path / "run", steps=3)
    names = {name for row in rows(folder) for name in row}
    assert {"train/loss", "val/loss", "val/top1", "lr-AdamW/head", "epoch", "step"} <= names
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(header) >= NUMBERS
