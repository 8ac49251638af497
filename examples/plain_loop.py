"""The training of train_in_python.py as a loop of one's own, without Lightning: `python examples/plain_loop.py`."""

import sys

import torch

import tasks.data
from tasks.data.datamodule import DataModule
from tasks.harness.optim import build_optimizer, warmup_cosine
from tasks.metrics.coco import CocoMetric
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import build_model
from tasks.zoo.task_specs import recipe


def train(steps: int, data: DataModule, model: torch.nn.Module) -> None:
    """So many steps of AdamW, the rate warmed up and then lowered along a cosine."""
    optimizer = build_optimizer(model, torch.optim.AdamW)
    schedule = warmup_cosine(optimizer, steps)
    step, epoch = 0, 0
    while step < steps:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            losses = model.losses(model.features(batch), batch)
            total = sum(losses.values())
            optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            step += 1
            print(f"step {step}  loss {total.item():.3f}")
            if step == steps:
                return
        epoch += 1


@torch.inference_mode()
def evaluate(data: DataModule, model: torch.nn.Module) -> dict[str, float]:
    """COCO's numbers over the validation images."""
    model.eval()
    metric = CocoMetric(data.split("val").annotations)
    for batch in data.val_dataloader():
        found = model.predictions(model.features(batch), batch)
        metric.update(found.to_original(batch.sizes, batch.original_sizes), batch)
    return metric.compute()


if __name__ == "__main__":
    torch.manual_seed(0)
    known = recipe("detection", "digits", "faster_rcnn")
    preprocessing = Preprocessing(**known["preprocessing"])
    data = DataModule(tasks.data.open("digits"), preprocessing, **known["loader"])
    parts = {part: known[part] for part in ("backbone", "pyramid")}
    spec = {"name": "faster_rcnn", **known["model"], **parts}
    model = build_model(spec, num_classes=len(data.class_names), preprocessing=preprocessing)
    train(int(sys.argv[1]) if len(sys.argv) > 1 else known["trainer"]["max_steps"], data, model)
    print(f"AP {evaluate(data, model)['AP']:.3f}")
