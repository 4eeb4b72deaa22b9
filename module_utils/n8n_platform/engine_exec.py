"""Programs in running containers, through the Docker client: what streams in or out may be larger than memory."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.n8n_platform.engine import SOCKET, again, lost
from ansible.module_utils.n8n_platform.engine_run import Result

# What `timeout` returns: ended by its signal, or killed after that.
TIMED_OUT = (124, 137)
_KILL_SECONDS = 15
_CLIENT_PATIENCE = 60.0


Run = Callable[[list[str], str], tuple[int, str, str]]


def again_where_lost(run: Run) -> Run:
    """`run(argv, stdin)` of a client's exec, repeated where the program never ran."""

    def repeated(argv: list[str], stdin: str) -> tuple[int, str, str]:
        return again(lambda: run(argv, stdin), lambda answer: lost(*answer))

    return repeated


@dataclass(frozen=True)
class Inside:
    """The container by its id or name. `nice`: 0 to 19, which gives way to the container's own service."""

    container: str
    socket: str = SOCKET
    docker: str = "docker"
    nice: int = 0

    def run(
        self,
        argv: Sequence[str],
        seconds: float = 300.0,
        *,
        stdin: Path | None = None,
        stdout: Path | None = None,
    ) -> Result:
        """The program's own exit code and output, which goes to the file `stdout` if there is one.

        The limit holds inside, too: the client's end would not end the program. Then `code` is one of TIMED_OUT.
        """
        return again(
            lambda: self._once(argv, seconds, stdin, stdout),
            lambda result: lost(result.code, result.stdout, result.stderr),
        )

    def _once(self, argv: Sequence[str], seconds: float, stdin: Path | None, stdout: Path | None) -> Result:
        command = [self.docker, "--host", f"unix://{self.socket}", "exec", *(["-i"] if stdin else [])]
        command += [self.container, "nice", "-n", str(self.nice)]
        command += ["timeout", f"--kill-after={_KILL_SECONDS}", f"{seconds:.0f}", *argv]
        late = f"not done within its time limit of {seconds:.0f} s"
        with ExitStack() as files:
            try:
                done = subprocess.run(
                    command,
                    stdin=files.enter_context(stdin.open("rb")) if stdin else subprocess.DEVNULL,
                    stdout=files.enter_context(stdout.open("wb")) if stdout else subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    timeout=seconds + _CLIENT_PATIENCE,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return Result(TIMED_OUT[0], "", late)
        output, errors = ((stream or b"").decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        return Result(done.returncode, output, late if done.returncode in TIMED_OUT else errors)
