"""The server process of a soak: started, killed, started again, and looked at from outside."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks import page
from tests.ports import free_port

ROOT = Path(__file__).parent.parent.parent
HEADER = "X-Forwarded-For"  # each visitor has an address of their own
PATIENCE = 300.0  # seconds until the server must be there, or have answered


class Server:
    """`generation` is how often it was started, `down` whether it is known not to answer. Left as a `with` block, it has ended."""

    def __init__(self, flags: Sequence[str]):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.generation, self.down = 0, True
        self.events: dict[str, dict[str, Any]] = {}
        self._flags = ["--port", str(self.port), "--address-header", HEADER, *flags]
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - it lives as long as this
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> float:
        """Returns when both models have answered: after how many seconds."""
        began = time.monotonic()
        command = [sys.executable, "-m", "benchmarks.soak.server", *self._flags]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log, text=True
        )
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() - began > PATIENCE:
                raise RuntimeError(f"the server did not start:\n{self.log()}")
            time.sleep(0.1)
        self.events = {name: page.asking(self.url, "transcript", name) for name in ("ask", "halt")}
        for _ in page.views(
            self.url, page.asking(self.url, "transcript", "ask", {"prompt": "Hello", "at": 0}, page.with_tokens(1))
        ):
            pass
        self.generation, self.down = self.generation + 1, False
        return time.monotonic() - began

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url, timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    def fault(self, name: str) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """As the kernel does where memory runs out."""
        assert self.process is not None
        self.down = True
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        assert self.process is not None
        status = self.process.wait(PATIENCE)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return status

    def end(self) -> int:
        """Its exit status after SIGTERM."""
        assert self.process is not None
        self.down = True
        self.process.terminate()
        return self.wait()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *raised: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self._log.close()

    def killed_since(self, generation: int) -> bool:
        return self.down or self.generation != generation

    def log(self) -> str:
        return Path(self._log.name).read_text("utf-8")

    def surprises(self) -> list[str]:
        """The last lines of the tracebacks in its log that come of no fault that was ordered, nor follow from one."""
        lines = self.log().splitlines()
        starts = [number for number, line in enumerate(lines) if line.strip().startswith("Traceback (most recent")]
        starts = [
            number
            for number in starts
            if not any("direct cause" in line for line in lines[max(0, number - 2) : number])
        ]
        ends = [next((line for line in lines[at + 1 :] if line[:1].strip()), "") for at in starts]
        return [line for line in ends if "injected fault" not in line]

    def measure(self) -> dict[str, int]:
        """What the process has now, where the system tells it."""
        assert self.process is not None
        folder = Path(f"/proc/{self.process.pid}")
        if not folder.exists():
            return {}
        told = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        return {
            "memory, MB": int(told["VmRSS"].split()[0]) // 1024,
            "threads": int(told["Threads"]),
            "file descriptors": len(list((folder / "fd").iterdir())),
        }
