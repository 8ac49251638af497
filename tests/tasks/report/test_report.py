"""The page and its numbers: what they say, and that they open offline, in a real browser too."""

import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "metrics"))
from simulated_detector import simulated_detections, simulated_truth

from tasks.data.annotations.class_maps import ClassMaps
from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.annotations.objects import Annotations
from tasks.data.splits import ArraySplit
from tasks.metrics.coco import CocoMetric
from tasks.metrics.outcomes import LabelOutcomes, ObjectOutcomes, PixelOutcomes
from tasks.report.build import Findings, write_report
from tasks.report.charts import bar_chart, line_chart
from tasks.report.pixels import boundary_counts
from tasks.report.results import object_results

NUM = 30


def detector(folder: Path, num_images: int = NUM, num_pictures: int = 3) -> Path:
    """The report of a simulated detector on pictures of noise."""
    rng = np.random.default_rng(0)
    truth = simulated_truth(rng, num_images)
    found = simulated_detections(rng, truth)
    order = np.argsort(truth.images, kind="stable")
    assert (order == np.arange(len(order))).all()
    annotations = Annotations(
        class_names=["<b>cell</b>", "stain & more"],
        category_ids=np.array([3, 8]),
        image_ids=np.arange(num_images),
        file_names=np.array([f"slide-{i}.png".encode() for i in range(num_images)]),
        sizes=np.tile([400, 800], (num_images, 1)),
        offsets=np.searchsorted(truth.images, np.arange(num_images + 1)),
        ids=truth.ids,
        labels=truth.categories,
        boxes=truth.boxes,
        areas=truth.areas,
        is_crowd=truth.is_crowd,
    )
    metric = CocoMetric(annotations)
    results = object_results(metric, metric.truths()[0], found)
    outcomes = ObjectOutcomes({"": results.matches}, results.class_names)
    numbers = {k: float(v[0]) for k, v in outcomes.weighted(np.ones((1, num_images), np.int32)).items()}
    images = [rng.integers(0, 255, (400, 800, 3)).astype(np.uint8) for _ in range(min(num_images, 4))]

    class Pictures(ArraySplit):
        def image(self, index: int) -> np.ndarray:
            return self.images[index % len(self.images)]

    findings = Findings(
        "A detector",
        "val",
        numbers,
        {"AP": (0.1, 0.2)},
        Pictures(np.stack(images), annotations),
        objects=[results],
        explain=lambda image, boxes, classes: [("score", f"{box[2]:.0f} wide & low") for box in boxes],
    )
    write_report(folder, findings, num_pictures=num_pictures)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return detector(tmp_path_factory.mktemp("report"))


class Reader(HTMLParser):
    """Tags that are not closed, addresses, pictures without words, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.scripts = 0
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.scripts += tag == "script"
        self.addresses += [v for k, v in attrs if k in ("src", "href") and v]
        if tag == "img":
            self.words.append(values.get("alt") or "")
        if tag == "svg":
            self.words.append(values.get("aria-label") or "")

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_asks_for_nothing(report: Path) -> None:
    page = Reader((report / "report.html").read_text())
    assert not page.open and not page.scripts
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert len(page.words) >= 3 + 4 and all(page.words)
    for wanted in (
        "What goes wrong",
        "Are scores probabilities?",
        "Which threshold to use",
        "[0.100, 0.200]",
    ):
        assert wanted in page.text
    assert "<b>cell</b>" in page.text  # as text, not as a tag
    assert "slide-" in page.text and "AP of parts" in page.text


def test_numbers_are_in_the_file_of_numbers(report: Path) -> None:
    values = json.loads((report / "report.json").read_text(), parse_constant=pytest.fail)
    assert values["intervals"] == {"AP": [0.1, 0.2]}
    sections = values["sections"]
    errors = sections["What goes wrong"]
    assert errors["ap50"] == pytest.approx(values["numbers"]["AP50"])
    matrix = np.array(sections["What is taken for what"]["matrix"])
    rows = {row[0]: row for row in sections["AP by class"]["tables"]["AP by class"]["rows"]}
    assert matrix[:2].sum(axis=1).tolist() == [rows[name][3] for name in ("<b>cell</b>", "stain & more")]
    slices = sections["Where it is good: size, aspect, place, crowding"]["tables"]["AP of parts"]
    parts = {row[0]: row for row in slices["rows"]}
    assert parts["size: medium"][1] == f"{values['numbers']['AP_medium']:.3f}"
    assert sum(row[4] for name, row in parts.items() if name.startswith("place")) == matrix[:2].sum()
    costs = [image["cost"] for image in sections["The worst pictures"]["images"]]
    assert costs == sorted(costs, reverse=True) and costs[0] > 0


def test_doubts_and_what_lost_objects_are_on_the_page(report: Path) -> None:
    sections = json.loads((report / "report.json").read_text())["sections"]
    rows = sections["Annotations to look at"]["tables"]["The most doubtful"]["rows"]
    assert len(rows) == 20 and {row[1] for row in rows} <= {"missing", "spurious", "class", "shifted"}
    doubts = [float(row[2]) for row in rows]
    assert doubts == sorted(doubts, reverse=True) and doubts[0] > 0.5
    lost = sections["Why objects were not found"]
    worst = {image["file_name"] for image in sections["The worst pictures"]["images"][:3]}
    rows = lost["tables"]["Objects that were not found"]["rows"]
    assert lost["stages"] == {"score": len(rows)} and rows and {row[0] for row in rows} <= worst
    assert all(row[4] == f"{row[2].split()[2]} wide & low" for row in rows)
    assert "wide &amp; low" in (report / "report.html").read_text()


def test_a_classifier_and_a_segmenter(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (40, 50, 3)).astype(np.uint8) for _ in range(6)]
    names, ids = ["a", "b"], np.arange(6)
    files = np.array([b"%d.png" % i for i in range(6)])
    labels = ImageLabels(names, np.arange(2), ids, np.array([0, 0, 0, 1, 1, 1]), files)
    best = np.array([[0, 1], [0, 1], [1, 0], [1, 0], [1, 0], [0, 1]])
    outcomes = LabelOutcomes(
        labels.labels, best, np.array([0.9, 0.8, 0.99, 0.7, 0.6, 0.5], np.float32), names
    )
    numbers = {k: float(v[0]) for k, v in outcomes.weighted(np.ones((1, 6), np.int32)).items()}
    findings = Findings(
        "A classifier", "val", numbers, {}, ArraySplit(np.stack(images), labels), labels=outcomes
    )
    write_report(tmp_path, findings)
    values = json.loads((tmp_path / "report.json").read_text())
    mistakes = values["sections"]["The most confident mistakes"]["mistakes"]
    assert mistakes == [["2.png", "a", "b", "0.990"], ["5.png", "b", "a", "0.500"]]
    assert values["sections"]["What is taken for what"]["matrix"] == [[2, 1], [1, 2]]
    assert not Reader((tmp_path / "report.html").read_text()).open

    maps = [np.zeros((40, 50), np.uint8) for _ in range(6)]
    maps[2][:20] = 1
    annotations = ClassMaps(names, np.arange(2), ids, files, lambda i: maps[i])
    right = np.array([[2000, 0]] * 6)
    true = right.copy()
    right[2], true[2] = (1000, 0), (1000, 1000)
    pixels = PixelOutcomes(right, true, np.array([[2000, 0]] * 6), names)
    numbers = {k: float(v[0]) for k, v in pixels.weighted(np.ones((1, 6))).items()}
    findings = Findings(
        "A segmenter", "val", numbers, {}, ArraySplit(np.stack(images), annotations), pixels=pixels,
        confusion=np.array([[11000, 0], [1000, 0]]), predict=lambda image: np.zeros((40, 50), np.uint8),
    )  # fmt: skip
    write_report(tmp_path, findings, num_pictures=2)
    values = json.loads((tmp_path / "report.json").read_text())
    assert values["sections"]["The worst pictures"]["images"][0][:2] == ["2.png", "0.500"]


def test_boundaries_by_hand() -> None:
    truth = np.zeros((50, 50), np.uint8)  # its diagonal is 71 pixels: boundaries are one pixel deep
    truth[10:20, 10:20] = 1
    same, shifted = truth.copy(), np.roll(truth, 1, axis=1)
    assert boundary_counts(same, truth, 2)[:, 1].tolist() == [36, 36]
    shared, either = boundary_counts(shifted, truth, 2)[:, 1]
    assert (shared, either) == (18, 54)  # the upper and lower rows overlap in 9 pixels each


def test_a_run_that_was_killed_says_so(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/AP\n0,2.5,\n10,1.5,\n10,,0.25\n20,nan,\n")
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    write_report(tmp_path, None)
    page = Reader((tmp_path / "report.html").read_text())
    assert "has not ended" in page.text and "seed: 1" in page.text
    assert "Losses: train/loss ends at 1.5" in page.words
    values = json.loads((tmp_path / "report.json").read_text())
    assert values["numbers"] == {} and values["sections"]["Training"]["last"]["val/AP"] == 0.25


def test_charts_of_nothing_are_nothing() -> None:
    nothing = {"a": ([0.0, 1], [np.nan, np.nan])}
    assert line_chart(nothing, title="t", x="x", y="y") == "" and bar_chart({"a": np.nan}, title="t") == ""
    assert "<circle" in line_chart({"a": ([1.0], [2.0])}, title="t", x="x", y="y")


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(report: Path, tmp_path: Path, width: int, scheme: str) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    # A script of the test's own writes down what the page became; the page itself has none. It lies in a frame, because
    # windows are no narrower than 500 pixels.
    text = (report / "report.html").read_text()
    measure = (
        "<script>onload = () => { parent.document.title = JSON.stringify([document.documentElement.scrollWidth, "
        "innerWidth, getComputedStyle(document.body).backgroundColor, "
        "performance.getEntriesByType('resource').map(entry => entry.name.slice(0, 5))]) }</script></body>"
    )
    framed = html.escape(text.replace("</body>", measure), quote=True)
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<!doctype html><title></title><iframe style="border:0" width="{width}" height="900" '
        f'srcdoc="{framed}"></iframe>'
    )
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--window-size=1500,900",
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            f"--user-data-dir={tmp_path / 'profile'}", "--disable-background-networking", "--dump-dom", f"file://{probe}",
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    page_width, window, background, resources = json.loads(html.unescape(title.group(1)))
    assert window == width and page_width <= width
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}[scheme]
    assert set(resources) <= {"data:"}
