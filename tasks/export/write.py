"""`export`: from a trained model to a file for other programs, proved before it gets its name."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tasks.contracts import Batch, Model
from tasks.data.datamodule import DataModule
from tasks.data.loading.collate import batch_images
from tasks.data.sources import Source
from tasks.files import write_text, write_whole
from tasks.harness.evaluate import evaluate
from tasks.harness.reporter import Reporter
from tasks.harness.settings import EvaluateSettings, LoaderSettings, TrainerSettings
from tasks.inference.predictor import Predictor
from tasks.zoo.model_file import Header, load_model
from tasks.zoo.registry import TASKS, lookup

from . import runtime
from .bundle import bundle
from .graph import NetworkGraph, step_of
from .proof import Differs, check_network, check_pictures, check_pixels, random_pictures
from .settings import ExportSettings

PACKAGES = 'pip install "vertebra[export]"'
RUNTIME = "predict.py"
THRESHOLDS = ("score_threshold", "nms_threshold", "max_detections")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    file: Path
    predict: Path | None
    """The program beside it that needs no torch."""
    checks: tuple[str, ...]
    """What was compared, and how far it differed."""
    numbers: dict[str, tuple[float, float]]
    """Of int8: before and after."""


def export(
    model: str | Path | Model,
    output: str | Path,
    *,
    settings: ExportSettings | None = None,
    data: Source[Any] | None = None,
    pictures: Sequence[Any] | None = None,
    name: str | None = None,
    reporter: Reporter | None = None,
) -> Exported:
    """Writes a model for other programs into the folder `output`, if it finds there what it finds here.

    Args:
        model: a model file, a checkpoint, or a model with its header.
        output: a folder, made if it is not there.
        settings: None for the defaults.
        data: a data set, from which the pictures of the comparison come; needed for int8.
        pictures: those of the comparison themselves, as a predictor takes them.
        name: of the file, without its ending; None for the checkpoint's.
        reporter: where it says what it does.

    Raises:
        ValueError: the model cannot be exported, the file would not find the same, or int8 loses too much.
        ImportError: packages are missing; says the one line that installs them.
    """
    settings, reporter = settings or ExportSettings(), reporter or Reporter()
    if isinstance(model, str | Path):
        name = Path(model).stem if name is None else name
        model = load_model(model, settings.model)
    check_exportable(model)
    check_packages(settings)
    if settings.precision == "int8" and data is None:
        raise ValueError("precision=int8 takes ranges of values from images; give data= and data.root=")
    network = NetworkGraph(model.float().cpu().eval())
    takes_pictures = settings.input == "pictures" or (
        settings.input == "auto" and settings.format == "onnx" and not _antialiased(model)
    )
    kind = "" if takes_pictures or settings.format == "torch_export" else ".network"
    small = ".int8" if settings.precision == "int8" else ""
    ending = ".onnx" if settings.format == "onnx" else ".pt2"
    folder = Path(output)
    file = folder / f"{name or 'model'}{kind}{small}{ending}"
    if pictures is None:
        pictures = random_pictures() if data is None else _pictures(model, data, settings)
    metadata = describe(model.header, "pictures" if takes_pictures else "network", settings.precision)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if settings.format == "torch_export":
            return Exported(file, None, _write_program(network, file, metadata), {})
        return _write_onnx(network, file, metadata, takes_pictures, settings, data, pictures, reporter)
    except Differs as error:
        raise Differs(
            f"{file} is not written, because it does not find what the model finds: {error}"
        ) from error


def check_exportable(model: Model) -> None:
    """ValueError for what no file holds."""
    spec = model.header.model
    if spec.get("soft_nms_sigma") is not None:
        raise ValueError(
            f"model.soft_nms_sigma={spec['soft_nms_sigma']}: soft suppression goes box by box, for which files have no "
            "operator; give model.soft_nms_sigma=null"
        )
    if not hasattr(model, "backbone"):
        raise ValueError(
            f"a {type(model).__name__} looks at several views of a picture, which is no part of a file; export the "
            "model itself"
        )


def check_packages(settings: ExportSettings) -> None:
    """ImportError with the one line that installs what is missing."""
    if settings.format != "onnx":
        return
    try:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f"format=onnx needs the package {error.name}: {PACKAGES}") from None


def describe(header: Header, takes: str, precision: str) -> str:
    """What the file says of itself, as JSON: the model file's header, and what a program needs of it."""
    spec = header.model
    return json.dumps(
        {
            **asdict(header),
            "input": takes,
            "precision": precision,
            "thresholds": {key: spec[key] for key in THRESHOLDS if key in spec},
            "licence": header.provenance.get("licence", "not stated"),
        }
    )


def _write_onnx(
    network: NetworkGraph,
    file: Path,
    metadata: str,
    takes_pictures: bool,
    settings: ExportSettings,
    data: Source[Any] | None,
    pictures: Sequence[Any],
    reporter: Reporter,
) -> Exported:
    import onnx

    from .onnx_graph import network_onnx
    from .pixels import check_preprocessing, with_pixels

    model = network.model
    if takes_pictures:
        check_preprocessing(model.preprocessing)
    reporter.say("tracing the network")
    graph = network_onnx(network)
    checks, numbers = [], {}
    with write_whole(file) as partial:

        def run_of(proto: Any) -> Any:
            entry = proto.metadata_props.add()
            entry.key, entry.value = runtime.METADATA_KEY, metadata
            onnx.save(proto, partial)
            return runtime.open_engine(partial, "onnxruntime", "fp32", None)[0]

        run = run_of(graph)
        checks.append(f"network: {check_network(network, run)}")
        reporter.say(checks[-1])
        if settings.precision == "int8":
            assert data is not None
            graph, numbers = _quantized(model, graph, run_of, data, settings, reporter)
        if takes_pictures:
            run = run_of(with_pixels(graph, model.preprocessing))
            if settings.precision == "fp32":
                checks.append(f"pictures of several sizes: {check_pixels(network, run, random_pictures())}")
                reporter.say(checks[-1])
        if settings.precision == "fp32":
            predictor = Predictor(model, device="cpu", precision="32-true", score_threshold=0.0)
            exported = runtime.Predictor(partial, score_threshold=0.0)
            checks.append(f"pictures end to end: {check_pictures(predictor, exported, pictures)}")
            reporter.say(checks[-1])
        program = file.with_name(RUNTIME)
        write_text(program, runtime_source())
    return Exported(file, program, tuple(checks), numbers)


def _quantized(
    model: Model, graph: Any, run_of: Any, data: Source[Any], settings: ExportSettings, reporter: Reporter
) -> tuple[Any, dict[str, tuple[float, float]]]:
    """The graph in 8 bits, and each number before and after; ValueError where it loses too much."""
    from .quantize import GraphModel, quantize

    reporter.say(f"looking at {settings.num_calibration} images for the ranges of int8")
    batches = islice(_batches(model, data, settings), settings.num_calibration)
    graph = quantize(graph, batches)
    scores = EvaluateSettings(
        precision="32-true",
        loader=LoaderSettings(batch_size=1, num_workers=0),
        trainer=replace(TrainerSettings(), accelerator="cpu"),
    )
    found = [
        evaluate(one, data, split=settings.split, settings=scores).numbers
        for one in (model, GraphModel(model, run_of(graph)))
    ]
    monitor = lookup(TASKS, "task", model.header.task).monitor
    before, after = (numbers[monitor] for numbers in found)
    reporter.say(f"{monitor} on {settings.split}: {before:.4f} in fp32, {after:.4f} in int8")
    if not after >= before - settings.max_drop:
        raise ValueError(
            f"int8 takes {monitor} from {before:.4f} to {after:.4f}, by more than max_drop={settings.max_drop}; "
            "nothing is written: calibrate on more images (num_calibration=), or export fp32"
        )
    return graph, {monitor: (before, after)}


def _write_program(network: NetworkGraph, file: Path, metadata: str) -> tuple[str, ...]:
    from .torch_file import network_program, open_program, smallest_side, write_program

    program = network_program(network)
    smallest = smallest_side(program, step_of(network.model))
    with write_whole(file) as partial:
        values = json.loads(metadata)
        write_program(program, partial, json.dumps({**values, "smallest_side": smallest}))
        seen = check_network(network, open_program(partial, network.output_names()), smallest)
    return (f"network, sides of at least {smallest} pixels: {seen}",)


def runtime_source() -> str:
    """The program that is written beside a file: `runtime.py` with all that it uses of this project."""
    return bundle(runtime.__name__, {("tasks.metrics.run_lengths", "_changes"): "changes"})


def _antialiased(model: Model) -> bool:
    return model.preprocessing.antialias and model.preprocessing.short_side is not None


def _splits(model: Model, data: Source[Any]) -> DataModule:
    kind = lookup(TASKS, "task", model.header.task)
    return DataModule(data, model.preprocessing, **kind.data_options)


def _pictures(model: Model, data: Source[Any], settings: ExportSettings) -> list[np.ndarray]:
    split = _splits(model, data).split(settings.split)
    return [split.image(i) for i in range(min(settings.num_pictures, len(split)))]


def _batches(model: Model, data: Source[Any], settings: ExportSettings) -> Iterator[Batch]:
    name = "train" if data.has_split("train") else settings.split
    split = _splits(model, data).split(name)
    for i in range(len(split)):
        yield batch_images([split.image(i)], model.preprocessing)
