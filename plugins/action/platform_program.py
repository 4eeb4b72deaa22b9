"""Installs a command of the platform: one executable archive of the shared code that it imports, and nothing else.

Arguments: `entry`, a module of module_utils/n8n_platform with a function main() -> exit code; `dest`, the file on the
target. The same code gives the same bytes, so an unchanged command is not written again.
"""

from __future__ import annotations

import ast
import io
import zipfile
from base64 import b64encode
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

_PACKAGE = "ansible.module_utils.n8n_platform"
_ROOT = Path(__file__).resolve().parents[2] / "module_utils" / "n8n_platform"
_FOLDERS = ("ansible", "ansible/module_utils", "ansible/module_utils/n8n_platform")
_SHEBANG = b"#!/usr/bin/python3 -I\n"
# Of every file in the archive, whenever it is made.
_DATE = (1980, 1, 1, 0, 0, 0)


class ActionModule(ActionBase):
    """Has the module platform_files write the archive."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        entry, dest = self._task.args["entry"], self._task.args["dest"]
        try:
            content = archive(entry)
        except (OSError, SyntaxError) as error:
            return {**result, "failed": True, "msg": f"entry: {entry}: {error}"}
        file = {"path": dest, "content": b64encode(content).decode(), "encoding": "base64", "mode": "0755"}
        done = self._execute_module("platform_files", {"files": [file]}, task_vars=task_vars)
        # An archive is nothing to be read.
        return {**result, **{key: value for key, value in done.items() if key != "diff"}}


def archive(entry: str, root: Path = _ROOT) -> bytes:
    """The executable archive of `entry` and of all that it imports from the package. Raises OSError, SyntaxError."""
    files = {f"{folder}/__init__.py": b"" for folder in _FOLDERS}
    files |= {f"{_FOLDERS[-1]}/{name}.py": text for name, text in sources(entry, root).items()}
    files["__main__.py"] = f"import sys\n\nfrom {_PACKAGE}.{entry} import main\n\nsys.exit(main())\n".encode()
    stream = io.BytesIO()
    stream.write(_SHEBANG)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as package:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            package.writestr(info, content)
    return stream.getvalue()


def sources(entry: str, root: Path = _ROOT) -> dict[str, bytes]:
    """The module and, over all its imports, those of the package that it needs."""
    found: dict[str, bytes] = {}
    wanted = [entry]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = (root / f"{name}.py").read_bytes()
            wanted += _imports(found[name])
    return found


def _imports(source: bytes) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == _PACKAGE:
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{_PACKAGE}."):
            names.append(str(node.module).removeprefix(f"{_PACKAGE}."))
    return names
