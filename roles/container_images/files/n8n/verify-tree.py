"""Compare an installed node_modules with the committed lock file: versions on disk, integrity as npm recorded it.

Arguments: the lock file, the folder that holds node_modules, the version of n8n that is meant.
"""

import json
import platform
import sys
from pathlib import Path

HERE = {
    "os": "linux",
    "libc": "glibc",
    "cpu": {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), "?"),
}


def for_another_platform(entry: dict) -> bool:
    """npm installs what names no platform, names this one, or excludes only others."""
    for key, here in HERE.items():
        names = entry.get(key, [])
        allowed = [name for name in names if not name.startswith("!")]
        if f"!{here}" in names or (allowed and here not in allowed):
            return True
    return False


def differences(lock: dict, installed: dict, root: Path) -> list[str]:
    wanted = {path: entry for path, entry in lock["packages"].items() if path}
    found = [f"{path}: not in the lock" for path in installed["packages"] if path not in wanted]
    for path, entry in wanted.items():
        have = installed["packages"].get(path)
        if have is None:
            if not for_another_platform(entry):
                found.append(f"{path}: missing")
            continue
        for key in ("version", "integrity"):
            if have.get(key) != entry.get(key) or not entry.get(key):
                found.append(f"{path}: {key} is {have.get(key)}, the lock says {entry.get(key)}")
        on_disk = json.loads((root / path / "package.json").read_text()).get("version")
        if on_disk != entry.get("version"):
            found.append(f"{path}: version {on_disk} on disk, the lock says {entry.get('version')}")
    return found


def main() -> int:
    lock_file, root, version = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    lock = json.loads(lock_file.read_text())
    installed = json.loads((root / "node_modules/.package-lock.json").read_text())
    found = differences(lock, installed, root)
    locked = lock["packages"]["node_modules/n8n"]["version"]
    if locked != version:
        found.append(f"node_modules/n8n: the lock says {locked}, {version} is meant")
    for line in found[:50]:
        print(line, file=sys.stderr)
    print(f"{len(installed['packages'])} packages installed, {len(found)} differ from the lock")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
