"""ZeroGPU that is not there: what `spaces` does to a program, with the processor for a GPU. Knows torch and Gradio, nothing of the product.

As `spaces` 0.51.3 does it, by its source:

- a decorated generator function runs in a forked process, one after the other in the same one as long as it lives; arguments and what it
  yields are pickled, and whether it is stopped is looked at after each yield alone;
- of what is raised there only a gr.Error keeps its words;
- outside of it CUDA is stood in for, in the thread that called `emulate` alone: tensors that say "cuda:0" and whose numbers are out of reach.
  Any other thread gets torch's own answer, which here is that there is no CUDA;
- a visitor has so many seconds a day, and is known by a header of the request that Gradio has in the context of whoever calls;
- nothing is granted before the page was served by `gr.Blocks.launch`.

In the forked process what was moved to the GPU is on the processor again.
"""

import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from functools import wraps
from threading import Event, Lock
from typing import Any
from unittest import mock

import gradio as gr
import torch
from gradio.context import LocalContext
from torch.overrides import TorchFunctionMode

FORK = multiprocessing.get_context("fork")
T: Any = torch.Tensor
NUMBERS = {T.tolist, T.item, T.numpy, T.equal, T.__bool__, T.__float__, T.__int__}
MEMORY = 48 * 2**30


class OutOfReach(RuntimeError):
    """The numbers of a tensor on the GPU, where there is none."""


class _Emulated(TorchFunctionMode):
    def __init__(self, originals: dict[int, tuple[torch.Tensor, torch.Tensor]]):
        super().__init__()
        self.originals = originals

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = [each for each in args if isinstance(each, torch.Tensor) and id(each) in self.originals]
        if func == T.device.__get__ and known:
            return torch.device("cuda", 0)
        if func is T.to and any(torch.device(each).type == "cuda" for each in _devices(args[1:], kwargs)):
            return args[0] if known else self._moved(torch.zeros_like(args[0]), args[0].detach().clone())
        if func == T.data.__set__ and id(args[1]) in self.originals:
            self._moved(args[0], self.originals[id(args[1])][1])
        found = func(*args, **kwargs)
        if known and func == T.data.__get__:
            return self._moved(found, self.originals[id(args[0])][1])
        if known and (func in NUMBERS or (isinstance(found, torch.Tensor) and found is not args[0])):
            raise OutOfReach(f"{func} of a tensor whose numbers are not here")
        return found

    def _moved(self, seen: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        self.originals[id(seen)] = seen, original
        return seen


def _devices(args: Any, kwargs: Any) -> list[Any]:
    return [each for each in (*args, kwargs.get("device")) if isinstance(each, str | torch.device)]


class ZeroGpu:
    """A Space on ZeroGPU.

    Args:
        left: seconds that each visitor has.
        served: whether the page is served already.
    """

    def __init__(self, left: int = 120, served: bool = False):
        self.left, self.served = left, served
        self.granted: list[tuple[str | None, int]] = []  # whose token, for how many seconds
        self.workers: list[Worker] = []
        self.free = Event()  # whether there is a GPU for whoever waits
        self.free.set()
        self._originals: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._mode = _Emulated(self._originals)
        self._patches = [
            mock.patch.multiple(
                torch.cuda,
                is_available=lambda: True,
                device_count=lambda: 1,
                get_device_capability=lambda device=None: (12, 0),
                mem_get_info=lambda device=None: (MEMORY, MEMORY),
                memory_reserved=lambda device=None: 0,
                memory_allocated=lambda device=None: 0,
            )
        ]

    def emulate(self) -> None:
        """Stand in for CUDA, in this thread."""
        for patch in self._patches:
            patch.start()
        self._mode.__enter__()

    def restore(self) -> None:
        """As it was before, with no process left."""
        self._mode.__exit__(None, None, None)
        for patch in self._patches:
            patch.stop()
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()

    def serve_first(self) -> None:
        """Grant nothing before `gr.Blocks.launch` was called."""
        launch = gr.Blocks.launch

        @wraps(launch)
        def launched(*args: Any, **kwargs: Any) -> Any:
            self.served = True
            return launch(*args, **kwargs)

        gr.Blocks.launch = launched  # type: ignore[method-assign]

    def GPU(self, task: Callable[..., Iterator[Any]], *, duration: Callable[..., int]) -> Callable[..., Iterator[Any]]:
        """What `spaces.GPU` makes of a generator function."""
        idle: list[Worker] = []
        lock = Lock()

        def granted(*args: Any) -> Iterator[Any]:
            self._schedule(duration(*args))
            with lock:
                alive = [idle.pop() for _ in range(len(idle)) if idle[-1].process.is_alive()]
            worker = alive[0] if alive else Worker(task, self._arrive)
            self.workers.append(worker)
            worker.asked.put(pickle.dumps(args))
            while True:
                kind, said = worker.hear()
                if kind == "end":
                    idle.append(worker)
                    return
                if kind == "raised":
                    raise said if isinstance(said, gr.Error) else _error("ZeroGPU worker error", said)
                try:
                    yield said
                except GeneratorExit:
                    worker.stop.set()
                    while worker.hear()[0] == "yielded":  # until it has ended its step
                        pass
                    idle.append(worker)
                    raise

        return granted

    def _schedule(self, seconds: int) -> None:
        request = LocalContext.request.get(None)
        token = request.headers.get("x-ip-token") if request else None
        if not self.served:
            raise RuntimeError("ZeroGPU has not been started")
        if seconds > self.left:
            said = f"You have exceeded your ZeroGPU quota ({seconds}s requested vs. {self.left}s left). Try again in 3:21:00."
            raise _error("ZeroGPU quota exceeded", said)
        self.free.wait()
        self.granted.append((token, seconds))

    def _arrive(self) -> None:
        """In the forked process: CUDA is what it is, and what was moved to the GPU is there."""
        for patch in self._patches:
            patch.stop()
        for seen, original in self._originals.values():
            seen.data = original


class Worker:
    """A forked process, and what goes to it and comes from it."""

    def __init__(self, task: Callable[..., Iterator[Any]], arrive: Callable[[], None]):
        self.asked, self.said, self.stop = FORK.SimpleQueue(), FORK.SimpleQueue(), FORK.Event()
        self.process = FORK.Process(target=self._work, args=(task, arrive), daemon=True)
        self.process.start()

    def hear(self) -> tuple[str, Any]:
        """What comes next. Raises gr.Error where the process has ended."""
        while not self.said._poll(0.05):  # type: ignore[attr-defined]
            if not self.process.is_alive():
                raise _error("ZeroGPU worker error", "GPU task aborted")
        return self.said.get()

    def _work(self, task: Callable[..., Iterator[Any]], arrive: Callable[[], None]) -> None:
        arrive()
        while True:
            args = pickle.loads(self.asked.get())
            self.stop.clear()
            generator = task(*args)
            try:
                for found in generator:
                    if self.stop.is_set():
                        generator.close()  # type: ignore[attr-defined]
                        break
                    self.said.put(("yielded", found))
                self.said.put(("end", None))
            except Exception as error:
                self.said.put(("raised", error if isinstance(error, gr.Error) else type(error).__name__))


def _error(title: str, message: str) -> gr.Error:
    return gr.Error(message, title=title, print_exception=False)
