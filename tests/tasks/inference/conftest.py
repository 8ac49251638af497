"""Model files for all tests of this folder."""

from pathlib import Path

import pytest

from tests.tasks.inference.small_files import MODELS, model_file


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model file of each task."""
    folder = tmp_path_factory.mktemp("models")
    return {task: model_file(task, folder) for task in MODELS}
