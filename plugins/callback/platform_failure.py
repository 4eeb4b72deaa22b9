"""Keeps the reason of a failed run for whatever is called after it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: platform_failure
type: aggregate
short_description: Keep the reason of a failed run
description:
  - Writes the name of the last task that failed, and its message, to the file that the environment variable
    E(PLATFORM_FAILURE_FILE) names; without one it does nothing. What C(no_log) hides stays hidden.
requirements:
  - enable in configuration
"""

_LONGEST = 1000


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "platform_failure"
    CALLBACK_NEEDS_ENABLED = True

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            self._keep(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._keep(result)

    @staticmethod
    def _keep(result: Any) -> None:
        if file := os.environ.get("PLATFORM_FAILURE_FILE"):
            # A loop's own message says only that one of its items failed.
            items = [item for item in result.result.get("results", []) if item.get("failed")]
            told = "; ".join(str(one.get("msg", "see its output")) for one in items or [result.result])
            Path(file).write_text(f"{result.task.get_name().strip()}: {told}"[:_LONGEST], encoding="utf-8")
