"""Strobe: a time-travel debugger for neural-network training.

The root exposes the core names and the recorder; importing it does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

_WHERE = {
    "record": "strobe.runs.recorder", "Recorder": "strobe.runs.recorder",
    "open_run": "strobe.runs.run", "Run": "strobe.runs.run", "follow": "strobe.runs.watch",
    "Snapshot": "strobe.core.snapshot", "Site": "strobe.core.site", "tap": "strobe.core.tap", "patch": "strobe.core.tap",
    "System": "strobe.core.system", "Reading": "strobe.core.reading", "pool": "strobe.core.reading",
    "Prediction": "strobe.core.prediction", "Verdict": "strobe.core.prediction", "judge": "strobe.core.prediction",
    "Report": "strobe.core.report", "Features": "strobe.core.protocols", "Mechanism": "strobe.core.protocols",
    "StrobeError": "strobe.core.errors",
    "observable": "strobe.core.cards", "law": "strobe.core.cards", "edit": "strobe.core.cards",
    "study": "strobe.core.cards", "system": "strobe.core.cards",
}  # fmt: skip
__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from strobe.core.cards import edit, law, observable, study, system
    from strobe.core.errors import StrobeError
    from strobe.core.prediction import Prediction, Verdict, judge
    from strobe.core.protocols import Features, Mechanism
    from strobe.core.reading import Reading, pool
    from strobe.core.report import Report
    from strobe.core.site import Site
    from strobe.core.snapshot import Snapshot
    from strobe.core.system import System
    from strobe.core.tap import patch, tap
    from strobe.runs.recorder import Recorder, record
    from strobe.runs.run import Run, open_run
    from strobe.runs.watch import follow


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'strobe' has no attribute {name!r}")
    try:
        return getattr(import_module(_WHERE[name]), name)
    except ModuleNotFoundError as e:
        if e.name != "torch":
            raise
        raise ModuleNotFoundError(
            f"strobe.{name} needs PyTorch, which is not installed here. CPU only: "
            "pip install 'torch>=2.10,<2.14' --index-url https://download.pytorch.org/whl/cpu; with CUDA: pip install 'strobe[torch]'",
            name="torch",
        ) from e


def __dir__() -> list[str]:
    return sorted(__all__)
