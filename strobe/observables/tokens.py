"""What every language observable needs: tokens out of the data, logits out of the model, an error over sequences."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot


def token_windows(data: Any) -> Tensor:
    """Windows (B, T+1) of token ids: the data itself, or its "input_ids" where it is a mapping.

    Raises `BadOption` for anything else, for fewer than two windows (no error could be given), and for padding.
    """
    mapping = not isinstance(data, Tensor) and hasattr(data, "keys")
    tokens = data["input_ids"] if mapping and "input_ids" in data else data
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        raise BadOption(
            "language observables measure on a LongTensor (B, T+1), or a mapping that holds one as 'input_ids'"
        )
    if tokens.shape[0] < 2 or tokens.shape[1] < 2:
        raise BadOption(
            f"at least two windows of two tokens are needed to give an error, got shape {tuple(tokens.shape)}"
        )
    if mapping and "attention_mask" in data and not bool(data["attention_mask"].all()):
        raise BadOption("the windows are padded (attention_mask has zeros); give windows of equal, full length")
    return tokens


def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits (B, T, V) of a model that returns them, or an object with `.logits`."""
    out = model(tokens)
    out = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    if not isinstance(out, Tensor) or out.shape[:2] != tokens.shape:
        raise BadOption(
            "the model must map tokens (B, T) to logits (B, T, V), or to an object that has them as .logits"
        )
    return out


def home(model: nn.Module) -> torch.device:
    """The device of the model's first parameter."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def log_probs_of(snap: Snapshot) -> tuple[Tensor, Tensor]:
    """Windows (B, T+1) and log-probabilities (B, T, V) of their continuations, measured without a trace."""
    tokens = token_windows(snap.data)
    with snap.quiet() as model, torch.no_grad():
        tokens = tokens.to(home(model))
        return tokens, logits_of(model, tokens[:, :-1]).float().log_softmax(-1)


def losses_of(snap: Snapshot) -> np.ndarray:
    """−log P of every token after the first, (B, T), in nats."""
    tokens, log_probs = log_probs_of(snap)
    return over(-log_probs.gather(-1, tokens[:, 1:, None]).squeeze(-1))


def over(x: Tensor) -> np.ndarray:
    """A tensor as a float64 array."""
    return x.double().cpu().numpy()


def mean_err(rows: np.ndarray) -> tuple[Any, Any]:
    """Mean over the first axis and its standard error, with rows (sequences) as the independent units."""
    return rows.mean(0), rows.std(0, ddof=1) / len(rows) ** 0.5
