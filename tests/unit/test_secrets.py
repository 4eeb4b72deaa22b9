"""Making values and writing files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import secrets
from ansible.module_utils.n8n_platform.files import write_file
from ansible.module_utils.n8n_platform.secrets import SecretError


def specs(*entries: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in entries}


@pytest.mark.parametrize(
    ("spec", "pattern"),
    [
        ({"kind": "password"}, r"[A-Za-z0-9]{32}"),
        ({"kind": "password", "length": 64}, r"[A-Za-z0-9]{64}"),
        ({"kind": "hex"}, r"[0-9a-f]{64}"),
        ({"kind": "hex", "bytes": 8}, r"[0-9a-f]{16}"),
        ({"kind": "create_only"}, r"[A-Za-z0-9]{32}"),
        ({"kind": "create_only", "bytes": 24}, r"[0-9a-f]{48}"),
    ],
)
def test_values_have_their_kinds_form_and_never_repeat(spec: dict[str, Any], pattern: str) -> None:
    made = {secrets.generate(spec) for _ in range(20)}
    assert len(made) == 20
    assert all(re.fullmatch(pattern, value) for value in made)


def test_a_fingerprint_tells_keys_apart_and_nothing_else() -> None:
    assert secrets.fingerprint("key") == secrets.fingerprint("key") != secrets.fingerprint("key2")
    assert re.fullmatch(r"[0-9a-f]{32}", secrets.fingerprint("key"))
    assert "key" not in secrets.fingerprint("key")


def test_bcrypt_is_kept_while_it_fits() -> None:
    made = secrets.bcrypt("geheim")
    assert re.fullmatch(r"\$2b\$04\$[./A-Za-z0-9]{53}", made)
    assert secrets.bcrypt("geheim", made) == made
    assert secrets.bcrypt("anders", made) != made
    assert secrets.bcrypt("geheim", "no hash") not in (made, "no hash")


def test_bcrypt_agrees_with_a_known_hash() -> None:
    known = "$2b$04$EGdrhbKUv8Oc9vGiXX0HQOxSg445d458Muh7DAHskb6QbtCvdxcie"
    assert secrets._crypt("correctbatteryhorsestapler", known) == known


def test_templates_fill_names_hashes_and_parts_only() -> None:
    text = 'user #{sha256:pw} {"json": 1} {Other} {tls.crt}'
    assert secrets.placeholders(text) == ["pw", "tls"]
    digest = "30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4"
    assert (
        secrets.render(text, {"pw": "pw", "tls.crt": "PEM"}) == f'user #{digest} {{"json": 1}} {{Other}} PEM'
    )


def test_derived_secrets_come_after_their_sources() -> None:
    found = secrets.in_order(
        specs(
            {"name": "a", "kind": "derived", "template": "{b}"},
            {"name": "b", "kind": "derived", "hash": "bcrypt", "of": "c"},
            {"name": "c", "kind": "password"},
        )
    )
    assert found == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("template", "words"),
    [("{nobody}", "names nobody, which nobody contributes"), ("{a}", "derived from itself")],
)
def test_impossible_derivations_are_refused(template: str, words: str) -> None:
    with pytest.raises(SecretError, match=f"secret a: .*{words}"):
        secrets.in_order(specs({"name": "a", "kind": "derived", "template": template}))


def test_one_file_for_each_consumer_and_for_the_host(tmp_path: Path) -> None:
    entries = specs({"name": "pw", "kind": "password", "host": True}, {"name": "tls", "kind": "certificate"})
    services = {"web": {"user": "1000:1001", "secrets": ["pw", "tls.ca"]}, "db": {"user": "5"}}
    found = secrets.wanted_files(tmp_path, entries, services)
    assert [(str(file.path.relative_to(tmp_path)), file.uid, file.gid, file.name) for file in found] == [
        ("web/pw", 1000, 1001, "pw"),
        ("web/tls.ca", 1000, 1001, "tls"),
        ("host/pw", 0, 0, "pw"),
    ]


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ({"user": "1:1", "secrets": ["tls"]}, "service web: lists secret tls, which nobody contributes"),
        ({"user": "www", "secrets": ["pw"]}, "service web: reads secret pw, so its `user` must be numeric"),
        ({"secrets": ["pw"]}, "service web: reads secret pw, so its `user` must be numeric"),
    ],
)
def test_consumers_are_checked(tmp_path: Path, service: dict[str, Any], words: str) -> None:
    entries = specs({"name": "pw", "kind": "password"}, {"name": "tls", "kind": "certificate"})
    with pytest.raises(SecretError, match=words):
        secrets.wanted_files(tmp_path, entries, {"web": service})


def test_files_are_exact_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "pw"
    file = secrets.SecretFile(path, os.getuid(), os.getgid(), "pw")
    write_file(path, "one")
    first = path.stat().st_ino
    assert path.read_bytes() == b"one" and secrets.is_in_place(file, "one")
    write_file(path, "two")
    assert path.stat().st_ino != first and [entry.name for entry in tmp_path.iterdir()] == ["pw"]


@pytest.mark.parametrize("harm", ["content", "newline", "mode", "link", "gone", "owner"])
def test_any_difference_is_seen(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "pw"
    write_file(path, "value")
    path.chmod(0o600)
    if harm == "content":
        path.write_text("valuf")
    if harm == "newline":
        path.write_text("value\n")
    path.chmod(0o440 if harm == "mode" else 0o400)
    if harm in ("link", "gone"):
        path.rename(tmp_path / "elsewhere")
    if harm == "link":
        path.symlink_to(tmp_path / "elsewhere")
    uid = os.getuid() + (harm == "owner")
    assert not secrets.is_in_place(secrets.SecretFile(path, uid, os.getgid(), "pw"), "value")


def test_issuers_split_at_the_domain() -> None:
    edge = ["example.org"]
    assert secrets.issuer_of(["n8n.example.org", "example.org"], edge) == "edge"
    assert secrets.issuer_of(["n8n.badexample.org"], edge) == "internal"
    assert secrets.issuer_of(["db", "n8n.example.org"], edge) == "internal"
    assert secrets.issuer_names([["*.example.org"], ["db", "*.db"]], edge) == {
        "edge": ["example.org"],
        "internal": ["db"],
    }


def test_data_is_a_file_or_a_directory_with_something_in_it(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    assert not secrets.holds_data(str(tmp_path / "none"))
    assert not secrets.holds_data(str(tmp_path))
    mark.write_text("")
    assert not secrets.holds_data(str(tmp_path), besides=str(mark))
    assert secrets.holds_data(str(tmp_path)) and secrets.holds_data(str(mark))
