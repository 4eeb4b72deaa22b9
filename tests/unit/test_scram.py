"""The reference verifier was made by Postgres 15 itself (CREATE ROLE ... PASSWORD 'secretpw')."""

import base64

import pytest
from ansible.module_utils.n8n_platform import scram

REFERENCE = (
    "SCRAM-SHA-256$4096:7ku/JeHTrqLJmDPFKIvk6g==$"
    "xvJCea0bIwpjXvOO5gjZopDl7QWVUDR1YzciWj8n9rs=:LahSUq07Z8LElGOvjD9yuy4ZVmZKYYdTWYSSafIpDko="
)


def test_a_verifier_made_by_postgres_matches_its_password_only():
    assert scram.matches(REFERENCE, "secretpw")
    assert not scram.matches(REFERENCE, "secretpW")


def test_the_same_salt_gives_the_verifier_that_postgres_made():
    salt = base64.b64decode(REFERENCE.split("$")[1].split(":")[1])
    assert scram.verifier("secretpw", salt) == REFERENCE


def test_every_verifier_has_a_salt_of_its_own():
    assert scram.verifier("x") != scram.verifier("x")


@pytest.mark.parametrize(
    "stored", [None, "", "md5" + "0" * 32, "SCRAM-SHA-256$4096:!!$a:b", "SCRAM-SHA-256$x:AAAA$a:b", "a$b"]
)
def test_anything_else_matches_nothing(stored):
    assert not scram.matches(stored, "secretpw")


@pytest.mark.parametrize("password", ["", "pässword", "two\nlines"])
def test_a_password_that_would_need_preparation_is_refused(password):
    with pytest.raises(ValueError, match="printable ASCII"):
        scram.verifier(password)
