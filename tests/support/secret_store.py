"""Secret stores of tests, real servers in containers of their own: one as role secrets runs it, and a foreign one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import platform_openbao
from ansible.module_utils.n8n_platform.openbao import BaoClient, SecretStore
from docker.models.containers import Container

from tests.support.certificates import Authority
from tests.support.docs import doc_block

UID = 2004
OWN = """
ui = false
api_addr = "http://127.0.0.1:8200"
cluster_addr = "https://127.0.0.1:8201"
listener "unix" { address = "/run/openbao/api.sock" }
listener "tcp" {
  address = "127.0.0.1:8200"
  cluster_address = "127.0.0.1:8201"
  tls_disable = true
}
storage "raft" {
  path = "/var/lib/openbao/GENERATION"
  node_id = "openbao"
  performance_multiplier = 1
}
seal "static" {
  current_key_id = "1"
  current_key = "file:///etc/openbao-seal/openbao.key"
}
"""
POLICY = """
path "kv/data/source/*" { capabilities = ["create", "read", "update"] }
path "sys/storage/raft/snapshot" { capabilities = ["read"] }
"""


class OwnStore:
    """A server below `root`, run as role secrets runs it."""

    def __init__(self, engine: docker.DockerClient, image: str, root: Path) -> None:
        self.engine, self.image, self.root = engine, image, root
        self.policy = POLICY
        for name in ("data", "config", "run", "seal", "state"):
            (root / name).mkdir(parents=True)
            os.chown(root / name, UID, UID)

    def run(self, state: str, backup: Path | None = None, **changes: Any) -> list[str]:
        """One state of the module, as the role asks for it."""
        names = {"snapshot": "openbao.snap", "record": "openbao.json", "seal_key": "openbao.key"}
        recovery = {name: str(backup / file) for name, file in names.items()} if backup else None
        defaults = {name: option.get("default") for name, option in platform_openbao._STORE.items()}
        own: dict[str, Any] = {
            "environment": "source",
            "address": f"unix://{self.root}/run/api.sock",
            "store_file": str(self.root / "state/store.json"),
            "record_file": str(self.root / "state/openbao.json"),
            "seal_directory": str(self.root / "seal"),
            "data_directory": str(self.root / "data"),
            "owner": UID,
            "policy": self.policy,
            "edge_names": ["localhost"],
        }
        params = {"state": state, "store": defaults | own | changes, "recovery": recovery}
        manager = platform_openbao.Manager(params)
        steps = manager.plan()
        manager.apply(steps)
        self.generation = manager.store.result.get("generation", getattr(self, "generation", 1))
        return steps

    @contextmanager
    def serving(self) -> Iterator[BaoClient]:
        text = OWN.replace("GENERATION", str(self.generation))
        (self.root / "config/openbao.hcl").write_text(text)
        mounts = {
            "config": "/etc/openbao",
            "seal": "/etc/openbao-seal",
            "run": "/run/openbao",
            "data": "/var/lib/openbao",
        }
        container = self.engine.containers.run(
            self.image,
            ["server", "-config=/etc/openbao"],
            entrypoint="bao",
            user=f"{UID}:{UID}",
            network_mode="none",
            detach=True,
            volumes={str(self.root / name): {"bind": path, "mode": "rw"} for name, path in mounts.items()},
        )
        try:
            client = BaoClient(f"unix://{self.root}/run/api.sock", timeout=60)
            client.wait(60, ready=False)
            yield client
        finally:
            container.remove(force=True)

    def store(self) -> SecretStore:
        return SecretStore.from_params(
            {"store_file": str(self.root / "state/store.json"), "environment": "source"}
        )


# Its storage is memory: what is stopped has lost everything.
FOREIGN = """
listener "tcp" {
  address = "0.0.0.0:8200"
  tls_cert_file = "/etc/openbao/server.crt"
  tls_key_file = "/etc/openbao/server.key"
}
storage "inmem" {}
"""
WORK = "/tmp/work"


class ForeignStore:
    """A store that others run, over TLS; prepared for an environment by the commands of docs/secrets.md.

    `with ForeignStore(engine, image, root) as store:`; `root_client` is its administrator's. environment, domain: of
    the deployment, in place of those that the documentation takes as its example.
    """

    def __init__(
        self,
        engine: docker.DockerClient,
        image: str,
        root: Path,
        environment: str = "production",
        domain: str = "n8n.example.org",
    ) -> None:
        self.engine, self.image, self.root = engine, image, root
        self.environment, self.domain = environment, domain
        self.policy = self._for_deployment(doc_block("external-store-policy"))
        self.authority = Authority(root / "authority")

    def __enter__(self) -> ForeignStore:
        config = self.root / "config"
        config.mkdir()
        (config / "openbao.hcl").write_text(FOREIGN)
        self.authority.issue(config / "server.crt", config / "server.key", ["127.0.0.1", "localhost"])
        os.chown(config / "server.key", UID, UID)
        self.container: Container = self.engine.containers.run(
            self.image,
            ["server", "-config=/etc/openbao"],
            entrypoint="bao",
            user=f"{UID}:{UID}",
            ports={"8200/tcp": ("127.0.0.1", None)},
            tmpfs={WORK: f"uid={UID}"},
            detach=True,
            volumes={
                str(config): {"bind": "/etc/openbao", "mode": "ro"},
                str(self.authority.ca_file): {"bind": "/etc/openbao-ca.crt", "mode": "ro"},
            },
        )
        try:
            self._prepare()
        except BaseException:
            self.container.remove(force=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.container.remove(force=True)

    def _prepare(self) -> None:
        self.container.reload()
        (binding,) = self.container.attrs["NetworkSettings"]["Ports"]["8200/tcp"]
        self.address = f"https://127.0.0.1:{binding['HostPort']}"
        self.root_client = BaoClient(self.address, ca_file=str(self.authority.ca_file), timeout=60)
        self.root_client.wait(60, ready=False)
        _, keys = self.root_client.call("POST", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.key, self.root_client.token = keys["keys"][0], keys["root_token"]
        self.unseal()
        self.bao(f"cat > deployer.hcl <<'END'\n{self.policy}END\n")
        printed = self.bao(self._for_deployment(doc_block("external-store")))
        self.role_id, self.secret_id = (
            re.findall(rf"^{name} +(\S+)$", printed, re.MULTILINE)[-1] for name in ("role_id", "secret_id")
        )

    def _for_deployment(self, text: str) -> str:
        return text.replace("production", self.environment).replace("n8n.example.org", self.domain)

    def variables(self) -> dict[str, str]:
        """What an inventory says of it."""
        secret_id_file = self.root / "secret-id"
        secret_id_file.touch(0o600)
        secret_id_file.write_text(self.secret_id)
        return {
            "secrets_openbao_address": self.address,
            "secrets_openbao_role_id": self.role_id,
            "secrets_openbao_secret_id_file": str(secret_id_file),
            "secrets_openbao_ca_file": str(self.authority.ca_file),
        }

    def seal(self) -> None:
        self.root_client.call("POST", "sys/seal")

    def unseal(self) -> None:
        self.root_client.call("POST", "sys/unseal", {"key": self.key})
        self.root_client.wait(60)

    def bao(self, commands: str) -> str:
        """What an administrator's commands print."""
        environment = {"BAO_ADDR": "https://127.0.0.1:8200", "BAO_CACERT": "/etc/openbao-ca.crt"}
        done = self.container.exec_run(
            ["sh", "-euc", commands],
            environment={**environment, "BAO_TOKEN": self.root_client.token, "HOME": WORK},
            workdir=WORK,
        )
        assert done.exit_code == 0, done.output.decode()
        return str(done.output.decode())

    def allow(self, policy: str) -> None:
        """Replaces what the deployment may do."""
        self.root_client.call("POST", f"sys/policies/acl/{self.environment}-deployer", {"policy": policy})

    def run(self, state: str, target: Path, check: bool = False, **changes: Any) -> list[str]:
        """One state of the module, as the role asks for it where `secrets_openbao_address` is this store's."""
        defaults = {name: option.get("default") for name, option in platform_openbao._STORE.items()}
        own = {
            "environment": self.environment,
            "address": self.address,
            "store_file": str(target / "state/store.json"),
            "role_id": self.role_id,
            "secret_id": self.secret_id,
            "ca_certificate": self.authority.ca_file.read_text(),
        }
        manager = platform_openbao.Manager({"state": state, "store": {**defaults, **own, **changes}})
        steps = manager.plan()
        if not check:
            manager.apply(steps)
        return steps
