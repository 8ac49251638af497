"""`vertebra summarize` against published figures, counts by hand and a backward pass with real numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import backbones
from tasks.cli import summarize as tool
from tasks.cli.main import run_tool
from tests.commands import command

TOOL = Path(__file__).parents[1] / "tools" / "summarize.py"


def row(name: str, size: tuple[int, int] | None = None, **options: object) -> dict:
    return tool.summarize(tool.build(name, options), size)


@pytest.mark.parametrize(
    ("name", "gigas"),
    [  # He et al., table 1, and torchvision's own counts (4.09: v1.5 has its stride in the 3x3)
        ("resnet18", 1.81), ("resnet34", 3.66), ("resnet50", 4.09), ("resnet101", 7.80), ("resnet152", 11.51),
        ("vgg16", 15.47),
    ],
)  # fmt: skip
def test_multiply_adds_at_224_with_classifier(name: str, gigas: float) -> None:
    counts = row(name)
    total = counts["multiply_adds"] + counts["classifier_multiply_adds"]
    assert total / 1e9 == pytest.approx(gigas, abs=0.006)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # with classifier, to the digit: torchvision's documentation of its weights
        ("resnet18", 11_689_512), ("resnet50", 25_557_032), ("vgg16", 138_357_544), ("vgg11_bn", 132_868_840),
        ("resnext50_32x4d", 25_028_904), ("wide_resnet50_2", 68_883_240),
    ],
)  # fmt: skip
def test_parameters_with_classifier(name: str, parameters: int) -> None:
    counts = row(name)
    assert counts["parameters"] + counts["classifier_parameters"] == parameters


def test_cifar_networks_at_their_own_size() -> None:
    counts = row("cifar_resnet20")
    assert (counts["height"], counts["width"]) == (32, 32)
    assert counts["classifier_parameters"] == 64 * 10 + 10
    assert (counts["parameters"] + counts["classifier_parameters"]) / 1e6 == pytest.approx(0.27, abs=0.005)


def test_plain_costs_what_its_residual_twin_does() -> None:
    """Shortcuts of option A are free."""
    plain, residual = row("plain_cifar_resnet56"), row("cifar_resnet56")
    assert plain["parameters"] == residual["parameters"]
    assert plain["multiply_adds"] == residual["multiply_adds"]


def test_first_convolution_by_hand() -> None:
    """An 8-layer CIFAR network at 8 x 8: 3x3 convolutions of 16, 32, 64 channels on 64, 16, 4 cells."""
    by_hand = 9 * (3 * 16 * 64 + 2 * 16 * 16 * 64)
    by_hand += 9 * (16 * 32 + 32 * 32) * 16 + 9 * (32 * 64 + 64 * 64) * 4
    assert row("cifar_resnet", (8, 8), depth=8)["multiply_adds"] == by_hand


def test_costs_follow_the_size() -> None:
    small, large = row("resnet18", (64, 64)), row("resnet18", (128, 192))
    assert large["multiply_adds"] == 6 * small["multiply_adds"]
    assert large["activation_bytes"] == pytest.approx(6 * small["activation_bytes"], rel=0.01)
    assert [f["height"] for f in large["features"]] == [32, 16, 8, 4]
    assert [f["width"] for f in large["features"]] == [48, 24, 12, 6]


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "cifar_resnet20"])
def test_activation_memory_is_what_a_real_pass_keeps(name: str) -> None:
    extractor = backbones.create(name).train()
    own = {t.data_ptr() for t in (*extractor.parameters(), *extractor.buffers())}
    kept: dict[int, torch.Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        extractor(torch.zeros(4, 3, 64, 64))
    real = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own) / 4
    assert row(name, (64, 64))["activation_bytes"] == pytest.approx(real, rel=0.03)  # statistics of norms


def test_checkpointing_keeps_less() -> None:
    whole, checkpointed = row("resnet18"), row("resnet18", checkpoint_stages=(1, 2, 3, 4))
    assert checkpointed["activation_bytes"] < 0.6 * whole["activation_bytes"]


def test_pyramid_has_no_classifier() -> None:
    counts = row("resnet18", pyramid="fpn")
    assert counts["classifier_parameters"] is None
    assert {f["level"]: (f["channels"], f["stride"]) for f in counts["features"]}["p3"] == (256, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet50", ("resnet50", {})),
        ("resnet50,output_stride=8,norm=group", ("resnet50", {"output_stride": 8, "norm": "group"})),
        ("resnet,blocks=[1,2,1,1],block=basic", ("resnet", {"blocks": [1, 2, 1, 1], "block": "basic"})),
        ("resnet18,zero_init_residual=true", ("resnet18", {"zero_init_residual": True})),
    ],
)
def test_options_of_a_network(text: str, expected: tuple) -> None:
    assert tool.parse_network(text) == expected


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return command("summarize", *words)


def test_table_and_json_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    result = run("resnet50", "vgg16", "--size", "224", "64x96", f"json={file}")
    assert result.returncode == 0, result.stderr
    rows = json.loads(file.read_text())
    assert [(r["network"], r["height"], r["width"]) for r in rows] == [
        ("resnet50", 224, 224), ("resnet50", 64, 96), ("vgg16", 224, 224), ("vgg16", 64, 96),
    ]  # fmt: skip
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["resnet50", "224x224", "23.51", "25.56", "4.09", "4.09"] in [line[:6] for line in lines]
    assert ["vgg16", "224x224", "14.71", "138.36", "15.35", "15.47"] in [line[:6] for line in lines]
    assert ["c5", "2048", "32", "2x3"] in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet51"], "did you mean 'resnet50'"),
        (["resnet50,foo=3"], "no option 'foo'"),
        (["resnet50,foo"], "option=value"),
        (["resnet50", "--size", "0"], "size=0 is not a size"),
        (["resnet50", "--size", "16"], "smaller than"),
        (["resnet18", "json=nowhere/x.json"], "cannot write nowhere/x.json"),
        (["resnet18,pretrained=true"], "leave it out"),
        (["networks=resnet18", "siez=224"], "unknown setting 'siez'; did you mean size"),
        (["size=224"], "nothing to summarize; give networks=[resnet50,vgg16] or models="),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(sys, "argv", ["summarize.py", *words])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_tool("summarize")
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.err.startswith("error: ") and said.err.count("\n") == 2  # and how to see where from
    assert message in said.err
    assert said.out == ""


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['summarize.py', '--help']\n"
        f"try: runpy.run_path({str(TOOL)!r}, run_name='__main__')\n"
        "finally: print([name for name in ('torch', 'lightning', 'hydra') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "python tools/summarize.py" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"
