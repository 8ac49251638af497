"""A run's config.yaml is data: resuming it runs nothing that it names."""

import pickle
from pathlib import Path

import pytest

from tasks.cli.compose import compose
from tasks.cli.train import train
from tests.fuzz.inputs import RunsCode
from tests.tiny_runs import tiny_run

PLACES = ("data", "optimizer", "schedule", "logger.csv", "augmentation.transforms.0", "trainer")
TARGETS = (
    "{_target_: torch.load, weights_only: false, f: FILE}",
    "{_target_: numpy.load, allow_pickle: true, file: FILE}",
    "{_target_: joblib.load, filename: FILE}",
    "{_target_: pickle.load, file: {_target_: builtins.open, file: FILE, mode: rb}}",
    "{_target_: os.system, command: touch RAN}",
    "{_target_: subprocess.check_call, args: [touch, RAN]}",
    "{_target_: hydra.utils.get_method, path: os.system}",
    '{_target_: builtins.exec, _args_: [\'open("RAN", "w")\']}',
)


@pytest.fixture(scope="module")
def genuine(tmp_path_factory) -> str:
    run = tiny_run("classification", tmp_path_factory.mktemp("genuine") / "run", "augmentation=flip", steps=2)
    return str(run)


@pytest.mark.parametrize("target", TARGETS, ids=lambda text: text.split(",")[0][1:])
@pytest.mark.parametrize("place", PLACES)
def test_a_configuration_runs_nothing_that_it_names(
    genuine: str, place: str, target: str, tmp_path: Path
) -> None:
    from omegaconf import OmegaConf

    ran, payload = tmp_path / "ran", tmp_path / "payload.pkl"
    payload.write_bytes(pickle.dumps(RunsCode(ran)))
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(
        (Path(genuine) / "checkpoints" / "last.ckpt").read_bytes()
    )
    config = OmegaConf.load(Path(genuine) / "config.yaml")
    words = target.replace("FILE", str(payload)).replace("RAN", str(ran))
    OmegaConf.update(config, place.replace(".0", "[0]"), OmegaConf.create(words), merge=False)
    OmegaConf.save(config, run / "config.yaml")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"\w") as caught:
        train(compose("train", [f"resume={run}"]))
    assert not ran.exists()
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
