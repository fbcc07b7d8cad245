"""Heavy work away from the server: a process that looks inside models, and one for each fork and each trace.

A look may be slow, eat memory or crash; then that process ends, the request says so, and neither the server nor the
training notices. Parent and child speak JSON, a line each way; what the user's own code prints goes to a log.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strobe.core.errors import StrobeError

SECONDS, MEMORY = 60.0, 8 << 30  # what a look may take
WAITING = 8  # looks that may wait for one another: each holds a thread of the server
KEPT = 3  # models kept built in the looking process
JOBS, JOBS_KEPT = 2, 200  # forks and traces at once; finished ones remembered


class TookTooLong(StrobeError):
    """A look passed its time limit; its process was ended."""


class Looker:
    """The parent's end of the looking process: started when first needed, ended when it is late."""

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.seconds, self.memory = seconds, memory
        self._lock, self._places = threading.Lock(), threading.BoundedSemaphore(WAITING)
        self._child: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[bytes] = queue.Queue()
        self._log: Any = None

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait. Raises `TookTooLong`, or `StrobeError` with what went wrong."""
        if not self._places.acquire(blocking=False):
            raise TookTooLong(f"{WAITING} looks are waiting already; try again when they are done")
        try:
            return self._ask(request)
        finally:
            self._places.release()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self._lock.acquire(timeout=self.seconds):
            raise TookTooLong("another look is still running; try again when it is done")
        try:
            child = self._started()
            assert child.stdin is not None
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            try:
                line = self._answers.get(timeout=self.seconds)
            except queue.Empty:
                self.close()
                raise TookTooLong(
                    f"this look took more than {self.seconds:g} s and was ended; ask for a stored step, or less"
                ) from None
            if not line:
                words = self._last_words()
                self.close()
                raise StrobeError(f"the looking process ended (out of memory?): {words}")
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise StrobeError(answer["error"])
            return answer
        except BrokenPipeError as e:
            words = self._last_words()
            self.close()
            raise StrobeError(f"the looking process ended: {words}") from e
        finally:
            self._lock.release()

    def warm(self) -> None:
        """Start the process, so that the first look need not wait for it; at once, without waiting."""
        if self._lock.acquire(blocking=False):
            try:
                self._started()
            finally:
                self._lock.release()

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
            self._child = subprocess.Popen(
                [sys.executable, "-m", "strobe.app.worker", "look", str(self.memory)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
                env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
            )  # fmt: skip
            self._answers = queue.Queue()
            self._pump = threading.Thread(target=_pump, args=(self._child.stdout, self._answers), daemon=True)
            self._pump.start()
        return self._child

    def _last_words(self) -> str:
        if self._log is None:
            return "it said nothing"
        with contextlib.suppress(OSError, ValueError):
            self._log.seek(max(0, self._log.seek(0, 2) - 600))
            return self._log.read().decode(errors="replace").strip().splitlines()[-1]
        return "it said nothing"

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._pump.join(timeout=5)
            for pipe in (self._child.stdin, self._child.stdout, self._log):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._child = self._log = None

    def __del__(self) -> None:
        self.close()


def _pump(pipe: Any, answers: "queue.Queue[bytes]") -> None:
    for line in pipe:
        answers.put(line)
    answers.put(b"")


class Jobs:
    """Forks and traces, each in a process of its own session: it goes on when the server ends."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def fork(self, run: Path, **request: Any) -> str:
        """Start a fork; returns the job's id. Raises `StrobeError` when too many run."""
        return self._start("fork", run, request)

    def trace(self, run: Path, **request: Any) -> str:
        """Start a concept's trace along a run; returns the job's id. Raises as `fork`."""
        return self._start("trace", run, request)

    def _start(self, kind: str, run: Path, request: dict[str, Any]) -> str:
        with self._lock:
            if sum(j["state"] == "running" for j in self._jobs.values()) >= JOBS:
                raise StrobeError(
                    f"{JOBS} forks or traces are running; wait for one to end, or stop a fork on its own page"
                )
            while len(self._jobs) > JOBS_KEPT:
                self._jobs.popitem(last=False)
            id = uuid.uuid4().hex[:12]
            log = tempfile.TemporaryFile()  # noqa: SIM115 - the child's
            child = subprocess.Popen(
                [sys.executable, "-m", "strobe.app.worker", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, start_new_session=True,
            )  # fmt: skip
            job = self._jobs[id] = {"job": id, "state": "running", "step": None, "out": None, "error": ""}
        assert child.stdin is not None
        child.stdin.write(json.dumps({"run": str(run), **request}).encode())
        child.stdin.close()
        threading.Thread(target=self._follow, args=(child, job, log), daemon=True).start()
        return id

    def _follow(self, child: "subprocess.Popen[bytes]", job: dict[str, Any], log: Any) -> None:
        assert child.stdout is not None
        with child, log:
            for line in child.stdout:
                job.update(json.loads(line))
        if job["state"] == "running":
            job.update(state="failed", error="its process ended before it was done; what it recorded is kept")

    def get(self, id: str) -> dict[str, Any] | None:
        """What is known of a job."""
        return dict(self._jobs[id]) if id in self._jobs else None


# -------------------------------------------------------------------------------------------- the child's side


def _private_stdout() -> Any:
    """Our lines go out by a descriptor of their own; what the user's code prints joins the log."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return out


def look_forever(memory: int) -> None:
    """Answer requests from stdin, a line each, until it closes."""
    out = _private_stdout()
    import resource

    import torch
    import torch._dynamo  # the first optimizer that is built would import it (0.7 s), in the first look

    import strobe.app.look
    import strobe.runs.replay  # noqa: F401

    torch.set_num_threads(1)  # small models; also the training may be on the other cores
    if not torch.cuda.is_available():  # CUDA reserves more address space than any limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    opened: OrderedDict[str, Any] = OrderedDict()
    for line in sys.stdin:
        try:
            answer = _look(json.loads(line), opened)
            text = json.dumps(answer, allow_nan=False)
        except StrobeError as e:
            text = json.dumps({"error": str(e)})
        except MemoryError:
            opened.clear()
            text = json.dumps({"error": "this look needs more memory than a look may take; ask for less"})
        except Exception as e:  # the user's own model or loss failed
            text = json.dumps({"error": f"{type(e).__name__}: {e}"})
        print(text, file=out, flush=True)


def _look(request: dict[str, Any], opened: "OrderedDict[str, Any]") -> dict[str, Any]:
    import time

    from strobe.app import look

    began = time.monotonic()

    def result(place: str, step: int, args: dict[str, Any]) -> dict[str, Any]:
        from strobe.runs.run import Opened, open_run

        if place not in opened:
            opened[place] = Opened(open_run(place))
            while len(opened) > KEPT:
                opened.popitem(last=False)
        opened.move_to_end(place)
        snap = opened[place].at(step)
        return look.VIEWS[request["view"]](snap, look.kit_of(opened[place].run, opened[place].recorder), **args)

    other, args = request.get("other"), request["args"]
    if request["view"] not in look.VIEWS:
        raise StrobeError(f"there is no look {request['view']!r}; there are {', '.join(look.VIEWS)}")
    try:
        found = result(request["run"], request["step"], args)
        if other:
            found = {"a": found, "b": result(other["run"], other["step"], args)}
    except TypeError as e:
        if "argument" in str(e):
            raise StrobeError(f"the look {request['view']!r} was asked with wrong options: {e}") from e
        raise
    return {**found, "view": request["view"], "step": request["step"], "seconds": round(time.monotonic() - began, 4)}


def job_once(work: Callable[[dict[str, Any], Callable[..., None]], None]) -> None:
    """Do what stdin asks for; say on stdout how far it is."""
    out = _private_stdout()

    def say(**facts: Any) -> None:
        print(json.dumps(facts), file=out, flush=True)

    request = json.load(sys.stdin)
    sys.path.append(request.get("cwd", os.getcwd()))
    try:
        work(request, say)
        say(state="done")
    except BrokenPipeError:
        pass
    except Exception as e:
        said = str(e) if isinstance(e, StrobeError) else f"{type(e).__name__}: {e}"
        with contextlib.suppress(BrokenPipeError):
            say(state="failed", error=said)


def fork(request: dict[str, Any], say: Callable[..., None]) -> None:
    """Make a branch; say where it is and its last step."""
    from strobe.runs.directory import free_name
    from strobe.runs.run import open_run

    run = open_run(request["run"])
    place = run.path.parent / request["name"] if request.get("name") else free_name(run.path)
    say(out=str(place), step=request["step"])
    with contextlib.suppress(BrokenPipeError):  # the server ended; the branch goes on
        run.fork(
            request["step"], request["edits"], until=request.get("until"), out=place,
            progress=lambda n: _quietly(say, step=n), author=request.get("author", "human"),
        )  # fmt: skip


def trace(request: dict[str, Any], say: Callable[..., None]) -> None:
    """Put a concept on the strip of a run; say how many of its steps are measured."""
    import torch

    from strobe.core.catalogue import load
    from strobe.runs.run import open_run

    torch.set_num_threads(1)
    load("strobe.studies.concept_trace:concept_trace")(
        open_run(request["run"]), request["positive"], request["negative"], site=request["site"], step=request["step"],
        name=request["name"], progress=lambda i, n: _quietly(say, step=i),
    )  # fmt: skip


def _quietly(say: Any, **facts: Any) -> None:
    with contextlib.suppress(BrokenPipeError, OSError):
        say(**facts)


if __name__ == "__main__":
    sys.path.append(os.getcwd())
    if sys.argv[1] == "look":
        look_forever(int(sys.argv[2]))
    else:
        job_once({"fork": fork, "trace": trace}[sys.argv[1]])
