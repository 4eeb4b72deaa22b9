"""Reads where a Debian or Ubuntu host takes its packages from, so that the project holds no address.

An entry is `{uris: [str], suites: [str], components: [str], signed_by: str}`; `signed_by` is a path,
a whole key or empty.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINE = re.compile(
    r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>[^#]*)"
)


def parse_one_line(text: str) -> list[dict[str, Any]]:
    """The `deb [options] uri suite component...` lines of a sources.list, in the shape of `parse_deb822`."""
    entries = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            signed_by = re.search(r"signed-by=(\S+)", match["options"] or "")
            entries.append(
                {
                    "uris": [match["uri"]],
                    "suites": [match["suite"]],
                    "components": match["components"].split(),
                    "signed_by": signed_by[1] if signed_by else "",
                }
            )
    return entries


def parse_deb822(text: str) -> list[dict[str, Any]]:
    """The enabled `deb` stanzas of a .sources file: uris, suites, components, signed_by."""
    entries = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and name:
                fields[name] += f"\n{line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() != "no":
            entries.append(
                {
                    "uris": fields.get("uris", "").split(),
                    "suites": fields.get("suites", "").split(),
                    "components": fields.get("components", "").split(),
                    "signed_by": fields.get("signed-by", ""),
                }
            )
    return entries


def configured_entries(directory: Path) -> list[dict[str, Any]]:
    """Every package source that the host uses, in the order in which apt reads them."""
    entries: list[dict[str, Any]] = []
    for path in [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            text = path.read_text(encoding="utf-8", errors="replace")
            entries += parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text)
    return entries


def first_address(uri: str) -> str:
    """The first address in the list that a `mirror+file:` URI names, empty without one; any other URI as it is.

    The list is a file of the host, which is not there where packages are installed for something else than the host.
    """
    method, _, path = uri.partition(":")
    if method != "mirror+file":
        return uri
    file = Path("/", path.lstrip("/"))
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    # Behind an address there may be options, such as its priority.
    found = re.search(r"^\s*(https?://\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def own_entries(entries: list[dict[str, Any]], distribution: dict[str, str]) -> list[dict[str, Any]]:
    """Of `entries` those of the distribution itself, each with only its own suites.

    Others use the codename as their suite too, so the signing key decides where one is named.
    """
    codename = distribution["codename"]
    suites = {codename, f"{codename}-updates", f"{codename}-security"}
    found = []
    for entry in entries:
        signed_by = entry["signed_by"]
        trusted = not signed_by.startswith("/") or f"{distribution['id']}-archive-keyring" in signed_by
        uris = [uri for uri in entry["uris"] if not uri.startswith("cdrom:")]
        own = [suite for suite in entry["suites"] if suite in suites]
        if trusted and uris and own and "main" in entry["components"]:
            found.append({**entry, "uris": uris, "suites": own})
    return found
