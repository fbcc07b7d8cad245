"""Each study runs at "tiny" once; the tests that read its report share it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strobe.core.report import Report


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Callable[[Any], Report]:
    """The report of a study at scale "tiny", seed 0."""
    made: dict[str, Report] = {}

    def run(study: Any) -> Report:
        name = study.__name__
        if name not in made:
            extra = {"corpus": str(folder)} if name == "first_stages" else {}
            made[name] = study(tmp_path_factory.mktemp(name), scale="tiny", seed=0, **extra)
        return made[name]

    return run
