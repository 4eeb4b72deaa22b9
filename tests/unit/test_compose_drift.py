"""Containers as the engine shows them against services as Compose reads them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible.module_utils.n8n_platform.compose_drift import drift

REFERENCE = "n8n-platform/traefik:e48f7a82fb04"
IMAGES = {REFERENCE: "sha256:71"}

# `docker compose config --format json` of one service, and `docker inspect` of its container.
MODEL: dict[str, Any] = {
    "name": "n8n-local",
    "networks": {name: {"name": f"n8n-local_{name}", "ipam": {}} for name in ("data", "edge", "slot-1")},
    "services": {
        "proxy": {
            "image": REFERENCE,
            "user": "2003:2003",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "deploy": {
                "resources": {"limits": {"cpus": 1.05, "memory": "805306368", "pids": 256}},
                "placement": {},
            },
            "networks": {"edge": None, "data": None},
            "ports": [
                {
                    "mode": "host",
                    "host_ip": "127.0.0.1",
                    "target": 8443,
                    "published": "8643",
                    "protocol": "tcp",
                },
                {
                    "mode": "host",
                    "host_ip": "0:0:0:0:0:0:0:1",
                    "target": 53,
                    "published": "53",
                    "protocol": "udp",
                },
            ],
        }
    },
}
CONTAINER: dict[str, Any] = {
    "Image": "sha256:71",
    "Config": {"User": "2003:2003", "Image": REFERENCE},
    "HostConfig": {
        "Privileged": False,
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "CapAdd": None,
        "SecurityOpt": ["no-new-privileges:true"],
        "Memory": 768 * 1024 * 1024,
        "NanoCpus": 1049999936,
        "PidsLimit": 256,
    },
    "NetworkSettings": {
        "Networks": {"n8n-local_data": {"Aliases": ["proxy"]}, "n8n-local_edge": {"Aliases": ["proxy"]}},
        "Ports": {
            "53/udp": [{"HostIp": "::1", "HostPort": "53"}],
            "8080/tcp": None,
            "8443/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8643"}],
        },
    },
}


def compared(
    part: str = "", found: dict[str, Any] | None = None, service: dict[str, Any] | None = None
) -> list[str]:
    """found: what is other in `part` of the container; service: what is other in the release."""
    container, model = copy.deepcopy(CONTAINER), copy.deepcopy(MODEL)
    (container[part] if part else container).update(found or {})
    model["services"]["proxy"].update(service or {})
    return drift(model, {"proxy": container}, IMAGES)


def test_a_container_as_released() -> None:
    assert compared() == []


@pytest.mark.parametrize(
    ("part", "found", "says"),
    [
        ("", {"Image": "sha256:72"}, f"image {REFERENCE} is sha256:72, the release says sha256:71"),
        ("Config", {"User": ""}, "user is none, the release says 2003:2003"),
        ("HostConfig", {"Privileged": True}, "privileged is true, the release says false"),
        ("HostConfig", {"ReadonlyRootfs": False}, "read_only is false, the release says true"),
        ("HostConfig", {"CapDrop": None}, "cap_drop is none, the release says ALL"),
        ("HostConfig", {"CapAdd": ["CAP_NET_RAW"]}, "cap_add is NET_RAW, the release says none"),
        (
            "HostConfig",
            {"SecurityOpt": ["no-new-privileges=false"]},
            "security_opt is no-new-privileges=false, the release says no-new-privileges",
        ),
        (
            "HostConfig",
            {"SecurityOpt": ["seccomp=unconfined", "no-new-privileges"]},
            "security_opt is no-new-privileges, seccomp=unconfined, the release says no-new-privileges",
        ),
        ("HostConfig", {"SecurityOpt": None}, "security_opt is none, the release says no-new-privileges"),
        ("HostConfig", {"Memory": 1073741824}, "memory is 1073741824, the release says 805306368"),
        ("HostConfig", {"NanoCpus": 700000000}, "cpus is 0.7, the release says 1.05"),
        ("HostConfig", {"NanoCpus": 0}, "cpus is 0, the release says 1.05"),
        ("HostConfig", {"PidsLimit": None}, "pids is 0, the release says 256"),
        ("HostConfig", {"PidsLimit": 50}, "pids is 50, the release says 256"),
        (
            "NetworkSettings",
            {"Networks": {"n8n-local_edge": {}, "n8n-local_data": {}, "bridge": {}}},
            "networks is bridge, n8n-local_data, n8n-local_edge, the release says n8n-local_data, n8n-local_edge",
        ),
        (
            "NetworkSettings",
            {"Networks": {"n8n-local_edge": {}}},
            "networks is n8n-local_edge, the release says n8n-local_data, n8n-local_edge",
        ),
        (
            "NetworkSettings",
            {"Ports": {}},
            "ports is none, the release says 127.0.0.1:8643->8443/tcp, ::1:53->53/udp",
        ),
        (
            "NetworkSettings",
            {"Ports": CONTAINER["NetworkSettings"]["Ports"] | {"53/udp": [{"HostIp": "", "HostPort": "53"}]}},
            "ports is 127.0.0.1:8643->8443/tcp, :53->53/udp, "
            "the release says 127.0.0.1:8643->8443/tcp, ::1:53->53/udp",
        ),
    ],
)
def test_one_sentence_names_service_field_found_and_wanted(
    part: str, found: dict[str, Any], says: str
) -> None:
    assert compared(part, found) == [f"service proxy: {says}"]


@pytest.mark.parametrize(
    ("part", "found", "service"),
    [
        ("HostConfig", {"CapAdd": []}, {}),
        ("HostConfig", {"CapAdd": ["CAP_CHOWN", "NET_RAW"]}, {"cap_add": ["net_raw", "CHOWN"]}),
        ("HostConfig", {"SecurityOpt": ["no-new-privileges"]}, {}),
        ("HostConfig", {"SecurityOpt": ["no-new-privileges=true"]}, {}),
        ("NetworkSettings", {"Ports": None}, {"ports": []}),
        ("NetworkSettings", {"Networks": {"n8n-local_slot-1": {}}}, {"networks": {"slot-1": None}}),
        ("HostConfig", {"Memory": 0, "NanoCpus": 0, "PidsLimit": None}, {"deploy": {}}),
    ],
)
def test_one_thing_written_in_two_ways(part: str, found: dict[str, Any], service: dict[str, Any]) -> None:
    assert compared(part, found, service) == []


def test_everything_that_differs_is_said_by_service() -> None:
    model = {**MODEL, "services": {"main": MODEL["services"]["proxy"], **MODEL["services"]}}
    ill = {**CONTAINER, "HostConfig": {**CONTAINER["HostConfig"], "Memory": 1, "PidsLimit": 2}}
    assert [line.partition(" is ")[0] for line in drift(model, {"proxy": ill, "main": ill}, IMAGES)] == [
        *("service main: memory", "service main: pids", "service proxy: memory", "service proxy: pids")
    ]


def test_an_image_whose_name_is_gone() -> None:
    assert drift(MODEL, {"proxy": CONTAINER}, {REFERENCE: ""}) == [
        f"service proxy: image {REFERENCE} is sha256:71, the release says an image that this host does not have"
    ]
