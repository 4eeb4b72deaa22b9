"""Opens a bundle of keys on the controller, so that its private key never reaches a host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

sys.path.append(str(Path(__file__).resolve().parents[1]))


class ActionModule(ActionBase):
    """Takes the arguments of the module platform_bundle and adds the content. What it has opened is in no result."""

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        try:
            # Only this task needs pyrage.
            from bundle_key import KeyFileError, open_bundle  # type: ignore[import-not-found]
        except ImportError as error:
            return {**result, "failed": True, "msg": f"{error}: run bin/bootstrap on the controller"}
        arguments = dict(self._task.args)
        try:
            passphrase = self._passphrase(arguments)
            files = (Path(arguments[name]).expanduser() for name in ("bundle", "identity_file"))
            content = open_bundle(*files, passphrase)
        except KeyError as error:
            return {**result, "failed": True, "msg": f"missing required arguments: {error.args[0]}"}
        except (KeyFileError, OSError) as error:
            return {
                **result,
                "failed": True,
                "msg": f"backup_bundle_file, backup_bundle_identity_file: {error}",
            }
        sent = {key: value for key, value in arguments.items() if not key.startswith("passphrase")}
        sent["content"] = content.decode(errors="replace")
        return {**result, **self._execute_module("platform_bundle", sent, task_vars=task_vars)}

    @staticmethod
    def _passphrase(arguments: dict[str, Any]) -> str:
        if file := arguments.get("passphrase_file"):
            return (Path(file).expanduser().read_text(encoding="utf-8").splitlines() or [""])[0]
        return str(arguments.get("passphrase") or "")
