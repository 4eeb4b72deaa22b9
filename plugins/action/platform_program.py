"""Installs a command of the platform: one executable archive of the shared code that it imports, and nothing else.

Arguments: `entry`, a module of module_utils/n8n_platform with a function main() -> exit code; `dest`, the file on the
target. The same code gives the same bytes, so an unchanged command is not written again.
"""

from __future__ import annotations

import ast
import io
import tempfile
import zipfile
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
    """Copies the archive; check mode and diff are those of `copy`."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        entry, dest = self._task.args["entry"], self._task.args["dest"]
        try:
            content = archive(entry)
        except (OSError, SyntaxError) as error:
            return {**result, "failed": True, "msg": f"entry: {entry}: {error}"}
        with tempfile.NamedTemporaryFile(prefix="platform-program-") as file:
            file.write(content)
            file.flush()
            return {**result, **self._copy(file.name, dest, task_vars)}

    def _copy(self, source: str, dest: str, task_vars: Any) -> dict[str, Any]:
        task = self._task.copy()
        task.args = {"src": source, "dest": dest, "owner": "root", "group": "root", "mode": "0755"}
        task.diff = False
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
