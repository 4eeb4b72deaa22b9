"""An OpenBao of our own on the target: what it needs to start, its set-up, and its restore from a backup."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform import openbao_restore, openbao_setup
from ansible.module_utils.n8n_platform.files import make_directory, write_file
from ansible.module_utils.n8n_platform.openbao import BaoClient, SecretStore, StoreError
from ansible.module_utils.n8n_platform.openbao_setup import StoreManager
from ansible.module_utils.n8n_platform.secrets import issuer_names

_SOCKET_LENGTH = 107


class OwnStore(StoreManager):
    """`recovery` (optional): paths `snapshot`, `record`, `seal_key` of the source that is restored here.

    Raises StoreError, with what to do about it.
    """

    def __init__(self, params: dict[str, Any], recovery: dict[str, str] | None = None) -> None:
        super().__init__(params)
        names = ("snapshot", "record", "seal_key")
        self.backup = (
            openbao_restore.StoreBackup(*(Path(recovery[name]) for name in names)) if recovery else None
        )
        self.socket_directory = Path(params["address"].removeprefix("unix://")).parent
        self.seal_key = Path(params["seal_directory"]) / openbao_setup.SEAL_KEY
        self.data = Path(params["data_directory"])
        self.record = openbao_setup.Record(Path(params["record_file"]))
        self.client = BaoClient(params["address"])
        domains = issuer_names(params["certificates"], params["edge_names"])
        wanted = openbao_setup.Setup(
            params["environment"], params["mount"], params["pki_mount"], params["policy"], domains
        )
        self.setup = wanted.widened(self.record.get("domains", {}))

    def connection(self) -> dict[str, str]:
        keys = {key: self.record.get(key, "") for key in ("role_id", "secret_id")}
        mounts = {key: self.params[key] for key in ("mount", "pki_mount")}
        return {"address": self.params["address"], "auth_mount": "approle", **mounts, **keys}

    def plan_prepared(self) -> list[str]:
        if len(self.params["address"].removeprefix("unix://")) > _SOCKET_LENGTH:
            raise StoreError(
                f"platform_root is too long: {self.params['address']} exceeds a socket's {_SOCKET_LENGTH} characters"
            )
        openbao_setup.refuse_lost_parts(self.seal_key, self.data, self.record)
        steps = self._plan_seal_key()
        if self.record.phase == "started":
            steps.append("begin anew: an initialisation was cut off before its keys were recorded")
        if not self.record.path.exists():
            steps.append("make record")
        uid = self.params["owner"]
        directories = (self.socket_directory, self.seal_key.parent)
        steps += [f"make directory {path}" for path in directories if not _is_private(path, uid)]
        abandons = self.record.phase == "started" or (
            "take seal key" in steps and self.record.phase == "initialised"
        )
        generation = self.record.generation + abandons
        self.result = {"generation": generation}
        return steps

    def apply_prepared(self, steps: list[str]) -> None:
        uid = self.params["owner"]
        self.record.path.parent.mkdir(parents=True, exist_ok=True)
        for directory in (self.socket_directory, self.seal_key.parent):
            make_directory(directory, 0o700, uid, uid)
        if "make seal key" in steps:
            write_file(self.seal_key, secrets.token_hex(openbao_setup.SEAL_KEY_LENGTH // 2), uid, uid)
        elif "take seal key" in steps and self.backup:
            # What another key has sealed here was never set up; it opens no more.
            self._abandon()
            write_file(self.seal_key, self.backup.key, uid, uid)
        if "make record" in steps:
            self.record.update(phase="new", generation=1)
        if self.record.phase == "started":
            abandoned = [*self.record.get("abandoned", []), self.record.generation]
            self.record.update(phase="new", generation=self.record.generation + 1, abandoned=abandoned)

    def _plan_seal_key(self) -> list[str]:
        if not self.backup:
            return [] if self.seal_key.exists() else ["make seal key"]
        there = self.seal_key.exists() and self.seal_key.read_text(encoding="utf-8") == self.backup.key
        if not there:
            self._refuse_other_store(self.backup)
        self.backup.check()
        return [] if there else ["take seal key"]

    def _refuse_other_store(self, backup: openbao_restore.StoreBackup) -> None:
        if self.record.get("setup") and self.record.get("restored") != backup.digest:
            raise StoreError(
                f"recovery: {self.record.path} says that a store is set up here already. A backup of a store is "
                "only restored where there is none"
            )

    def plan_restored(self) -> list[str]:
        """Raises StoreError for a backup that is not whole, and where a store is set up already."""
        if not self.backup:
            raise StoreError("recovery: is needed to restore a store")
        if self._is_lost():
            self.backup.check()
            return ["begin anew: the data of this store are gone", "restore"]
        self._refuse_other_store(self.backup)
        if self.record.get("restored") == self.backup.digest:
            return self.plan_store_file()
        self.backup.check()
        return ["restore"]

    def _is_lost(self) -> bool:
        """Whether a store that was set up has nothing any more. Its server knows, which starts on an empty folder."""
        known = self.record.get("setup") or self.record.get("restored")
        return bool(known) and not self.client.wait(self.params["wait_seconds"], ready=False).initialized

    def apply_restored(self, steps: list[str]) -> None:
        if len(steps) == 2:
            gone = dict.fromkeys(("setup", "restored", "recovery_key", "root_token"))
            self.record.update(**gone, phase="new")
        if "restore" in steps and self.backup:
            source = self.backup.record()
            if not openbao_restore.takes_approle(self._store_of(source)):
                self._take_snapshot(self.backup, source)
            openbao_restore.adopt(self.record, source, self.backup.digest)
        if steps:
            self.write_store_file()

    def _take_snapshot(self, backup: openbao_restore.StoreBackup, source: openbao_setup.Record) -> None:
        self._initialise()
        self.client.wait(self.params["wait_seconds"])
        try:
            openbao_restore.take(self.client, self.record.get("root_token", ""), backup)
            if not openbao_restore.await_approle(self._store_of(source), self.params["wait_seconds"]):
                raise StoreError(
                    f"recovery: the restored store does not take the AppRole in {backup.record_file}: record and "
                    "snapshot are not of one backup"
                )
        except StoreError:
            self._abandon()
            raise

    def _store_of(self, record: openbao_setup.Record) -> SecretStore:
        keys = {key: record.get(key, "") for key in ("role_id", "secret_id")}
        return SecretStore({**self.connection(), **keys}, self.params["environment"])

    def _abandon(self) -> None:
        """Lets the next `prepared` begin with another data directory: what is in this one is of no use."""
        if self.record.phase == "initialised":
            self.record.update(phase="started", recovery_key=None, root_token=None)

    def plan_configured(self) -> list[str]:
        if self.record.phase != "initialised":
            return ["initialise", "set up"]
        if self.record.get("setup") != self.setup.digest or self.record.get("root_token"):
            return ["set up"]
        self.client.wait(self.params["wait_seconds"])
        self.store().login()
        return self.plan_store_file()

    def apply_configured(self, steps: list[str]) -> None:
        if "initialise" in steps or "set up" in steps:
            self._initialise()
            self.client.wait(self.params["wait_seconds"])
            root = openbao_setup.root_client(self.client, self.record, self.store())
            openbao_setup.apply_setup(root, self.setup, self.record)
            self.store().login()
            self.write_store_file()
            openbao_setup.revoke_root(root, self.record)
            self.record.update(setup=self.setup.digest)
        elif steps:
            self.write_store_file()
        self._remove_abandoned()
        if self.params["audit_file"]:
            openbao_setup.rotate_audit(Path(self.params["audit_file"]))

    def verify(self) -> list[str]:
        if self.record.get("root_token"):
            raise StoreError(
                f"the root token in {self.record.path} is not revoked yet: run the site playbook"
            )
        if self.record.get("setup") != self.setup.digest:
            raise StoreError("the store is not set up as the inventory says: run the site playbook")
        super().verify()
        if not self.params["report_seal_key"]:
            return []
        return [f"the seal key {self.seal_key} lies on the host whose data it protects (docs/secrets.md)"]

    def _initialise(self) -> None:
        health = self.client.wait(self.params["wait_seconds"], ready=False)
        if not health.initialized:
            if self.record.phase == "initialised":
                raise StoreError(
                    f"the store is empty, but {self.record.path} says that it was set up: its data below "
                    f"{self.data} is gone. Restore it from a backup; or, if its secrets are lost for good, "
                    "move that file away to begin anew"
                )
            openbao_setup.initialise(self.client, self.record)
        elif self.record.phase != "initialised":
            raise StoreError(
                f"the store is initialised, but its keys are not in {self.record.path}: run the secrets role's config"
            )

    def _remove_abandoned(self) -> None:
        abandoned = self.record.get("abandoned", [])
        for generation in abandoned:
            shutil.rmtree(self.data / str(generation), ignore_errors=True)
        if abandoned:
            self.record.update(abandoned=None)


def _is_private(path: Path, uid: int) -> bool:
    return path.is_dir() and (path.stat().st_mode & 0o7777, path.stat().st_uid) == (0o700, uid)
