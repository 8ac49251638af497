"""`vertebra push` and `vertebra pull`: model files on the Hugging Face hub, through its own client.

Nothing else in the project opens the hub. Who one is there, the client knows itself (`HF_TOKEN` or `hf auth login`).
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from backbones.untrusted import find_model
from tasks.cli.card import make_card
from tasks.cli.output import Found, say_result
from tasks.files import write_whole
from tasks.folders import claim_folder
from tasks.zoo.model_file import load_model, read, save_model

FILE = "model.safetensors"


def push(config: DictConfig) -> Found:
    """Uploads the model in `config.checkpoint` with its card to the repository `config.repo`."""
    client = hub_client()
    model = find_model(Path(config.checkpoint))
    header, _ = read(model)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_card(config, model, header, folder, file=FILE)
        if model.suffix == ".safetensors":
            shutil.copyfile(model, folder / FILE)
        else:  # a checkpoint holds the optimiser, too
            network = load_model(model)
            save_model(folder / FILE, network, network.header)
        with answers(config.repo):
            api = client.HfApi(endpoint=config.endpoint)
            api.create_repo(config.repo, private=config.private, exist_ok=True)
            message = config.message or f"{header.model['name']} for {header.task}"
            done = api.upload_folder(repo_id=config.repo, folder_path=folder, commit_message=message)
    say_result(f"{config.repo}: {FILE} and README.md ({done.commit_url})")
    return Found({"repo": config.repo, "files": [FILE, "README.md"], "commit": done.commit_url})


def pull(config: DictConfig) -> Found:
    """Downloads the model file of the repository `config.repo` into the folder `config.output`."""
    client = hub_client()
    output = claim_folder(Path(config.output or str(config.repo).rpartition("/")[2]), "output")
    path = output / FILE
    try:
        with tempfile.TemporaryDirectory() as place, answers(config.repo):
            found = client.hf_hub_download(
                config.repo, FILE, revision=config.revision, endpoint=config.endpoint, cache_dir=place
            )
            header, _ = read(found)  # refused before it has a name where it is none of ours
            with write_whole(path) as partial:
                shutil.copyfile(found, partial)
    except BaseException:
        output.rmdir()
        raise
    say_result(
        f"{path}: {header.model['name']} for {header.task}, {len(header.class_names)} classes\n"
        f"predict with it: vertebra predict checkpoint={path} source=photo.jpg"
    )
    about = {"model": header.model["name"], "task": header.task, "classes": header.class_names}
    return Found({"file": path, **about})


def hub_client() -> Any:
    """The package huggingface_hub. Raises ValueError where it is not installed."""
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise ValueError(
            "the package huggingface_hub is not installed; pip install 'vertebra[hub]' brings it"
        ) from None
    return huggingface_hub


@contextmanager
def answers(repo: str) -> Iterator[None]:
    """What the hub refuses, or a network that does not reach it, becomes one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except HFValidationError:
        raise ValueError(f"repo={repo} is not the name of a repository; give USER/NAME") from None
    except LocalTokenNotFoundError:
        raise ValueError("the hub does not know who you are; set HF_TOKEN, or run hf auth login") from None
    except Exception as error:
        # The client's own errors, those of the system, and those of the package that it makes requests with.
        if not isinstance(error, HfHubHTTPError | OSError) and "httpx" not in type(error).__module__:
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"repo={repo}: the hub did not do it ({reason}); check the name, and HF_TOKEN"
        ) from None
