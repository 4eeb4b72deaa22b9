"""The strict union, the policy, the Compose model and the Swarm stack."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from ansible.module_utils.n8n_platform import compose, compose_yaml
from ansible.module_utils.n8n_platform.compose_policy import ComposeError
from support.contributions import SERVICE, contribution

SETTINGS = compose.Settings(
    project="n8n-test",
    environment="test",
    secrets_root="/data/secrets",
    bind_roots=["/data"],
    secret_versions={"db_password": 3, "db_tls.crt": 2},
)
PORT = {"target": 80, "published": 8443, "host_ip": "127.0.0.1", "mode": "host"}


def assemble(*contributions: dict[str, Any]) -> dict[str, Any]:
    return compose.assemble(list(contributions), SETTINGS)


def refused(*contributions: dict[str, Any]) -> str:
    with pytest.raises(ComposeError) as caught:
        assemble(*contributions)
    return str(caught.value)


def test_a_service_is_completed() -> None:
    service = assemble(contribution())["services"]["db"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["restart"] == "unless-stopped"
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}
    assert service["labels"] == {
        "io.n8n-platform.environment": "test",
        "io.n8n-platform.role": "db",
        "io.n8n-platform.tier": "app",
    }


def test_secrets_become_files_and_labels() -> None:
    model = assemble(contribution(secrets=["db_password", "db_tls.crt", "unknown"]))
    service = model["services"]["db"]
    assert service["secrets"][0] == {"source": "db.db_password", "target": "db_password"}
    assert model["secrets"]["db.db_password"] == {"file": "/data/secrets/db/db_password"}
    assert service["labels"]["io.n8n-platform.secret.db_password"] == "3"
    assert service["labels"]["io.n8n-platform.secret.db_tls.crt"] == "2"
    assert "io.n8n-platform.secret.unknown" not in service["labels"]


def test_a_certificate_part_has_its_certificates_version() -> None:
    settings = compose.Settings("p", "test", "/s", ["/data"], {"tls": 7})
    model = compose.assemble([contribution(secrets=["tls.key"])], settings)
    assert model["services"]["db"]["labels"]["io.n8n-platform.secret.tls.key"] == "7"


def test_values_stand_for_themselves() -> None:
    service = assemble(
        contribution(environment={"A": "a$b", "N": 1, "B": True}, command=["sh", "-c", "echo $X"])
    )
    service = service["services"]["db"]
    assert service["environment"] == {"A": "a$$b", "B": "true", "N": "1"}
    assert service["command"][2] == "echo $$X"


def test_a_missing_bind_source_is_never_created() -> None:
    volume = {"type": "bind", "source": "/data/volumes/db", "target": "/db"}
    assert assemble(contribution(volumes=[volume]))["services"]["db"]["volumes"][0]["bind"] == {
        "create_host_path": False
    }


def test_the_same_input_gives_the_same_bytes_in_any_order() -> None:
    one, two = contribution(), contribution("app", "app", environment={"B": "1", "A": "2"})
    turned = contribution("app", "app", environment={"A": "2", "B": "1"})
    assert compose_yaml.dump(assemble(one, two)) == compose_yaml.dump(assemble(turned, one))


def test_the_input_is_not_changed() -> None:
    given = contribution(secrets=["db_password"], ports=[dict(PORT)])
    before = copy.deepcopy(given)
    compose.to_stack(assemble(given))
    assert given == before


def test_equal_networks_are_one() -> None:
    model = assemble(contribution(), contribution("app", "app"))
    assert list(model["networks"]) == ["data"]


def test_a_networks_definition_is_told_by_its_label() -> None:
    def label(network: Any) -> str:
        labels: dict[str, str] = assemble(contribution(networks={"data": network}))["networks"]["data"][
            "labels"
        ]
        return labels["io.n8n-platform.definition"]

    assert label({"internal": True}) == label({"internal": True}) != label({"internal": False})


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([contribution("other")], "service db is contributed by role db and by role other"),
        (
            [contribution("other", "x", networks={"data": {"internal": False}})],
            "network data is contributed with different definitions by role db and by role other",
        ),
        (
            [
                contribution("one", "x", ports=[PORT]),
                contribution("two", "y", ports=[{**PORT, "host_ip": "0.0.0.0"}]),
            ],
            "port 8443 is published by x (role one) and by y (role two)",
        ),
        (
            [
                contribution(
                    "other", "x", networks={"other": {}, "data": {"internal": True}}, depends_on=["y"]
                )
            ],
            "depends_on: y",
        ),
        ([contribution("other", "x")], "networks: at least one is required"),
        ([{"role": "x", "service": {"volumes": {}}}], "role x: service.volumes"),
        ([{"service": {}}], "a contribution without role"),
    ],
)
def test_clashes_name_both_roles(others: list[dict[str, Any]], words: str) -> None:
    if words.startswith("networks: at least"):
        del others[0]["service"]["services"]["x"]["networks"]
    assert words in refused(contribution(), *others)


def test_the_same_port_on_other_addresses_or_protocols_is_no_clash() -> None:
    assemble(
        contribution("one", "x", ports=[PORT]),
        contribution("two", "y", ports=[{**PORT, "host_ip": "127.0.0.2"}, {**PORT, "protocol": "udp"}]),
    )


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"network_mode": "host"}, "network_mode: is not among"),
    ({"privileged": True}, "privileged: is not among"),
    ({"container_name": "x"}, "container_name: is not among"),
    ({"image": "redis:8"}, "image: 'redis:8' is not pinned"),
    ({"image": "redis:latest"}, "not pinned"),
    ({"image": "redis@sha256:12"}, "not pinned"),
    ({"image": None}, "not pinned"),
    ({"user": "root"}, "user: must be numeric"),
    ({"user": None}, "user: must be numeric"),
    ({"healthcheck": None}, "healthcheck: a test is required"),
    ({"healthcheck": {"test": ["NONE"]}}, "healthcheck: a test is required"),
    ({"healthcheck": {"test": ["CMD", "x"], "disable": True}}, "healthcheck: a test is required"),
    ({"deploy": None}, "deploy: must hold resources.limits"),
    (
        {"deploy": {"resources": {"limits": {"cpus": "1", "memory": "1M"}}}},
        "deploy.resources.limits.pids: is required",
    ),
    ({"deploy": {"replicas": 2, **SERVICE["deploy"]}}, "deploy: must hold"),
    ({"environment": ["A=1"]}, "environment: must be a dictionary"),
    ({"environment": {"DB_PASSWORD": "x"}}, "environment.DB_PASSWORD: looks like a secret"),
    ({"environment": {"N8N_ENCRYPTION_KEY": "x"}}, "environment.N8N_ENCRYPTION_KEY: looks like a secret"),
    ({"environment": {"api_token": "x"}}, "environment.api_token: looks like a secret"),
    ({"environment": {"A": None}}, "environment.A: must be text, not NoneType"),
    ({"read_only": False}, "read_only: may be false only with a label"),
    ({"labels": {"io.n8n-platform.tier": "web"}}, "must be one of secrets, data, app, edge"),
    ({"labels": {"io.n8n-platform.slot": "worker"}}, "must be <kind>-<number>"),
    ({"labels": ["a=b"]}, "labels: must be a dictionary"),
    ({"volumes": ["/data/x:/x"]}, "must be of the long form"),
    (
        {"volumes": [{"type": "bind", "source": "/etc", "target": "/x"}]},
        "/etc must be a bind of a path below /data",
    ),
    ({"volumes": [{"type": "bind", "source": "/database", "target": "/x"}]}, "/database must be"),
    ({"volumes": [{"type": "bind", "source": "/data/../etc", "target": "/x"}]}, "must be a bind"),
    ({"volumes": [{"type": "volume", "source": "/data/x", "target": "/x"}]}, "must be a bind"),
    (
        {"volumes": [{"type": "bind", "source": "/var/run/docker.sock", "target": "/x"}]},
        "docker.sock must be",
    ),
    ({"tmpfs": ["/tmp"]}, "tmpfs: '/tmp' is not of the form"),
    ({"secrets": [{"source": "x"}]}, "is not the name of a secret"),
    ({"secrets": ["../x"]}, "is not the name of a secret"),
    ({"ports": ["80:80"]}, "must be of the long form"),
    ({"ports": [{"target": 80, "published": 80, "host_ip": "127.0.0.1"}]}, "mode: host"),
    ({"ports": [{**PORT, "host_ip": "localhost"}]}, "'localhost' does not appear to be"),
    ({"networks": ["other"]}, "networks: other is contributed by no role"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_policy(change: dict[str, Any], words: str) -> None:
    broken = contribution()
    definition = broken["service"]["services"]["db"]
    definition.update(change)
    broken["service"]["services"]["db"] = {
        key: value for key, value in definition.items() if value is not None
    }
    message = refused(broken)
    assert words in message
    assert message.startswith("role db: service db: ")


@pytest.mark.parametrize(
    "change",
    [
        {"image": "registry.example:5000/a/b@sha256:" + "0" * 64},
        {"image": "a/b:1.2@sha256:" + "0" * 64},
        {"environment": {"DB_PASSWORD_FILE": "/run/secrets/x", "KEYBOARD": "x"}},
        {"read_only": False, "labels": {"io.n8n-platform.writable": "writes beside its program"}},
        {"deploy": {"resources": {**SERVICE["deploy"]["resources"], "reservations": {"memory": "1M"}}}},
        {"networks": {"data": {"aliases": ["x"]}}},
    ],
)
def test_policy_lets_pass(change: dict[str, Any]) -> None:
    assemble(_with(change))


def _with(change: dict[str, Any]) -> dict[str, Any]:
    found = contribution()
    found["service"]["services"]["db"].update(change)
    return found


def test_tiers_and_slots() -> None:
    def label(**labels: str) -> dict[str, str]:
        return {f"io.n8n-platform.{key}": value for key, value in labels.items()}

    model = assemble(
        contribution("db", "db", labels=label(tier="data")),
        contribution("app", "app"),
        *(
            contribution("w", f"n8n-{part}-{number}", labels=label(slot=f"worker-{number}"))
            for number in (10, 2)
            for part in ("runner", "worker")
        ),
    )
    assert compose.tiers(model) == {"secrets": [], "data": ["db"], "app": ["app"], "edge": []}
    found = compose.slots(model)
    assert list(found) == ["worker-2", "worker-10"]
    assert found["worker-2"] == ["n8n-worker-2", "n8n-runner-2"]


def test_the_stack_leaves_out_what_swarm_does_itself() -> None:
    volume = {"type": "bind", "source": "/data/x", "target": "/x"}
    model = assemble(
        contribution(ports=[PORT], volumes=[volume], tmpfs=["/tmp:size=64m,mode=1777"], networks=None)
    )
    stack = compose.to_stack(model)
    service = stack["services"]["db"]
    assert "name" not in stack
    assert not {"restart", "depends_on", "tmpfs"} & set(service)
    assert service["deploy"]["placement"] == {"constraints": ["node.labels.io.n8n-platform.app == true"]}
    assert service["ports"] == [{"target": 80, "published": 8443, "mode": "host"}]
    assert service["volumes"][0] == volume
    assert service["volumes"][1] == {"type": "tmpfs", "target": "/tmp", "tmpfs": {"size": 64 * 2**20}}
    assert stack["networks"]["data"]["driver"] == "overlay"
    assert model["services"]["db"]["ports"][0]["host_ip"] == "127.0.0.1"


@pytest.mark.parametrize(
    "value",
    [
        "yes",
        "1",
        "1.5",
        "",
        "a: b",
        "- x",
        "#x",
        "é",
        "line\nbreak\ttab",
        "null",
        "~",
        "0x1f",
        "12:30",
        "a\u2028b",
        True,
        None,
        3,
    ],
)
def test_yaml_is_read_back_as_it_was(value: Any) -> None:
    document = {"a": {"b": [value, {"c": value, "d": [value]}], "e": [], "f": {}}, "1": value}
    assert yaml.safe_load(compose_yaml.dump(document)) == document


def test_yaml_of_a_model_is_read_back(tmp_path: Any) -> None:
    model = assemble(contribution(secrets=["db_password"], ports=[PORT]))
    assert yaml.safe_load(compose_yaml.dump(model)) == json.loads(json.dumps(model))
