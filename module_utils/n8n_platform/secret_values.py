"""Which secrets of an environment have to be made, renewed or changed, and what is refused instead."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform import secrets
from ansible.module_utils.n8n_platform.openbao import Secret, SecretStore
from ansible.module_utils.n8n_platform.secrets import SecretError

_DAY = 86400
_EMPTY = Secret("", 0)


@dataclass(frozen=True)
class Change:
    """`reason`: `make`, `import`, `change` (an operator's or derived value), `renew` (a certificate)."""

    name: str
    reason: str


class ValuePlanner:
    """specs: contributed secrets by name; given: operators' values by name; readers: name of
    a service that reads it by secret; edge_names: the edge issuer's domains.

    `cas`: PEM of each issuer, to be set before planning when the store answers.
    """

    def __init__(
        self,
        specs: dict[str, dict[str, Any]],
        given: dict[str, str],
        readers: Mapping[str, str],
        edge_names: list[str],
    ) -> None:
        self.specs = specs
        self.given = given
        self.readers = readers
        self.edge_names = edge_names
        self.cas: dict[str, str] = {}
        for spec in specs.values():
            _check(spec)
        self.order = secrets.in_order(specs)

    def issuer(self, spec: dict[str, Any]) -> str:
        return secrets.issuer_of(spec["dns_names"], self.edge_names)

    def plan(self, stored: Mapping[str, Secret]) -> list[Change]:
        """Changes in the order they have to be made in. Raises SecretError for what is refused."""
        changes: list[Change] = []
        for name in self.order:
            entry = stored.get(name, _EMPTY)
            changing = {change.name for change in changes}
            reason = self._reason(self.specs[name], entry, changing, stored)
            if reason:
                changes.append(Change(name, reason))
        return changes

    def fields(self, name: str, stored: Mapping[str, Secret], store: SecretStore) -> dict[str, Any]:
        """The entry to be written for a secret that `plan` named."""
        spec = self.specs[name]
        if spec["kind"] == "certificate":
            return {**self._issue(spec, store), "request": _request(spec)}
        if spec["kind"] == "derived":
            return {"value": self._derive(spec, stored[name], stored)}
        return {"value": self.given.get(name) or secrets.generate(spec)}

    def fingerprints(self, stored: Mapping[str, Secret]) -> dict[str, str]:
        """Text of each fingerprint file by path."""
        found = {}
        for name, spec in self.specs.items():
            value = stored[name].value
            if spec.get("fingerprint_path") and value:
                found[spec["fingerprint_path"]] = secrets.fingerprint(value)
        return found

    def _reason(
        self, spec: dict[str, Any], entry: Secret, changing: set[str], stored: Mapping[str, Secret]
    ) -> str:
        name, kind = spec["name"], spec["kind"]
        if kind == "create_only":
            self._guard(spec, entry)
        if kind == "provided":
            return self._provided(spec, entry, stored)
        missing = self._missing_source(spec, stored, changing)
        if missing:
            self._refuse_reader(spec, self.specs[missing])
            return ""
        if not entry.exists:
            return "import" if name in self.given else "make"
        if kind == "certificate":
            return "renew" if self._is_due(spec, entry) else ""
        if kind == "derived":
            fresh = set(secrets.sources(spec)) & changing or self._derive(spec, entry, stored) != entry.value
            return "change" if fresh else ""
        return ""

    def _provided(self, spec: dict[str, Any], entry: Secret, stored: Mapping[str, Secret]) -> str:
        name, value = spec["name"], self.given.get(spec["name"])
        if value is None:
            if not entry.exists:
                self._refuse_reader(spec, spec)
            return ""
        if self._would_replace_another(spec, entry, stored):
            raise SecretError(
                f"secret {name}: the store has one of its own, which that of {spec['falls_back_to']} would replace: "
                f"give {spec.get('variable') or name} with it"
            )
        return "" if entry.value == value else "change" if entry.exists else "import"

    def _would_replace_another(
        self, spec: dict[str, Any], entry: Secret, stored: Mapping[str, Secret]
    ) -> bool:
        """Whether the value that is given for both is about to take the place of one that only this one has."""
        other, value = spec.get("falls_back_to"), self.given.get(spec["name"])
        if not other or not entry.exists or value != self.given.get(other):
            return False
        return entry.value not in (value, stored.get(other, _EMPTY).value)

    def _refuse_reader(self, spec: dict[str, Any], source: dict[str, Any]) -> None:
        reader = self.readers.get(spec["name"])
        if reader:
            variable = source.get("variable") or f"the value of {source['name']}"
            raise SecretError(f"secret {spec['name']}: service {reader} reads it, but {variable} is not set")

    def _guard(self, spec: dict[str, Any], entry: Secret) -> None:
        name, value = spec["name"], entry.value or self.given.get(spec["name"])
        variable = spec.get("variable")
        said = variable or "what is given"
        if entry.exists and self.given.get(name) not in (None, entry.value):
            raise SecretError(
                f"secret {name}: {said} differs from the value in the store, which is never replaced"
            )
        guard, mark = spec.get("guard_path"), spec.get("fingerprint_path") or ""
        if not guard or not secrets.holds_data(guard, besides=mark):
            return
        if not value:
            way_out = (
                f"Set {variable} to it, or restore the store"
                if variable
                else f"Bring the environment back with a key bundle (make recover), or move {guard} away"
            )
            raise SecretError(
                f"secret {name}: {guard} holds data that needs the former value, and the store has none. {way_out}; "
                f"no new one is made"
            )
        if (
            mark
            and Path(mark).exists()
            and Path(mark).read_text(encoding="utf-8").strip() != secrets.fingerprint(value)
        ):
            origin = "the store" if entry.exists else said
            raise SecretError(
                f"secret {name}: the value in {origin} is not the one that the data in {guard} was written with"
            )

    def _is_due(self, spec: dict[str, Any], entry: Secret) -> bool:
        left = entry.fields.get("expires", 0) - time.time()
        stale = entry.fields.get("request") != _request(spec) or entry.fields.get("ca") != self.cas.get(
            self.issuer(spec)
        )
        return stale or left < spec["ttl_days"] * _DAY / 3

    def _issue(self, spec: dict[str, Any], store: SecretStore) -> dict[str, Any]:
        names = spec["dns_names"]
        common_name = spec.get("common_name") or names[0]
        issuer = self.issuer(spec)
        return store.issue_certificate(issuer, common_name, names, spec["ip_addresses"], spec["ttl_days"])

    def _missing_source(self, spec: dict[str, Any], stored: Mapping[str, Secret], changing: set[str]) -> str:
        # A `provided` secret that is not given, or what is derived from such: there is nothing to make this one of.
        there = changing | {name for name, entry in stored.items() if entry.exists}
        return next((name for name in secrets.sources(spec) if name not in there), "")

    def _derive(self, spec: dict[str, Any], entry: Secret, stored: Mapping[str, Secret]) -> str:
        if spec.get("hash"):
            return secrets.bcrypt(stored[spec["of"]].value or "", entry.value or "")
        values: dict[str, str] = {}
        for source in secrets.sources(spec):
            values.update(secrets.contents(self.specs[source], stored[source].fields))
        return secrets.render(spec["template"], values)


def _request(spec: dict[str, Any]) -> str:
    """What a certificate was asked for, to see that it is asked for something else now."""
    return "|".join(
        [spec.get("common_name") or "", *spec["dns_names"], *spec["ip_addresses"], str(spec["ttl_days"])]
    )


def _check(spec: dict[str, Any]) -> None:
    name, kind = spec["name"], spec["kind"]
    if not name.replace("_", "a").isalnum() or name != name.lower():
        raise SecretError(f"secret {name}: its name may hold a-z, 0-9 and _ only")
    if kind == "certificate" and not spec["dns_names"]:
        raise SecretError(f"secret {name}: dns_names is empty")
    if kind == "derived" and bool(spec.get("template")) == bool(spec.get("hash") and spec.get("of")):
        raise SecretError(f"secret {name}: needs either template, or hash and of")
