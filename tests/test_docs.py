"""What README, documentation and examples say: every command and snippet runs, at a small size; every link leads
somewhere; what repeats the code says what the code says."""

import contextlib
import importlib.util
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import tasks.data
from tasks.cli.commands import COMMANDS
from tasks.cli.compose import compose
from tasks.preprocessing import Preprocessing
from tests.commands import command
from tests.scenes_on_disk import write_scenes
from tests.tiny_runs import NETWORK, quiet_lightning, tiny_run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "backbones" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FIGURES = ("results.md", "performance.md", "residual_study.md")  # their commands take minutes to hours
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = {
    "pip": "tests/test_wheel.py installs what is built",
    "make": "CI",
    "zensical": "the site's own program",
    "torchrun": "tests/test_ranks.py",
    "srun": "needs a cluster",
    "docker": "needs a daemon",
}
"""Programs that are not called here, and where they are."""
WEIGHTS = ("pretrained=", "backbone.pretrained=", "init_from=", "task=classification backbone=resnet152")
"""Words of commands that need files that no test has: these are composed and not run."""
SMALL = {
    "trainer.max_steps": "1", "trainer.accelerator": "cpu", "precision": "32-true", "loader.batch_size": "2",
    "trainer.val_check_interval": "max_steps", "trainer.check_val_every_n_epoch": "null", "loader.num_workers": "0",
}  # fmt: skip


def blocks(page: Path, *languages: str) -> list[str]:
    return [
        text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages
    ]


def commands(page: Path) -> list[list[str]]:
    """The words of every line of the page's shell blocks, joined where a line goes on."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                found.append(words)
    return found


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: DIR, photos, runs that were made, pictures."""
    root = tmp_path_factory.mktemp("docs")
    write_scenes(root / "DIR")
    (root / "photos").mkdir()
    for number in range(2):
        Image.open(root / "DIR" / "val2017" / f"scene{number}.png").save(root / "photos" / f"{number}.jpg")
    for copy in ("photo.jpg", "aerial.png"):
        Image.open(root / "photos" / "0.jpg").save(root / copy)
    quiet_lightning()
    for name in ("train", "val"):
        (root / "MASKS" / "masks" / name).mkdir(parents=True)
        shutil.copytree(root / "DIR" / f"{name}2017", root / "MASKS" / "images" / name)
        for picture in sorted((root / "MASKS" / "images" / name).iterdir()):
            dark = Image.open(picture).convert("L").point(lambda value: int(value < 128))
            dark.save(root / "MASKS" / "masks" / name / picture.name)
    with contextlib.redirect_stdout(io.StringIO()):
        tiny_run("detection", root / "runs" / "…", steps=1)
        tiny_run("instance_segmentation", root / "made" / "masks", steps=1)
    return root


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(tool: str, words: list[str]) -> list[str]:
    """`words` with what makes the command quick, where they do not say it."""
    keys = {word.split("=", 1)[0] for word in words}
    if tool != "train" or "resume" in keys:
        return words
    more = [f"{key}={value}" for key, value in SMALL.items() if key not in keys]
    if not any(key.startswith("backbone") for key in keys):
        more += NETWORK[:4]
    elif "backbone" in keys:
        words = ["backbone=resnet18" if word.startswith("backbone=resnet") else word for word in words]
    if not keys & {"data", "data.root"}:
        more += ["data.num_train=4", "data.num_val=2"]
    elif "preprocessing.short_side" not in keys:
        more += ["preprocessing.short_side=96", "preprocessing.max_size=128", "pretrained=false"]
    return [*words, *more]


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if commands(p) and p.name not in FIGURES], ids=name)
def test_commands(page: Path, here: Path) -> None:
    for words in commands(page):
        program, *rest = words
        if program in ELSEWHERE:
            continue
        if program == "vertebra":
            tool, *rest = rest
        else:
            assert program == "python", (
                f"{name(page)}: {shlex.join(words)} is of a program that no test knows"
            )
            tool, rest = Path(rest[0]).stem.replace("_", "-"), rest[1:]
            if tool not in COMMANDS:
                assert (ROOT / words[1]).is_file() or importlib.util.find_spec(words[2]), shlex.join(words)
                continue
        if any(word.startswith(WEIGHTS) for word in rest):
            compose(COMMANDS[tool].run.split(".")[-1].split(":")[0], [w for w in rest if w.partition("=")[1]])
            continue
        result = command(tool.replace("-", "_"), *small(tool, rest))
        assert result.returncode == 0, (
            f"{name(page)}: {shlex.join(words)}\n{result.stderr}\n{result.stdout[-2000:]}"
        )


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_snippets(page: Path, here: Path) -> None:
    if page.parent.name in ("extend", "backbones"):
        pytest.skip("tests/test_examples.py and tests/backbones/test_backbones_readme.py run them")
    shutil.copytree(here / "runs" / "…", here / "runs" / "first")
    shutil.copytree(here / "made" / "masks", here / "runs" / "masks")
    quiet_lightning()
    spoken: dict[str, object] = {}
    with few_steps():
        for block in blocks(page, "python"):
            exec(compile(block, name(page), "exec"), spoken)


@contextlib.contextmanager
def few_steps() -> Iterator[None]:
    """`tasks.train` takes one step of a narrow network on small images, whatever it is told."""
    from dataclasses import replace

    train = tasks.train

    def quick(task, data, *, settings=None, **more):
        settings = settings if isinstance(settings, tasks.TrainSettings) else tasks.TrainSettings()
        trainer = replace(settings.trainer, max_steps=1, accelerator="cpu", val_check_interval="max_steps")
        trainer = replace(trainer, check_val_every_n_epoch=None)
        loader = replace(settings.loader, batch_size=2)
        settings = replace(settings, trainer=trainer, loader=loader, precision="32-true", pretrained=False)
        settings = replace(settings, preprocessing=Preprocessing(short_side=96, max_size=128))
        backbone = {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [16, 32, 64, 128]}
        return train(task, data, **{**more, "backbone": backbone}, settings=settings)

    tasks.train = quick  # type: ignore[assignment]
    try:
        yield
    finally:
        del tasks.train


LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("*.md")}), ids=name)
def test_links(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for text, picture in LINK.findall(prose):
        target = (text or picture).split("#")[0]
        if target and not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{name(page)}: {target} does not exist"


def test_every_page_is_in_the_site() -> None:
    navigation = (ROOT / "zensical.toml").read_text()
    pages = [str(p.relative_to(ROOT / "docs")) for p in PAGES if ROOT / "docs" in p.parents]
    assert [page for page in pages if f'"{page}"' not in navigation] == []


def test_what_repeats_the_code_says_what_it_says() -> None:
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "tools" / "write_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stale = [str(path.relative_to(ROOT)) for path, text in module.pages().items() if path.read_text() != text]
    assert stale == [], "run python tools/write_reference.py"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    zensical = shutil.which("zensical", path=str(Path(sys.executable).parent))
    if zensical is None:
        pytest.skip('needs pip install ".[docs]"')
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for package in ("backbones", "tasks"):
        (tmp_path / package).symlink_to(ROOT / package)
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    result = subprocess.run([zensical, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    page = (tmp_path / "site" / "index.html").read_text()
    assert "Quick start" in page
    fetched = re.findall(r'(?:src|href)="(https?://[^"]+)"', page)
    assert [
        url for url in fetched if not url.startswith(("https://lightning.ai", "https://zensical.org"))
    ] == []
    assert (
        "Trains a model and leaves everything about it"
        in (tmp_path / "site/reference/python.html").read_text()
    )


def test_messages_that_are_explained_exist() -> None:
    """Each part between … of what troubleshooting quotes, joined over the lines of the code that says it."""
    said = " ".join(
        re.sub(r'"\s+f?"', "", path.read_text())
        for package in ("backbones", "tasks")
        for path in (ROOT / package).rglob("*.py")
    )
    page = (ROOT / "docs" / "reference" / "troubleshooting.md").read_text()
    quoted = [
        m for row in re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE) for m in re.findall(r"`([^`]+)`", row)
    ]
    parts = [part.strip() for message in quoted for part in message.split("…") if len(part.strip()) > 4]
    assert len(parts) > 12
    assert [part for part in parts if part not in said] == []


def test_the_figure_of_speeds_has_the_figures_of_the_table() -> None:
    spec = importlib.util.spec_from_file_location("draw_figures", ROOT / "tools" / "draw_figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {(s.work, s.model): s for s in module.speeds((ROOT / "docs" / "results.md").read_text())}
    assert set(found) == {(work, name) for work in ("train-step", "infer") for name in module.NAMES}
    one = found["train-step", "mask_rcnn"]
    assert (round(one.ours), round(one.theirs), round(one.ap, 1)) == (158, 53, 37.9)
    for picture in ("speed_and_ap", "residual_study"):
        with Image.open(ROOT / "docs" / "images" / f"{picture}.png") as image:
            assert image.width > 1200


@pytest.mark.parametrize("version", ["pyproject.toml", "CITATION.cff", "CHANGELOG.md"])
def test_one_version(version: str) -> None:
    current = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert current is not None and current[1] in (ROOT / version).read_text()
