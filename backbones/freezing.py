"""Freezing the first stages of a backbone: no gradient, and statistics that no `.train()` call can move."""

from .features import FeatureExtractor


def freeze(extractor: FeatureExtractor, num_stages: int | None) -> None:
    """Freezes the stem and the first `num_stages` stages, in place; 0 is the stem alone, None nothing.

    Parameters get ``requires_grad=False``; the modules stay in evaluation mode, so batch norms use and keep
    their running statistics. `FeatureExtractor.train` upholds it. Freezes what is not frozen yet and never
    thaws. The pyramid on a backbone is left alone: pass ``pyramid.backbone``.
    """
    if num_stages is None:
        return
    most = len(extractor.stages) - 1
    if most < 0:
        raise ValueError(
            f"frozen_stages={num_stages}: {type(extractor).__name__} has no stages to freeze one by one; of a "
            "pyramid, freeze the .backbone"
        )
    is_whole = isinstance(num_stages, int) and not isinstance(num_stages, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not is_whole or not 0 <= num_stages <= most:  # a configuration file may give anything
        raise ValueError(
            f"frozen_stages={num_stages!r} must be None, or 0 (the stem) to {most} (every stage)"
        )
    names = [name for stage in extractor.stages[: num_stages + 1] for name in stage]
    for name in names:
        extractor.get_submodule(name).requires_grad_(False)
    extractor.frozen_modules = tuple(dict.fromkeys([*extractor.frozen_modules, *names]))
    extractor.train(extractor.training)
