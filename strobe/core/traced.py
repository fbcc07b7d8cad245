"""A function of tensors as a list of tensor operations, to be run again and again without autograd; on a GPU in one launch."""

from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg as fx_map

FILLS = {torch.ops.aten.ones_like.default, torch.ops.aten.zeros_like.default, torch.ops.aten.full_like.default}


def traced(function: Any, w: Tensor, tensors: list[Tensor]) -> Any:
    """What `function(w, tensors)` does, recorded once: a function of other values of the same shapes.

    Without what autograd keeps for itself, what gives what it is given, and what shapes alone decide, which is kept as
    constants (unless something is written in place). A branch that was taken is taken always: compare before use.

    >>> w = torch.eye(3)
    >>> f = traced(lambda w, tensors: (torch.ones_like(w) * 2).expand(3, 3) * w * tensors[0] ** 1.0, w, [w])
    >>> float(f(2 * w, [3 * w]).sum()), [n.name for n in f.graph.nodes if n.op == "call_function"]
    (36.0, ['mul_1', 'mul_2'])
    """
    module = make_fx(function)(w.clone(), [x.clone() for x in tensors])  # one given twice would be taken for one
    graph = module.graph
    changing = any(getattr(n.target, "_schema", None) and n.target._schema.is_mutable for n in graph.nodes)
    known: dict[Any, Any] = {}  # the same in every call
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if _idle(node):
            node.replace_all_uses_with(node.args[0])
        elif not changing and not _random(node) and (inputs := node.all_input_nodes):
            if node.target in FILLS:
                like = inputs[0].meta["val"]
                known[node] = node.target(torch.empty(like.shape, dtype=like.dtype, device=like.device), *node.args[1:])
            elif all(n in known for n in inputs):
                known[node] = node.target(
                    *fx_map(node.args, known.__getitem__), **fx_map(node.kwargs, known.__getitem__)
                )
    for i, (node, value) in enumerate(known.items()):
        if not isinstance(value, Tensor) or all(n in known for n in node.users):
            continue
        module.register_buffer(f"known{i}", value)
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(f"known{i}"), lambda n: n not in known)
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _random(node: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _idle(node: Any) -> bool:
    """Whether it gives what it is given."""
    if node.target is torch.ops.aten.detach.default:
        return True
    if node.target is torch.ops.aten.pow.Tensor_Scalar:
        return bool(node.args[1] == 1)
    same = (torch.ops.aten.expand.default, torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
    return node.target in same and node.meta["val"].shape == node.args[0].meta["val"].shape


def graphed(made: Any, w: Tensor, tensors: list[Tensor]) -> Any:
    """The operations of one call as a CUDA graph, which costs one launch. What it returns is the caller's own."""
    at, given = w.clone(), [x.clone() for x in tensors]
    aside = torch.cuda.Stream(w.device)
    aside.wait_stream(torch.cuda.current_stream(w.device))
    with torch.cuda.stream(aside):  # libraries make their workspaces before it is recorded
        made(at, given)
    torch.cuda.current_stream(w.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = made(at, given)
    kept = made  # its constants, which the graph reads where they lie: freed, others would write there

    def run(w: Tensor, tensors: list[Tensor], kept: Any = kept) -> tuple[Tensor, ...]:
        for to, x in zip([at, *given], [w, *tensors], strict=True):
            to.copy_(x)
        graph.replay()
        return tuple(x.clone() for x in out)

    return run
