#!/usr/bin/python3
"""Keep one JavaScript task runner attached to the task broker of its worker.

The runner ends whenever its connection does, and needs a fresh grant token for each start. This program gets one,
starts the runner with it, and begins again when the runner ends: worker and runner may start and stop in any order.
The auth token stays here: the runner executes foreign code, so its environment holds only the short-lived grant.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

START_JS = "/usr/local/lib/n8n/node_modules/@n8n/task-runner/dist/start.js"
LIMIT_JS = "/usr/local/lib/n8n-runner/payload-limit.js"
BROKER_URI = os.environ.get("N8N_RUNNERS_TASK_BROKER_URI", "http://127.0.0.1:5679").rstrip("/")
# Read by signal.sigtimedwait instead of handlers: a signal can then not arrive between two steps.
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
SHORTEST_PAUSE, LONGEST_PAUSE = 0.25, 5.0


def log(message: str) -> None:
    print(f"n8n-runner: {message}", flush=True)


def grant_token() -> str:
    """Exchange the auth token for a grant token; the file is read each time, so a rotated token is taken up."""
    token = Path(os.environ["N8N_RUNNERS_AUTH_TOKEN_FILE"]).read_text(encoding="utf-8").strip()
    request = urllib.request.Request(
        f"{BROKER_URI}/runners/auth",
        data=json.dumps({"token": token}).encode(),
        headers={"Content-Type": "application/json"},
    )
    # No proxy: the broker is on the runner's own network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=5) as response:
        return json.load(response)["data"]["token"]


def start_runner(grant: str) -> subprocess.Popen:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("N8N_RUNNERS_AUTH_TOKEN")
    }
    environment.update(N8N_RUNNERS_GRANT_TOKEN=grant, N8N_RUNNERS_TASK_BROKER_URI=BROKER_URI)
    command = ["node", "--disallow-code-generation-from-strings", "--disable-proto=delete"]
    heap_cap = environment.pop("N8N_RUNNERS_MAX_OLD_SPACE_SIZE", "")
    if heap_cap:
        command.append(f"--max-old-space-size={heap_cap}")
    # Of what it sends; the runner's own reading of the variable, of what it receives, would end it.
    largest_message = environment.pop("N8N_RUNNERS_MAX_PAYLOAD", "")
    command += ["--require", LIMIT_JS, START_JS, largest_message] if largest_message else [START_JS]
    return subprocess.Popen(
        command,
        env=environment,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, []),
    )


def wait_for_end(runner: subprocess.Popen) -> bool:
    """Wait until the runner has ended, passing on signals; True when it was told to."""
    told = False
    while runner.poll() is None:
        received = signal.sigtimedwait(SIGNALS, 5)
        if received and received.si_signo != signal.SIGCHLD:
            told = True
            runner.send_signal(signal.SIGTERM)
    return told


def told_to_stop(seconds: float) -> bool:
    """Pause; True when a signal asked to stop meanwhile."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        received = signal.sigtimedwait(SIGNALS, left)
        if received and received.si_signo != signal.SIGCHLD:
            return True
    return False


def main() -> int:
    if "N8N_RUNNERS_AUTH_TOKEN_FILE" not in os.environ:
        log("N8N_RUNNERS_AUTH_TOKEN_FILE is not set")
        return 78
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pause, last_problem = SHORTEST_PAUSE, ""
    while True:
        try:
            grant = grant_token()
        except (OSError, ValueError, KeyError) as error:
            problem = f"no grant from {BROKER_URI}: {error}"
            if problem != last_problem:
                log(f"{problem}; trying again until it answers")
            last_problem = problem
        else:
            last_problem = ""
            log(f"attached to {BROKER_URI}")
            started = time.monotonic()
            runner = start_runner(grant)
            if wait_for_end(runner):
                return max(runner.returncode, 0)
            log(f"the runner ended with {runner.returncode}, starting it again")
            if time.monotonic() - started > 10:
                pause = SHORTEST_PAUSE
        if told_to_stop(pause):
            return 0
        pause = min(pause * 2, LONGEST_PAUSE)


if __name__ == "__main__":
    sys.exit(main())
