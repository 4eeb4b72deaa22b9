"""What is refused before anything is changed, what reaches Postgres, and how the checks are judged."""

import json
import zipfile

import pytest
from ansible.module_utils.n8n_platform import adopt, adopt_database
from ansible.module_utils.n8n_platform.adopt import AdoptError
from ansible.module_utils.n8n_platform.adopt_database import AdoptedDatabase

SHA = "a" * 64
EMAIL = "somebody@example.org"


def number(value):
    return bytes([0]) + value.to_bytes(4, "little")


def archive(server="16.4 (Debian)", tool="16.4", version=(1, 15), form=1):
    """A header as pg_dump -Fc writes it."""
    compression = bytes([1]) if version >= (1, 15) else number(6)
    texts = b"".join(number(len(text)) + text.encode() for text in ("n8n", server, tool))
    return b"PGDMP" + bytes([*version, 0, 4, 8, form]) + compression + number(1) * 7 + texts + b"rest"


PLAIN = b"""--
-- PostgreSQL database dump
--

\\restrict abc
-- Dumped from database version 16.4
-- Dumped by pg_dump version 17.2

SET statement_timeout = 0;
CREATE TABLE public.tag_entity (id text);
ALTER TABLE public.tag_entity OWNER TO somebody;
COMMENT ON EXTENSION "uuid-ossp" IS 'x';
COPY public.tag_entity (id) FROM stdin;
GRANT this is data;
\\\\N
\\.
GRANT ALL ON TABLE public.tag_entity TO reader;
--
-- PostgreSQL database dump complete
--
\\unrestrict abc
"""


@pytest.fixture
def dump(tmp_path):
    def write(content):
        path = tmp_path / "dump"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("version", [(1, 14), (1, 15), (1, 16)])
def test_a_custom_archive_names_its_server(dump, version):
    source = adopt.inspect_dump(dump(archive(version=version)), 17)
    assert (source.format, source.server_major) == ("custom", 16)


def test_the_newer_of_server_and_tool_counts(dump):
    with pytest.raises(AdoptError, match="comes from Postgres 18, newer than ours, 17"):
        adopt.inspect_dump(dump(archive(tool="18.0")), 17)
    with pytest.raises(AdoptError, match="Postgres 17, newer than ours, 16"):
        adopt.inspect_dump(dump(PLAIN), 16)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"SQLite format 3\0", "no dump of pg_dump"),
        (b"\x1f\x8b gzip", "no dump of pg_dump"),
        (b"", "no dump of pg_dump"),
        (b"--\n-- PostgreSQL database cluster dump\n--\n", "whole cluster"),
        (b"PGDMP\x01", "damaged"),
        (archive(form=3), "not in custom format"),
    ],
)
def test_what_is_no_dump_is_refused(dump, content, words):
    with pytest.raises(AdoptError, match=words):
        adopt.inspect_dump(dump(content), 17)


def test_a_missing_dump_is_refused(tmp_path):
    with pytest.raises(AdoptError, match="No such file"):
        adopt.inspect_dump(tmp_path / "nothing", 17)


def test_a_plain_dump_loses_its_roles_and_keeps_its_data():
    text = b"".join(adopt.plain_statements(PLAIN.splitlines(keepends=True)))
    assert b"OWNER TO" not in text
    assert b"TO reader" not in text
    assert b"restrict" not in text
    assert b"COMMENT ON" not in text
    assert b"GRANT this is data;\n\\\\N\n\\.\n" in text


@pytest.mark.parametrize("command", [b"\\! id\n", b"\\connect n8n\n", b"\\copy x from y\n"])
def test_a_command_of_psql_is_refused(command):
    lines = [*PLAIN.splitlines(keepends=True)[:9], command]
    with pytest.raises(AdoptError, match="the psql command"):
        list(adopt.plain_statements(lines))


def test_a_truncated_plain_dump_is_refused():
    lines = PLAIN.splitlines(keepends=True)
    for end in (9, 15, 17):
        with pytest.raises(AdoptError, match="not complete"):
            list(adopt.plain_statements(lines[:end]))


def test_an_export_of_entities_is_a_zip_or_the_directory_it_is_in(tmp_path):
    with zipfile.ZipFile(tmp_path / "entities.zip", "w") as target:
        target.writestr("migrations.jsonl", "x")
    assert adopt.inspect_entities(tmp_path / "entities.zip") == adopt.inspect_entities(tmp_path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as target:
        target.writestr("a", "x")
    with pytest.raises(AdoptError, match=r"no migrations\.jsonl"):
        adopt.inspect_entities(tmp_path / "other.zip")


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), ("\n", "is empty")])
def test_a_key_file_is_refused_by_the_name_of_its_variable(tmp_path, content, words):
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AdoptError, match=f"^n8n_encryption_key_import_file: .*{words}"):
        adopt.require_text("n8n_encryption_key_import_file", str(path))
    with pytest.raises(AdoptError, match="is not set"):
        adopt.require_text("n8n_encryption_key_import_file", "")


class FakeServer:
    """Answers by what the statement asks; keeps what was executed."""

    def __init__(self, exists=True, tables=0, record=None):
        self.exists, self.tables, self.record = exists, tables, record
        self.executed = []

    def execute(self, database, sql):
        self.executed.append((database, sql))
        if "FROM pg_database" in sql:
            return "1\n" if self.exists else ""
        if "to_regclass('adoption.source')" in sql:
            return json.dumps({"tables": self.tables, "adopted": self.record is not None})
        if "row_to_json(s)" in sql:
            return json.dumps(self.record)
        if sql.startswith("SELECT json_build_object"):
            return json.dumps(dict.fromkeys(adopt_database.TABLES, 3))
        return ""


def database(server):
    return AdoptedDatabase(server, "n8n", "n8n_owner", ["pg_stat_statements"])


def test_a_new_environment_has_nothing_adopted():
    assert database(FakeServer(exists=False)).adopted(SHA) is None
    assert database(FakeServer()).adopted(SHA) is None


def test_a_database_with_tables_is_never_touched():
    with pytest.raises(AdoptError, match="142 tables: only a new environment"):
        database(FakeServer(tables=142)).adopted(SHA)


def test_the_same_source_is_adopted_once_and_another_never():
    record = {"sha256": SHA, "counts": {}}
    assert database(FakeServer(tables=142, record=record)).adopted(SHA) == record
    with pytest.raises(AdoptError, match="another source"):
        database(FakeServer(tables=142, record=record)).adopted("b" * 64)


def test_the_database_is_replaced_after_everything_else():
    server = FakeServer()
    database(server).accept(SHA, ("id", "proof"))
    before, last = server.executed[:-1], server.executed[-1]
    assert all(name == "n8n_adopt" for name, _ in before)
    assert last[0] == "postgres"
    assert 'DROP DATABASE IF EXISTS "n8n" WITH (FORCE)' in last[1]
    assert 'ALTER DATABASE "n8n_adopt" RENAME TO "n8n"' in last[1]


def test_staging_starts_from_nothing():
    server = FakeServer()
    database(server).stage()
    assert 'DROP DATABASE IF EXISTS "n8n_adopt" WITH (FORCE)' in server.executed[0][1]
    assert 'DATABASE "n8n" ' not in "".join(sql for _, sql in server.executed)


GOOD = {"proofs": {"1": "x"}, "failed": [], "keys_fit": True, "password_fits": True, "newer_migrations": []}


@pytest.mark.parametrize(
    ("answer", "variable"),
    [
        ({"proofs": {}, "failed": ["1"]}, "n8n_encryption_key_import_file"),
        ({"keys_fit": False}, "n8n_encryption_key_import_file"),
        ({"password_fits": False}, "n8n_owner_password_import_file"),
        ({"newer_migrations": ["Later1999999999999"]}, "n8n_adopt_dump_file"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_variable(answer, variable):
    with pytest.raises(AdoptError, match=f"^{variable}: "):
        adopt.judge({**GOOD, **answer}, EMAIL)


@pytest.mark.parametrize(
    ("user", "owners", "words"),
    [
        (None, ["other@example.org"], "no user somebody@example.org; owner is .'other@example.org'."),
        ({"password": "x"}, ["other@example.org"], "is not the owner"),
        ({"password": "x", "mfaEnabled": True}, [EMAIL], "has a second factor"),
    ],
)
def test_who_cannot_log_in_as_the_owner_is_refused(user, owners, words):
    with pytest.raises(AdoptError, match=f"^n8n_owner_email: .*{words}"):
        adopt.require_owner(user, EMAIL, owners)


def test_an_owner_is_recognised_by_address_or_not_yet_known():
    adopt.require_owner({"password": "x", "mfaEnabled": False}, EMAIL.upper(), [EMAIL])
    adopt.require_owner({"password": "x"}, EMAIL, [])


def test_one_credential_that_was_broken_before_refuses_nothing():
    adopt.judge({**GOOD, "failed": ["2"]}, EMAIL)
    adopt.judge({**GOOD, "proofs": {}}, EMAIL)


def test_only_the_first_line_of_an_error_is_shown():
    text = 'pg_restore: error: COPY failed for table "x": ERROR:  bad\nCONTEXT:  COPY x, line 1: "secret"\n'
    assert adopt_database._first_error(text) == 'COPY failed for table "x": ERROR:  bad'
