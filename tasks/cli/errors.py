"""Which errors are mistakes of the user's, and the one sentence that is said of each."""

import errno

OF_DISKS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""Errors of a disk that is full or takes nothing; the system names no file with them."""


def user_error(error: BaseException) -> BaseException | None:
    """The mistake of the user's behind `error`, or None when it is ours."""
    if isinstance(error, OSError):  # of a file that a setting names, or of a disk that takes no more
        return error if error.filename is not None or error.errno in OF_DISKS or error.errno is None else None
    if isinstance(error, ValueError) and not type(error).__module__.startswith("omegaconf"):
        return error
    if isinstance(error, ModuleNotFoundError):
        package = str(error.name).partition(".")[0]
        if package in ("backbones", "tasks"):
            return None
        return ValueError(f"the package {package} is not installed; pip install 'vertebra[train]' brings it")
    from hydra.errors import HydraException
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if isinstance(error, YAMLError):
        return ValueError(f"a file of settings is not YAML: {' '.join(str(error).split())}; mend it")
    if isinstance(error, HydraException) and error.__cause__ is not None:
        return user_error(error.__cause__)
    if isinstance(error, HydraException | OmegaConfBaseException | MisconfigurationException):
        key, line = (
            getattr(error, "full_key", None),
            next(iter(str(error).splitlines()), type(error).__name__),
        )
        return ValueError(f"{key}: {line}" if key else line)
    return None


def user_sentence(error: BaseException) -> str | None:
    """What to tell the user of a mistake of theirs, or None for one of ours."""
    cause = user_error(error)
    return None if cause is None else visible(sentence(cause))


def visible(text: str) -> str:
    """`text` in one line, in which a name from outside can neither break the line nor steer the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def sentence(error: BaseException) -> str:
    """What the error says, without Python's number in front of what the system said."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    what = error.strerror[:1].lower() + error.strerror[1:]
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if not names and error.errno in OF_DISKS:  # while a file was written, of which Python says no name
        return (
            f"{what}; make room where the command writes (run_dir=, output= or out=), or name another place"
        )
    return f"{' and '.join(map(repr, names))}: {what}" if names else what
