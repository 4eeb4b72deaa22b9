"""What apt_sources reads of one-line and deb822 sources."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.n8n_platform.apt_sources import configured_entries, own_entries

ONE_LINE = """
# deb http://old.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/k/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main contrib #
deb cdrom:[Debian]/ bookworm main
"""
DEB822 = """# A comment
Types: deb deb-src
URIs: http://mirror.example/debian-security
Suites: bookworm-security bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://packages.example/debian
Suites: bookworm
Components: main
Signed-By: /etc/apt/keyrings/example.asc

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://key.example/debian
Suites: bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
"""


def test_own_entries_of_both_formats(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "debian.sources.bak").write_text(DEB822)
    entries = configured_entries(tmp_path)
    assert [entry["uris"] for entry in entries][:2] == [["http://mirror.example/debian"], ["cdrom:[Debian]/"]]
    own = own_entries(entries, {"id": "debian", "codename": "bookworm"})
    assert [(entry["uris"], entry["suites"], entry["components"]) for entry in own] == [
        (["http://mirror.example/debian"], ["bookworm"], ["main", "contrib"]),
        (["http://mirror.example/debian-security"], ["bookworm-security"], ["main"]),
        (["http://key.example/debian"], ["bookworm-updates"], ["main"]),
    ]
    assert own[2]["signed_by"].splitlines()[-1] == "abc"


def test_a_host_without_sources_has_none(tmp_path: Path) -> None:
    assert configured_entries(tmp_path) == []
