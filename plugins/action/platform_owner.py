"""Tells the module platform_owner who runs it and from where, which only the controller knows."""

import getpass
import socket
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = {"controller": socket.gethostname(), "user": getpass.getuser()} | self._task.args
        result.update(self._execute_module("platform_owner", module_args=arguments, task_vars=task_vars))
        return result
