"""Fixtures every test may use: one torch thread, worlds small enough for seconds, a loop as a user writes it."""

from pathlib import Path

import pytest
import torch

from strobe.core.system import System
from strobe.systems.deep_linear import deep_linear
from strobe.systems.modular_addition import modular_addition
from toys import Toy

torch.set_num_threads(1)
WORDS = [
    "def",
    "return",
    "import",
    "self",
    "value",
    "index",
    "for",
    "in",
    "if",
    "else",
    "while",
    "class",
    "try",
    "list",
    "dict",
    "name",
]


@pytest.fixture(autouse=True)
def _same_random_state() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text folder: enough for a few hundred windows."""
    root = tmp_path_factory.mktemp("text")
    g = torch.Generator().manual_seed(3)
    for i in range(24):
        picks = torch.randint(len(WORDS), (260,), generator=g).tolist()
        (root / f"{i}.py").write_text("\n".join(" ".join(WORDS[j] for j in picks[a : a + 6]) for a in range(0, 260, 6)))
    return root


@pytest.fixture(scope="session")
def language(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> System:
    """attention_language, in milliseconds a step."""
    from strobe.systems.attention_language import attention_language

    return attention_language(
        corpus=str(folder), vocab=280, context=16, d_model=16, heads=2, batch=4, held_fraction=0.3, probe_size=6,
        cache=str(tmp_path_factory.mktemp("cache")),
    )  # fmt: skip


@pytest.fixture(scope="session")
def worlds(language: System) -> dict[str, System]:
    """The three systems, small."""
    return {
        "attention_language": language,
        "deep_linear": deep_linear(dim=5, width=6, singular_values=(2.0, 1.0)),
        "modular_addition": modular_addition(p=7, width=12, batch=8),
    }


@pytest.fixture
def toy() -> type[Toy]:
    return Toy
