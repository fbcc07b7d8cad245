"""Every error Strobe raises on purpose: what happened, where, and what to do about it.

Each is also the nearest builtin, so code that already catches `ValueError` or `FileNotFoundError` keeps working.
"""

import difflib
from collections.abc import Iterable


class StrobeError(Exception):
    """Base of every error this package raises on purpose."""

    def __str__(self) -> str:  # KeyError would print the text as a quoted repr
        return " ".join(str(a) for a in self.args)


class BadOption(StrobeError, ValueError):
    """An argument is outside what the function accepts."""


class NameNotFound(StrobeError, KeyError):
    """A name (function, study, series, control) is not in the catalogue or the run."""


class SiteNotFound(StrobeError, KeyError):
    """A site names a module, part or parameter that the model does not have."""


class RunNotFound(StrobeError, FileNotFoundError):
    """There is no directory at this path."""


class NotARun(StrobeError, ValueError):
    """The directory is there, but it is not a run."""


class RunExists(StrobeError, FileExistsError):
    """The directory already holds a run and `resume` was not asked for."""


class RunBusy(StrobeError, RuntimeError):
    """Another process is writing this run."""


class StepNotFound(StrobeError, LookupError):
    """The run does not reach this step."""


class StateMismatch(StrobeError, ValueError):
    """A stored state does not fit the objects it is loaded into."""


class NotPlain(StrobeError, TypeError):
    """A state holds an object that is neither a tensor, an array, nor JSON; Strobe never pickles."""


class Damaged(StrobeError, OSError):
    """A stored file is missing, cut short, or its bytes do not match their checksum."""


class CannotReplay(StrobeError, RuntimeError):
    """The run does not say how to run its loop again."""


class NotReproduced(StrobeError, RuntimeError):
    """A replay differs from the recorded run."""


class Diverged(StrobeError, ArithmeticError):
    """An estimate became NaN or infinite, or did not converge where convergence was asked for."""


class Unsealed(StrobeError, RuntimeError):
    """A verdict was asked for with a prediction that was not sealed before its measurement."""


def near(word: str, options: Iterable[str], *, most: int = 4) -> str:
    """A clause that lists the near misses of `word`, or the first options where nothing is near.

    >>> near("shrpness", ["sharpness", "loss"])
    'did you mean sharpness?'
    >>> near("zzz", ["a", "b"])
    'there are: a, b'
    """
    options = list(options)
    inside = [o for o in options if word and word in o]
    close = list(dict.fromkeys(difflib.get_close_matches(word, options, n=most, cutoff=0.55) + inside))[:most]
    if close:
        return f"did you mean {', '.join(close)}?"
    shown = ", ".join(options[: most * 2])
    return f"there are: {shown}{', ...' if len(options) > most * 2 else ''}" if options else "there are none"
