"""Plans against catalogs as Postgres reports them, and what reaches psql."""

import json

import postgres_instance
import pytest
from ansible.module_utils.n8n_platform import postgres, scram
from ansible.module_utils.n8n_platform.postgres import PostgresError, Psql

PASSWORD = "not-in-any-output"


def role(name, **wanted):
    defaults = {"login": False, "connection_limit": -1, "password_file": None}
    return {"name": name, "member_of": [], "settings": {}, **defaults, **wanted}


def existing_role(**actual):
    rights = dict.fromkeys(("superuser", "createdb", "createrole", "replication", "bypassrls"), False)
    nothing = {"login": False, "connection_limit": -1, "password": None, "settings": [], "member_of": []}
    return {**nothing, **rights, **actual}


class FakeServer:
    def __init__(self, cluster=None, contents=None):
        self._cluster = {**postgres.empty_cluster(), "version": "17.6", **(cluster or {})}
        self._contents = contents or {}
        self.executed = []

    def cluster(self):
        return self._cluster

    def contents(self, database):
        return {**postgres.empty_contents(), **self._contents.get(database, {})}

    def execute(self, database, sql):
        self.executed.append((database, sql))
        return ""


@pytest.fixture
def password_file(tmp_path):
    path = tmp_path / "password"
    path.write_text(PASSWORD)
    return str(path)


@pytest.fixture
def params(password_file):
    application = role(
        "n8n",
        login=True,
        password_file=password_file,
        connection_limit=90,
        member_of=["n8n_owner"],
        settings={"role": "n8n_owner", "statement_timeout": "5min"},
    )
    scale = "autovacuum_vacuum_scale_factor"
    tables = {"execution_data": {scale: 0.02, f"toast.{scale}": 0.02}}
    database = {"name": "n8n", "owner": "n8n_owner", "extensions": ["pg_stat_statements"], "tables": tables}
    return {"roles": [role("n8n_owner"), application], "databases": [database]}


@pytest.fixture
def converged():
    application = existing_role(
        login=True,
        connection_limit=90,
        password=scram.verifier(PASSWORD),
        settings=["role=n8n_owner", "statement_timeout=5min"],
        member_of=["n8n_owner"],
    )
    scale = "autovacuum_vacuum_scale_factor=0.02"
    return {
        "cluster": {
            "roles": {"n8n_owner": existing_role(), "n8n": application},
            "databases": {"n8n": {"owner": "n8n_owner", "public": False}},
        },
        "contents": {
            "n8n": {
                "extensions": ["plpgsql", "pg_stat_statements"],
                "tables": {"execution_data": {"options": [scale], "has_toast": True, "toast": [scale]}},
            }
        },
    }


def plan(params, server):
    return postgres_instance.Manager(params, server).plan()


def found(differences):
    return {(d.subject, d.attribute) for d in differences}


def test_an_empty_cluster_gets_roles_before_memberships_before_the_database(params):
    statements = [s for d in plan(params, FakeServer()) for s in d.statements]
    order = [
        'CREATE ROLE "n8n_owner"',
        'CREATE ROLE "n8n"',
        'GRANT "n8n_owner" TO "n8n"',
        'SET "role"',
        "CREATE DATABASE",
    ]
    places = [next(i for i, s in enumerate(statements) if text in s) for text in order]
    assert places == sorted(places)
    assert 'REVOKE ALL ON DATABASE "n8n" FROM PUBLIC;' in statements


def test_what_is_as_wanted_gives_no_difference(params, converged):
    assert plan(params, FakeServer(**converged)) == []


def test_the_plain_password_reaches_no_statement_and_no_output(params):
    server = FakeServer()
    manager = postgres_instance.Manager(params, server)
    differences = manager.plan()
    manager.apply(differences)
    assert any("SCRAM-SHA-256$" in sql for _, sql in server.executed)
    assert PASSWORD not in str(server.executed)
    shown = f"{[d.shown() for d in differences]} {postgres_instance.diff(differences)} {differences}"
    assert PASSWORD not in shown
    assert "SCRAM" not in shown


def test_another_password_is_the_only_difference(params, converged):
    converged["cluster"]["roles"]["n8n"]["password"] = scram.verifier("previous")
    assert found(plan(params, FakeServer(**converged))) == {("role n8n", "password")}


def test_a_role_without_password_file_keeps_its_password(params, converged):
    params["roles"][1]["password_file"] = None
    assert plan(params, FakeServer(**converged)) == []


def test_rights_that_nobody_asked_for_are_taken_away(params, converged):
    converged["cluster"]["roles"]["n8n"] |= {"superuser": True, "member_of": ["n8n_owner", "pg_monitor"]}
    differences = plan(params, FakeServer(**converged))
    assert [d.statements for d in differences] == [
        ['ALTER ROLE "n8n" NOSUPERUSER;'],
        ['REVOKE "pg_monitor" FROM "n8n";'],
    ]


def test_a_setting_that_nobody_asked_for_is_reset(params, converged):
    converged["cluster"]["roles"]["n8n"]["settings"].append("work_mem=1GB")
    (difference,) = plan(params, FakeServer(**converged))
    assert difference.statements == ['ALTER ROLE "n8n" RESET "work_mem";']


def test_a_database_that_is_open_to_everyone_is_closed(params, converged):
    converged["cluster"]["databases"]["n8n"] = {"owner": "postgres", "public": True}
    converged["contents"]["n8n"]["public_create"] = True
    assert found(plan(params, FakeServer(**converged))) == {
        ("database n8n", "owner"),
        ("database n8n", "open to everyone"),
        ("database n8n", "everyone may create"),
    }


def test_tables_that_do_not_exist_yet_are_left_out(params, converged):
    del converged["contents"]["n8n"]["tables"]["execution_data"]
    assert plan(params, FakeServer(**converged)) == []


def test_toast_parameters_are_left_out_where_there_is_no_toast(params, converged):
    no_toast = {"options": [], "has_toast": False, "toast": []}
    converged["contents"]["n8n"]["tables"]["execution_data"] = no_toast
    (difference,) = plan(params, FakeServer(**converged))
    assert difference.database == "n8n"
    assert difference.statements == [
        "ALTER TABLE public.\"execution_data\" SET (autovacuum_vacuum_scale_factor = '0.02');"
    ]


def test_a_storage_parameter_that_is_none_is_refused(params, converged):
    params["databases"][0]["tables"]["execution_data"] = {"a) ; DROP": "1"}
    with pytest.raises(PostgresError, match="table execution_data"):
        plan(params, FakeServer(**converged))


@pytest.mark.parametrize(
    ("cluster", "text"),
    [
        ({"checksums": False}, "data checksums are off"),
        ({"problems": ["setting work_mem: waits for a restart"]}, "work_mem"),
    ],
)
def test_what_no_statement_can_put_right_is_named(params, cluster, text):
    (problem,) = postgres_instance.Manager(params, FakeServer(cluster)).problems
    assert text in problem


def test_check_mode_before_the_first_run_needs_neither_server_nor_password_file(params):
    params["roles"][1]["password_file"] = "/nonexistent/password"
    assert ("role n8n", "password") in found(plan(params, None))


@pytest.mark.parametrize("content", [None, b"", b"p\xc3\xa4ss", b"\xff\xfe"])
def test_an_unusable_password_file_is_named_with_its_role(params, tmp_path, content):
    path = tmp_path / "unusable"
    if content is not None:
        path.write_bytes(content)
    params["roles"][1]["password_file"] = str(path)
    with pytest.raises(PostgresError, match="password_file of role n8n"):
        plan(params, FakeServer())


def test_names_and_values_are_quoted():
    assert postgres.identifier('a"b') == '"a""b"'
    assert postgres.literal("a'b") == "'a''b'"


def test_psql_gets_statements_on_its_standard_input_only():
    calls = []

    def run(argv, stdin):
        calls.append((argv, stdin))
        return 0, json.dumps({"roles": {}}), ""

    Psql(run, "abc").cluster()
    argv, stdin = calls[0]
    assert argv[:4] == ["docker", "exec", "-i", "abc"]
    assert "pg_authid" in stdin
    assert "pg_authid" not in " ".join(argv)
    assert stdin.startswith("SET log_statement = 'none'")


def test_an_error_of_psql_names_the_database_and_hides_a_verifier():
    def run(_argv, _stdin):
        return 3, "", "ERROR: bad PASSWORD 'SCRAM-SHA-256$4096:c2FsdA==$a:b' here\n"

    with pytest.raises(PostgresError) as caught:
        Psql(run, "abc").execute("n8n", "x")
    assert str(caught.value) == "psql on database n8n: ERROR: bad PASSWORD '<verifier>' here"
