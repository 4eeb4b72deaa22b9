"""A certificate of the operator's own is refused before it is deployed, by the name of its variable."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.certificates import Authority
from traefik_certificate import certificate_problems

HOSTS = ["console.example.org", "n8n.example.org"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    return {"certificate_file": str(tmp_path / "own.crt"), "key_file": str(tmp_path / "own.key")}


def issue(authority: Authority, pair: dict[str, str], names: list[str], **days: int) -> None:
    authority.issue(Path(pair["certificate_file"]), Path(pair["key_file"]), names, **days)


@pytest.mark.parametrize("names", [HOSTS, ["*.example.org"], ["N8N.example.org", "*.Example.org"]])
def test_a_good_pair_or_none_is_taken(authority: Authority, pair: dict[str, str], names: list[str]) -> None:
    issue(authority, pair, names)
    assert certificate_problems(pair, HOSTS) == []
    assert certificate_problems({"certificate_file": "", "key_file": ""}, HOSTS) == []


def test_the_first_certificate_of_a_chain_counts(authority: Authority, pair: dict[str, str]) -> None:
    issue(authority, pair, HOSTS)
    with open(pair["certificate_file"], "ab") as chain:
        chain.write(authority.ca_file.read_bytes())
    assert certificate_problems(pair, HOSTS) == []


@pytest.mark.parametrize(
    ("days", "words"),
    [({"last_day": 0}, "has ended on"), ({"first_day": 1}, "is not valid before")],
)
def test_one_that_does_not_hold_today_is_refused(
    authority: Authority, pair: dict[str, str], days: dict[str, int], words: str
) -> None:
    issue(authority, pair, HOSTS, **days)
    (problem,) = certificate_problems(pair, HOSTS)
    assert problem.startswith("certificate_file: ") and words in problem


@pytest.mark.parametrize(
    "names", [["n8n.example.org"], ["example.org", "*.n8n.example.org", "n8n.example.org"]]
)
def test_one_without_a_routed_name_is_refused(
    authority: Authority, pair: dict[str, str], names: list[str]
) -> None:
    issue(authority, pair, names)
    (problem,) = certificate_problems(pair, HOSTS)
    assert problem.startswith("certificate_file: ") and problem.endswith("not for console.example.org")


def test_a_pair_that_is_none_is_refused_by_both_names(
    authority: Authority, pair: dict[str, str], tmp_path: Path
) -> None:
    assert certificate_problems(pair | {"key_file": ""}, HOSTS) == [
        "certificate_file and key_file belong together: one is empty"
    ]
    assert "certificate_file and key_file: not a readable" in certificate_problems(pair, HOSTS)[0]
    issue(authority, pair, HOSTS)
    authority.issue(tmp_path / "other.crt", tmp_path / "other.key", HOSTS)
    mixed = pair | {"key_file": str(tmp_path / "other.key")}
    (problem,) = certificate_problems(mixed, HOSTS)
    assert "certificate_file and key_file: not a readable certificate with its key" in problem
    Path(pair["certificate_file"]).write_text("no certificate")
    assert "not a readable certificate" in certificate_problems(pair, HOSTS)[0]
