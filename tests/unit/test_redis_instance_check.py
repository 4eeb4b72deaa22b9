"""Answers as Redis 8.0 gives them through redis-cli --json."""

import json

import pytest
from redis_instance_check import Client, RedisError, acl_differences, differences, spells_out, users

HASH = "#" + "a0" * 32
ACL = [
    f"user admin on sanitize-payload {HASH} ~* &* +@all",
    "user default off sanitize-payload ~* &* +@all",
    f"user n8n on sanitize-payload {HASH} ~bull:* resetchannels &bull:* +@all -@dangerous +info",
]
WANTED = {"admin": "~* &* +@all", "n8n": "~bull:* &bull:* +@all -@dangerous +info"}


class FakeContainer:
    """Answers each line of standard input from a table; `ACL DRYRUN` is permitted for what the table says is OK."""

    def __init__(self, **answers):
        self.answers = {"ACL LIST": ACL, "CONFIG GET maxmemory": {"maxmemory": "1048576"}, **answers}
        self.calls = []
        self.open = False

    def run(self, argv, stdin):
        self.calls.append((argv, stdin))
        if argv[-1] == "redis-cli":
            return 0, "PONG\n" if self.open else "NOAUTH Authentication required.\n\n", ""
        if "INFO server" in stdin:
            return 0, "PONG\nredis_version:8.0.2\r\n", ""
        refusal = "User n8n has no permissions to run the 'flushall' command"
        replies = [self.answers.get(line, refusal) for line in stdin.splitlines()]
        return 0, "".join(f"{json.dumps(reply)}\n" for reply in replies), ""

    def differences(self, **params):
        client = Client(self.run, "abc", "admin", "/run/secrets/p")
        return differences(client, {"config": {}, "users": WANTED, "refused": {}, **params})


def test_what_is_as_wanted_gives_no_difference():
    found = FakeContainer().differences(config={"maxmemory": 1048576}, refused={"n8n": ["FLUSHALL"]})
    assert found == []


def test_a_setting_that_differs_is_named_with_both_values():
    assert FakeContainer().differences(config={"maxmemory": "2"}) == ["maxmemory is 1048576, wanted 2"]


def test_a_setting_that_the_server_does_not_know_is_a_difference():
    container = FakeContainer(**{"CONFIG GET nonsense": {}})
    assert container.differences(config={"nonsense": "1"}) == ["nonsense is None, wanted 1"]


def test_a_command_that_should_be_refused_but_is_permitted_is_named():
    container = FakeContainer(**{"ACL DRYRUN n8n FLUSHALL": "OK"})
    assert container.differences(refused={"n8n": ["GET x", "FLUSHALL"]}) == ["user n8n FLUSHALL is permitted"]


def test_an_instance_that_answers_anybody_is_named():
    container = FakeContainer()
    container.open = True
    assert container.differences() == ["answers without a login"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"n8n": ["on", "~*", "&bull:*", "+@all", "-@dangerous", "+info"]}, ["user n8n lacks ~bull:*"]),
        ({"guest": ["on", "+@all"]}, ["user guest is not wanted"]),
        ({"default": ["on", "nopass", "~*", "&*", "+@all"]}, ["user default lacks off"]),
        # Redis 8.0 replays transactions as this user: without rights they are gone after a restart.
        ({"default": ["off", "resetchannels", "-@all"]}, ["user default lacks ~* &* +@all"]),
    ],
)
def test_an_access_list_that_drifted_is_described(changed, expected):
    assert acl_differences({**users(ACL), **changed}, WANTED) == expected


def test_a_missing_user_is_a_difference():
    actual = users(ACL)
    del actual["n8n"]
    assert acl_differences(actual, WANTED) == ["user n8n is missing"]


def test_hashes_of_passwords_are_dropped():
    assert HASH not in str(users(ACL))


def test_neither_commands_nor_passwords_are_arguments():
    container = FakeContainer()
    container.differences()
    argv, stdin = container.calls[0]
    assert "ACL LIST" in stdin
    assert "ACL LIST" not in " ".join(argv)
    assert "/run/secrets/p" in argv


def test_a_refusal_of_the_server_is_an_error_though_redis_cli_ends_with_0():
    answer = (0, 'error:"NOAUTH Authentication required."\n', "AUTH failed: WRONGPASS\n")
    client = Client(lambda _argv, _stdin: answer, "abc", "admin", "/p")
    with pytest.raises(RedisError, match="PING: .*NOAUTH"):
        client.replies(["PING"])


def test_no_connection_is_an_error():
    answer = (1, "", "Could not connect to Redis\n")
    client = Client(lambda _argv, _stdin: answer, "abc", "admin", "/p")
    with pytest.raises(RedisError, match="Could not connect"):
        client.replies(["PING"])


def test_too_few_replies_are_an_error():
    client = Client(lambda _argv, _stdin: (0, '"OK"\n', ""), "abc", "admin", "/p")
    with pytest.raises(RedisError, match="2 commands, 1 replies"):
        client.replies(["PING", "PING"])


@pytest.mark.parametrize("answer", ["LOADING Redis is loading the dataset in memory\n", ""])
def test_a_server_that_still_loads_its_data_has_not_answered(answer: str) -> None:
    client = Client(lambda _argv, _stdin: (0, answer, ""), "abc", "admin", "/p")
    with pytest.raises(RedisError, match="PING"):
        _ = client.version


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ("PONG\n# Server\r\nredis_version:8.0.2\r\n", "8.0.2"),
        ("PONG\nredis_version:7.2.4\nvalkey_version:8.1.4\n", "8.1.4"),
    ],
)
def test_the_version_is_that_of_the_flavour(answer, version):
    client = Client(lambda _argv, _stdin: (0, answer, ""), "abc", "admin", "/p")
    assert client.version == version


def test_a_server_that_spells_rules_out_is_compared_by_keys_and_channels() -> None:
    """As Redis 7.0 lists them."""
    listed = ["user default off sanitize-payload ~* &* +@all"]
    listed += [
        "user n8n on sanitize-payload #0123 ~bull:* resetchannels &bull:* +@all -@admin -keys -flushall"
    ]
    actual, wanted = (
        users(listed),
        {"n8n": "~bull:* &bull:* +@all -@admin -@dangerous +info"},
    )
    assert spells_out("7.0.15")
    assert not spells_out("7.2.4") and not spells_out("8.1.1")
    assert acl_differences(actual, wanted, spelled_out=True) == []
    assert acl_differences(actual, wanted) == ["user n8n lacks -@dangerous +info"]
    wider = {"n8n": "~bull:* ~n8n:* +@all"}
    assert acl_differences(actual, wider, spelled_out=True) == ["user n8n lacks ~n8n:*"]
