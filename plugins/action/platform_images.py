"""Runs the module platform_images: fills in what only the controller knows, and shows the progress of a build."""

from __future__ import annotations

import secrets
import time
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import Any

import ansible.module_utils
from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Ansible finds the project's module_utils for modules, not for its own process.
ansible.module_utils.__path__ += constants.DEFAULT_MODULE_UTILS_PATH
from ansible.module_utils.n8n_platform.images import ImagesError, ProgressView, context_digest  # noqa: E402 (see above)

POLL_SECONDS = 5
TIME_LIMIT_SECONDS = 3600


class ActionModule(ActionBase):
    """The first run only plans. If there is something to do, contexts go to the target and the module runs there."""

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        contexts = Path(arguments["contexts"])
        work = f"{arguments['cache_root']}/images"
        try:
            for key in ("images", "upstream"):
                arguments[key] = [_with_digest(image, contexts) for image in arguments.get(key, [])]
        except ImagesError as error:
            return {**result, "failed": True, "msg": str(error)}
        # Named by their content: another run on the same target may be using contexts of another checkout.
        arguments["contexts"] = f"{work}/contexts/{_combined(arguments)}"
        arguments["progress_file"] = f"{work}/progress-{secrets.token_hex(4)}"

        plan = self._plan(arguments, task_vars)
        if plan.get("missing") and not arguments.get("choice"):
            choice = plan["choice"]
            Display().display(
                f"  images from {choice['source']} ({choice['reason']}): {', '.join(plan['missing'])}"
            )
        if plan.get("failed") or not plan.get("changed") or self._task.check_mode:
            return {**result, **plan}
        arguments["choice"] = plan["choice"]
        if _needs_contexts(arguments, plan):
            copied = self._copy(contexts, arguments["contexts"], task_vars)
            if copied.get("failed"):
                return {**result, **copied}
        return {**result, **self._carry_out(arguments, task_vars)}

    def _plan(self, arguments: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        asked, self._task.check_mode = self._task.check_mode, True
        try:
            return dict(self._execute_module("platform_images", arguments, task_vars=task_vars))
        finally:
            self._task.check_mode = asked

    def _copy(self, source: Path, target: str, task_vars: Any) -> dict[str, Any]:
        task = self._task.copy()
        task.args = {"src": f"{source}/", "dest": f"{target}/", "mode": "preserve", "directory_mode": "0755"}
        copy = self._shared_loader_obj.action_loader.get(
            "ansible.legacy.copy",
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        return dict(copy.run(task_vars=task_vars))

    def _carry_out(self, arguments: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        """Start the module in the background on the target, show its progress file while it runs."""
        limit, self._task.async_val = self._task.async_val, TIME_LIMIT_SECONDS
        try:
            job = self._execute_module("platform_images", arguments, task_vars=task_vars, wrap_async=True)
        finally:
            self._task.async_val = limit
        if "ansible_job_id" not in job:
            return dict(job)
        status = {"jid": job["ansible_job_id"], "_async_dir": str(Path(job["results_file"]).parent)}
        view, file, started, read = ProgressView(), quote(arguments["progress_file"]), time.monotonic(), 0
        answer: dict[str, Any] = {}
        while not answer.get("finished"):
            time.sleep(POLL_SECONDS)
            answer = self._execute_module("ansible.legacy.async_status", status, task_vars=task_vars)
            new = self._low_level_execute_command(f"tail -n +{read + 1} {file} 2>/dev/null")[
                "stdout"
            ].splitlines()
            read += len(new)
            now = time.monotonic() - started
            for line in view.lines(new, now):
                Display().display(f"  {now:4.0f}s  {line}")
        self._low_level_execute_command(f"rm -f {file}")
        status["mode"] = "cleanup"
        self._execute_module("ansible.legacy.async_status", status, task_vars=task_vars)
        return dict(answer)


def _with_digest(image: dict[str, Any], contexts: Path) -> dict[str, Any]:
    if image.get("pull"):
        return image
    return {**image, "digest": context_digest(contexts / image.get("context", image["name"]))}


def _needs_contexts(arguments: dict[str, Any], plan: dict[str, Any]) -> bool:
    """Whether anything of what is missing is built."""
    source = plan["choice"]["source"]
    images = arguments["upstream"] if source == "upstream" else arguments["images"]
    built = {image["name"] for image in images if not image.get("pull")}
    return source != "bundle" and bool(built.intersection(plan.get("missing", [])))


def _combined(arguments: dict[str, Any]) -> str:
    digests = [image.get("digest", "") for key in ("images", "upstream") for image in arguments[key]]
    return sha256("".join(digests).encode()).hexdigest()[:12]
