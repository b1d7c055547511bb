"""The same comparison in a new process: the command `compare`, started beside this one.

Those who ask for the same thing while it is under way share one process; at most one runs at a time.
"""

import json
import subprocess
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from time import monotonic, sleep
from typing import IO, Any

from pydantic import ValidationError

from . import installation, pairs
from .checkpoints import memory
from .checkpoints.budget import SPARE_BYTES
from .errors import UserError
from .local import LocalLease
from .settings import Settings
from .steps import Steps
from .types import SIDES, Answer, Comparison, Result

PATIENCE = 600.0  # seconds
INTERPRETER_BYTES = 2**30  # Python, torch and transformers, before any weights


@dataclass(eq=False)
class _Child:
    """A process under way and how many wait for it."""

    asked: Comparison
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    errors: IO[bytes]
    waiting: int = 0


@dataclass(eq=False)
class NewProcesses:
    """Starts new processes with the settings of this one."""

    settings: Settings
    _child: _Child | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, comparison: Comparison, lease: LocalLease) -> Steps[None, Result]:
        """The result of a comparison without history in a new process; yields while it waits.

        Raises:
            UserError: there is no memory for it, or it did not start or not end well.
        """
        assert not comparison.conversation.turns, "a history would need a file"
        deadline = monotonic() + PATIENCE
        while (child := self._join(comparison, lease)) is None:
            _check_time(deadline)
            yield
            sleep(0.2)
        try:
            while child.process.poll() is None:
                _check_time(deadline)
                yield
                sleep(0.2)
            return self._read(child)
        finally:
            self._leave(child)

    def _join(self, comparison: Comparison, lease: LocalLease) -> _Child | None:
        """The process that does this, started if need be; None while another one is in the way."""
        with self._lock:
            child = self._child
            if child is None:
                _check_memory(lease)
                child = self._child = self._start(comparison, lease)
            elif child.asked != comparison or child.process.poll() is not None:
                return None
            child.waiting += 1
            return child

    def _leave(self, child: _Child) -> None:
        with self._lock:
            child.waiting -= 1
            if child.waiting:
                return
            self._child = None
        if child.process.poll() is None:
            child.process.kill()
        child.process.wait()
        child.output.close()
        child.errors.close()

    def _start(self, comparison: Comparison, lease: LocalLease) -> _Child:
        output, errors = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - open until nobody waits
        command = self._command(comparison, lease)
        try:
            with tempfile.TemporaryFile() as prompt:
                prompt.write(comparison.prompt.encode())
                prompt.seek(0)
                process = subprocess.Popen(command, stdin=prompt, stdout=output, stderr=errors)
        except OSError as error:
            output.close()
            errors.close()
            raise UserError(f"no new process can be started here ({error.strerror})") from None
        return _Child(comparison, process, output, errors)

    def _command(self, comparison: Comparison, lease: LocalLease) -> list[str]:
        rows = pairs.known_pairs(replace(self.settings, base=None, post=None))
        own = None if comparison.pair in {row.id for row in rows} else lease.pair
        # The context in use, so that less free memory than before does not choose a shorter one.
        context = min(lease.side(side).context for side in SIDES)
        settings = replace(self.settings, pair=comparison.pair, context=context)
        settings = replace(settings, base=own.base if own else None, post=own.post if own else None)
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in comparison.sampling]
        chosen = {
            "--system": comparison.conversation.system,
            "--framing-base": comparison.framing_base,
            "--framing-post": comparison.framing_post,
            "--today": comparison.today,
            "--chat-template-kwargs": comparison.chat_template_kwargs and json.dumps(comparison.chat_template_kwargs),
        }
        flags += [f"{flag}={value}" for flag, value in chosen.items() if value]
        return [*installation.new_process(), "compare", "--json", "--prompt=-", *flags, *settings.model_flags()]

    def _read(self, child: _Child) -> Result:
        with self._lock:
            child.output.seek(0)
            child.errors.seek(0)
            output, errors = child.output.read(), child.errors.read().decode(errors="replace")
        if child.process.returncode != 0:
            last = (errors.strip().splitlines() or [f"exit status {child.process.returncode}"])[-1]
            raise UserError(f"the new process did not end well ({last.rstrip('.')})")
        try:
            return Answer.model_validate_json(output)
        except ValidationError:
            raise UserError("the new process did not print a result") from None


def _check_time(deadline: float) -> None:
    if monotonic() > deadline:
        raise UserError("the new process took too long")


def _check_memory(lease: LocalLease) -> None:
    """Raises UserError when a second copy of the pair would not fit beside the first."""
    needed: Counter[Any] = Counter()  # by device
    for checkpoint in lease.loaded.values():
        needed.update(memory.bytes_in_use(checkpoint.engine))
    for device, size in needed.items():
        free = memory.free_bytes(device)
        spare = INTERPRETER_BYTES if device.type == "cpu" else SPARE_BYTES
        if size + spare > free:
            raise UserError(
                f"a second copy of this pair needs about {(size + spare) / 2**30:.1f} GB and {free / 2**30:.1f} GB is free"
            )
