"""The commands of the documentation, for the tests that run them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def doc_block(name: str) -> str:
    """The commands of the fenced block ```` ```sh id=<name> ````. Raises LookupError when no page has it."""
    pattern = re.compile(rf"^```[a-z]+ id={re.escape(name)}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        if match := pattern.search(page.read_text()):
            return match.group(1)
    raise LookupError(f"no page has a block with id={name}")
