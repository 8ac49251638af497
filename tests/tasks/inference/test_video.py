"""Videos: the boxes of their frames as pictures, what is written, and files that are none."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from PIL import Image

import tasks
from tasks.cli.compose import compose
from tasks.cli.predict import predict
from tasks.data.loading.images import Reading
from tasks.inference.sources import Video
from tasks.inference.video import Capture, video_writer
from tests.tasks.inference.small_files import picture

OPTIONS = ["device=cpu", "precision=32-true", "score_threshold=0.1"]
NUM_FRAMES = 60


def run(checkpoint: Path, source: object, output: Path, *words: str) -> int:
    given = [f"checkpoint={checkpoint}", f"source={source}", f"output={output}", *OPTIONS]
    return predict(compose("predict", [*given, *words])).status


def frame(number: int) -> np.ndarray:
    return np.roll(picture(0), number, axis=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Path]:
    """The same frames without loss, with loss, and cut short."""
    folder = tmp_path_factory.mktemp("videos")
    found = {"FFV1": folder / "exact.mkv", "mp4v": folder / "lossy.mp4"}
    for codec, path in found.items():
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 30, (80, 64))
        for number in range(NUM_FRAMES):
            writer.write(frame(number)[:, :, ::-1])
        writer.release()
    found["cut"] = folder / "cut.mkv"
    content = found["FFV1"].read_bytes()
    found["cut"].write_bytes(content[: len(content) // 2])
    return found


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("codec", ["FFV1", "mp4v"])
def test_sixty_frames_have_the_boxes_of_their_pictures(codec: str, files, videos, tmp_path: Path) -> None:
    """Frames of a lossy codec are compared as they are decoded; without loss those are what was written."""
    out = tmp_path / "out"
    assert run(files["detection"], videos[codec], out) == 0
    capture = cv2.VideoCapture(str(videos[codec]))
    predictor = tasks.load_predictor(
        files["detection"], device="cpu", precision="32-true", score_threshold=0.1
    )
    found = lines(out)
    assert [entry["frame"] for entry in found] == list(range(NUM_FRAMES))
    for number, entry in enumerate(found):
        decoded = capture.read()[1][:, :, ::-1]
        if codec == "FFV1":
            np.testing.assert_array_equal(decoded, frame(number))
        path = tmp_path / "frame.png"
        Image.fromarray(decoded).save(path)
        alone = predictor(path)
        assert len(alone) > 0
        np.testing.assert_allclose([o["box"] for o in entry["objects"]], alone.boxes, atol=1e-3)
        np.testing.assert_allclose([o["score"] for o in entry["objects"]], alone.scores, atol=1e-5)
        assert [o["class"] for o in entry["objects"]] == alone.class_names
        assert entry["seconds"] == pytest.approx(number / 30)
    capture.release()
    drawn = cv2.VideoCapture(str(out / f"{videos[codec].stem}.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == 30
    count, first = 0, None
    while (read := drawn.read())[0]:
        first = read[1][:, :, ::-1] if first is None else first
        count += 1
    drawn.release()
    assert count == NUM_FRAMES and first is not None
    # The drawing of the first frame, but for what the codec loses.
    wanted = predictor(frame(0)).draw(frame(0))
    assert first.shape == wanted.shape and np.abs(first.astype(int) - wanted).mean() < 12
    assert {path.name for path in out.iterdir()} == {"predictions.jsonl", f"{videos[codec].stem}.mp4"}


def test_every_tenth_frame_as_a_data_set(files, videos, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(files["detection"], videos["FFV1"], out, "every=10", "format=coco", "draw=false") == 0
    content = json.loads((out / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [
        f"exact-{n:06d}.jpg" for n in range(0, 60, 10)
    ]
    places = {"val_images": "images", "val_annotations": "predictions.json"}
    split = tasks.data.open("coco", root=out, **places).split("val")
    assert len(split) == 6 and len(split.annotations.ids) == len(content["annotations"]) > 6
    assert np.abs(split.image(1).astype(int) - frame(10)).mean() < 12  # JPEG


def test_every_task_draws_a_video(files, videos, tmp_path: Path) -> None:
    for task, file in files.items():
        assert run(file, videos["FFV1"], tmp_path / task, "every=30", "format=csv") == 0
        capture = cv2.VideoCapture(str(tmp_path / task / "exact.mp4"))
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 2 and capture.get(cv2.CAP_PROP_FPS) == 1
        capture.release()
        assert (tmp_path / task / "predictions.csv").read_text().startswith("file,frame,class,label,")


def test_a_video_that_ends_early_is_told_of(files, videos, tmp_path: Path, capsys) -> None:
    assert run(files["classification"], videos["cut"], tmp_path / "out") == 1
    said = capsys.readouterr().err
    count = len(lines(tmp_path / "out"))
    assert 10 < count < NUM_FRAMES - 2
    assert f"error: {count} of {NUM_FRAMES} frames of '{videos['cut']}' can be read" in said


def test_what_is_no_video(files, videos, tmp_path: Path, capfd) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    for name in ("text.mp4", "empty.mp4"):
        with pytest.raises(ValueError, match=f"{name}' is not a video that OpenCV can read"):
            run(files["detection"], tmp_path / name, tmp_path / "out")
    with pytest.raises(ValueError, match="source=97: there is no camera of this number"):
        run(files["detection"], 97, tmp_path / "out")
    with pytest.raises(ValueError, match="too large: 80 wide and 64 high, more than 100 pixels"):
        run(files["detection"], videos["FFV1"], tmp_path / "out", "max_pixels=100")
    assert not (tmp_path / "out").exists()
    same = tmp_path / "clip.mp4"
    same.write_bytes(videos["mp4v"].read_bytes())
    with pytest.raises(ValueError, match="the drawn video would be written over .*clip.mp4, the source"):
        run(files["detection"], same, tmp_path)
    assert same.read_bytes() == videos["mp4v"].read_bytes()


class Asked(http.server.BaseHTTPRequestHandler):
    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


class MotionJpeg(http.server.BaseHTTPRequestHandler):
    """A camera of the network: JPEGs one after another."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(12):
            content = cv2.imencode(".jpg", frame(number)[:, :, ::-1])[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            self.wfile.write(head.encode() + content + b"\r\n")

    def log_message(self, *_: object) -> None:
        pass


def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def asked() -> Iterator[int]:
    Asked.paths.clear()
    yield from serving(Asked)


@pytest.fixture
def camera() -> Iterator[int]:
    yield from serving(MotionJpeg)


def test_a_playlist_that_calls_itself_a_video_reaches_nothing(asked: int, tmp_path: Path) -> None:
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:{asked}/secret.ts\n#EXT-X-ENDLIST\n"
    for name in ("list.mp4", "list.ts"):
        (tmp_path / name).write_text(text)
        video = Video(str(tmp_path / name), "list", False)
        with pytest.raises(ValueError, match="is not a video that OpenCV can read"):
            Capture(video, Reading())
    assert Asked.paths == []


def test_a_stream_is_predicted_until_it_ends(files, camera: int, tmp_path: Path) -> None:
    assert run(files["detection"], f"http://127.0.0.1:{camera}/live.mjpg", tmp_path / "out") == 0
    found = lines(tmp_path / "out")
    assert len(found) >= 10 and all(entry["objects"] for entry in found)
    assert [entry["frame"] for entry in found] == list(range(len(found)))
    assert (tmp_path / "out" / "live.mp4").stat().st_size > 1000
    with pytest.raises(ValueError, match="nothing answers there that is a video"):
        run(files["detection"], "http://127.0.0.1:9/live.mjpg", tmp_path / "none")


def test_ctrl_c_leaves_whole_files(files, camera: int, tmp_path: Path, monkeypatch, capsys) -> None:
    from tasks.cli.bar import Bar

    count = 0

    def add(self: Bar, more: int) -> None:
        nonlocal count
        count += more
        if count == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "add", add)
    assert run(files["detection"], f"http://127.0.0.1:{camera}/live.mjpg", tmp_path / "out") == 0
    assert len(lines(tmp_path / "out")) == 4
    capture = cv2.VideoCapture(str(tmp_path / "out" / "live.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    capture.release()
    assert "stopped" in capsys.readouterr().out


def test_ctrl_c_before_the_first_frame_leaves_nothing(files, videos, tmp_path: Path, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.inference.predictor.Predictor.__call__", interrupt)
    with pytest.raises(ValueError, match="stopped before the first frame of"):
        run(files["detection"], videos["FFV1"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_frames_of_a_killed_recording_stay(files, camera: int, tmp_path: Path, monkeypatch) -> None:
    from tasks.cli.bar import Bar

    class Killed(BaseException):
        pass

    def add(self: Bar, more: int) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "add", add)
        with pytest.raises(Killed):
            run(files["detection"], f"http://127.0.0.1:{camera}/live.mjpg", tmp_path / "out")
    assert json.loads((tmp_path / "out/.unfinished/000000.jsonl").read_text().splitlines()[0])["entry"][
        "objects"
    ]
    with pytest.raises(ValueError, match="holds the results of a run that was killed"):
        run(files["detection"], f"http://127.0.0.1:{camera}/live.mjpg", tmp_path / "out")


def test_frames_of_other_sizes_fit_into_the_first(tmp_path: Path) -> None:
    with video_writer(tmp_path / "a.mp4", 10) as writer:
        for height, width in ((51, 73), (60, 70), (10, 100)):
            writer.add(np.full((height, width, 3), 200, np.uint8))
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    read = [capture.read()[1] for _ in range(3)]
    capture.release()
    assert [image.shape for image in read] == [(52, 74, 3)] * 3
    assert read[0][25, 36].mean() > 190 and read[2][30, 36].mean() < 20
    with pytest.raises(RuntimeError), video_writer(tmp_path / "b.mp4", 10) as writer:
        raise RuntimeError
    assert not (tmp_path / "b.mp4").exists()
