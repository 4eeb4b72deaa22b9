"""Loads filters and tests before the first task: each task is a fork, and would load them again for itself."""

from __future__ import annotations

from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, test_loader

DOCUMENTATION = r"""
name: platform_preload
type: aggregate
short_description: Load filters and tests once
description:
  - Ansible looks for filters and tests when a template first needs one, which is in the process of a task, and forgets
    them with it. Asking for one of each in the main process loads all, for every task that follows.
requirements: []
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "platform_preload"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, _playbook: Any) -> None:
        filter_loader.get("ansible.builtin.combine")
        test_loader.get("ansible.builtin.match")
