"""A function of tensors as a list of tensor operations, to be run again and again without autograd; on a GPU in one launch."""

from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg as fx_map

FILLS = {torch.ops.aten.ones_like.default, torch.ops.aten.zeros_like.default, torch.ops.aten.full_like.default}


def traced(function: Any, w: Tensor, tensors: list[Tensor]) -> Any:
    """What `function(w, tensors)` does, recorded once: a function of other values of the same shapes.

    Without what autograd keeps for itself, what gives what it is given or was worked out before, and what shapes alone decide,
    which is kept as constants (unless something is written in place). A branch that was taken is taken always: compare before use.

    >>> w = torch.eye(3)
    >>> f = traced(lambda w, tensors: (torch.ones_like(w) * 2).expand(3, 3) * w * tensors[0] ** 1.0, w, [w])
    >>> float(f(2 * w, [3 * w]).sum()), [n.name for n in f.graph.nodes if n.op == "call_function"]
    (36.0, ['mul_1', 'mul_2'])
    """
    module = make_fx(function)(w.clone(), [x.clone() for x in tensors])  # one given twice would be taken for one
    graph = module.graph
    changing = any(getattr(n.target, "_schema", None) and n.target._schema.is_mutable for n in graph.nodes)
    known: dict[Any, Any] = {}  # the same in every call
    seen: dict[str, Any] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if (same := _same(node, changing)) is not None:
            node.replace_all_uses_with(same)
        elif not changing and not _random(node):
            first = seen.setdefault(repr((node.target, node.args, node.kwargs)), node)
            if first is not node:  # the same again
                node.replace_all_uses_with(first)
            elif node.target in FILLS:
                like = node.all_input_nodes[0].meta["val"]
                known[node] = node.target(torch.empty(like.shape, dtype=like.dtype, device=like.device), *node.args[1:])
            elif all(n in known for n in node.all_input_nodes):
                known[node] = node.target(
                    *fx_map(node.args, known.__getitem__), **fx_map(node.kwargs, known.__getitem__)
                )
    for i, (node, value) in enumerate(known.items()):
        users = list(node.users)
        if not isinstance(value, Tensor) or all(n in known for n in users) or any(n.op == "output" for n in users):
            continue  # what is returned is the caller's, who may write to it
        module.register_buffer(f"known{i}", value)
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(f"known{i}"), lambda n: n not in known)
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _random(node: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _same(node: Any, changing: bool) -> Any:
    """The node that gives what this one gives, if there is one: with something `changing`, only if it is the same memory."""
    aten, name = torch.ops.aten, node.target
    if name is aten.detach.default:
        return node.args[0]
    if name in (aten.expand.default, aten.view.default, aten._unsafe_view.default):
        return node.args[0] if node.meta["val"].shape == node.args[0].meta["val"].shape else None
    if name is aten.transpose.int and (inner := node.args[0]).target is name:
        ndim = node.meta["val"].ndim
        there, back = ({d % ndim for d in n.args[1:]} for n in (node, inner))
        return inner.args[0] if there == back else None
    if name is aten.t.default and node.args[0].target is name:
        return node.args[0].args[0]
    one = name in (aten.pow.Tensor_Scalar, aten.mul.Scalar, aten.mul.Tensor) and node.args[1] == 1 and not changing
    return node.args[0] if one and node.meta["val"].dtype == node.args[0].meta["val"].dtype else None


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
