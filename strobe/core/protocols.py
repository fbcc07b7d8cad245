"""The two protocols: what stands for directions in a network, and what stands for the network itself."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Features(Protocol):
    """Directions and dictionaries at a site: SAEs, probes, concept vectors, PCA."""

    site: Any

    def encode(self, x: Any) -> Any:
        """Activations (..., d) -> feature coefficients (..., k)."""
        ...

    def decode(self, z: Any) -> Any:
        """Feature coefficients (..., k) -> activations (..., d)."""
        ...


@runtime_checkable
class Mechanism(Protocol):
    """A smaller stand-in for the network: a circuit, program, proof or interaction polynomial."""

    def size(self) -> float:
        """How large the stand-in is, in its own unit (edges, bits, terms)."""
        ...

    def run(self, inputs: Any) -> Any:
        """What the stand-in answers for these inputs."""
        ...
