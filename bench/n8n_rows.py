"""Executions as n8n keeps them: some KB of flattened JSON each, of a few workflows, as compressible as real ones."""

from __future__ import annotations

import json
import math
import random
import string
from collections.abc import Iterator

# Columns and indexes of n8n 2.x that carry the weight.
SCHEMA = """
CREATE TABLE execution_entity (
  id serial PRIMARY KEY, finished boolean NOT NULL, mode varchar NOT NULL, "retryOf" varchar, "retrySuccessId" varchar,
  "startedAt" timestamptz(3), "stoppedAt" timestamptz(3), "waitTill" timestamptz(3), status varchar NOT NULL,
  "workflowId" varchar(36) NOT NULL, "deletedAt" timestamptz(3), "createdAt" timestamptz(3) NOT NULL DEFAULT now());
CREATE INDEX ON execution_entity ("workflowId", "startedAt");
CREATE INDEX ON execution_entity ("waitTill", status, "deletedAt") WHERE "waitTill" IS NOT NULL;
CREATE INDEX ON execution_entity ("stoppedAt", status, "deletedAt") WHERE "stoppedAt" IS NOT NULL;
CREATE INDEX ON execution_entity ("workflowId", status, id) WHERE "deletedAt" IS NULL;
CREATE TABLE execution_data (
  "executionId" int PRIMARY KEY REFERENCES execution_entity ON DELETE CASCADE,
  "workflowData" json NOT NULL, data text NOT NULL, "workflowVersionId" varchar(36));
"""
WORKFLOWS = 40
_NAMES = (
    "id",
    "customer",
    "email",
    "status",
    "total",
    "currency",
    "note",
    "createdAt",
    "updatedAt",
    "source",
)
_WORDS = (  # noqa: SIM905 (one a line would fill the page)
    "order invoice customer delivery payment refund address street parcel ticket answer question urgent please "
    "contact monday report update new changed missing number product quantity price discount sent received open"
).split()
_ITEMS = 100_000
_FEWEST, _MOST = 4, 160


class Executions:
    """Lines for COPY, the same for the same `seed`; an execution has 4 to 160 items, log-uniform, about 15 KB."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._items = [self._item() for _ in range(_ITEMS)]
        self._workflows = [self._workflow() for _ in range(WORKFLOWS)]

    def entities(self, first: int, count: int) -> Iterator[str]:
        for number in range(first, first + count):
            moment = (
                f"2026-{1 + number // 28 % 9:02}-{1 + number % 28:02} {number % 24:02}:{number % 60:02}:00+00"
            )
            status = "error" if number % 20 == 0 else "success"
            finished = "f" if status == "error" else "t"
            yield f"{number}\t{finished}\twebhook\t{moment}\t{moment}\t{status}\t{self._id(number)}\t{moment}\n"

    def data(self, first: int, count: int) -> Iterator[str]:
        for number in range(first, first + count):
            items = int(math.exp(self._random.uniform(math.log(_FEWEST), math.log(_MOST))))
            body = ",".join(self._random.choices(self._items, k=items))
            head = '{"version":1,"startData":"1","resultData":"2","executionData":"3"},{},{"runData":"4"}'
            workflow = self._workflows[number % WORKFLOWS]
            yield f"{number}\t{_escaped(workflow)}\t{_escaped(f'[{head},{body}]')}\t{self._id(number)}\n"

    def _id(self, number: int) -> str:
        return f"workflow{number % WORKFLOWS:08}"

    def _item(self) -> str:
        """One item as `flatted` writes it: objects hold the places of their strings."""
        pick, place = self._random, self._random.randrange(10, 900)
        token = "".join(pick.choices(string.ascii_lowercase + string.digits, k=16))
        texts = [
            f"{token[:7]}@{token[7:13]}.example",
            pick.choice(("paid", "open", "cancelled", "shipped")),
            " ".join(pick.choices(_WORDS, k=pick.randrange(4, 24))),
            f"2026-0{pick.randrange(1, 10)}-1{pick.randrange(10)}T09:17:{pick.randrange(10, 60)}.482Z",
            token,
        ]
        numbers = {"id": pick.randrange(10**9), "total": round(pick.random() * 1000, 2)}
        keys = {name: numbers.get(name, str(place + index)) for index, name in enumerate(_NAMES)}
        parts = [
            {"json": str(place), "pairedItem": str(place + 1)},
            keys,
            {"item": pick.randrange(50)},
            *texts,
        ]
        return ",".join(json.dumps(part, separators=(",", ":")) for part in parts)

    def _workflow(self) -> str:
        nodes = [
            {
                "id": "".join(self._random.choices("0123456789abcdef", k=32)),
                "name": " ".join(self._random.choices(_WORDS, k=2)),
                "type": f"n8n-nodes-base.{self._random.choice(('set', 'httpRequest', 'code', 'if', 'webhook'))}",
                "typeVersion": 2,
                "position": [220 * index, 0],
                "parameters": {word: " ".join(self._random.choices(_WORDS, k=6)) for word in _WORDS[:4]},
            }
            for index in range(8)
        ]
        return json.dumps({"nodes": nodes, "connections": {}, "settings": {"executionOrder": "v1"}})


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\")
