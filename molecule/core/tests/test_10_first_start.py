"""From nothing to a platform: one run, and at no moment an instance that a stranger could claim."""

import base64
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.deployment import Deployment, Run
from tests.support.off_site import OffSite
from tests.support.stream import NumberedStream

STRANGER = b'{"email":"stranger@example.org","firstName":"S","lastName":"T","password":"Str4ngerStr4nger"}'


# n8n's own answer to a claim of what has an owner; the edge's are others (401, 403, 404, 429, 502).
HAS_AN_OWNER = 400


class Strangers:
    """Bursts of 100 parallel owner requests from outside, for as long as the block lasts.

    Half of them know the edge's login as soon as there is one: it is n8n itself that has to refuse these.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.answers: Counter[int | str] = Counter()
        self._deployment = deployment
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._burst, daemon=True)

    def __enter__(self) -> "Strangers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _login(self) -> dict[str, str]:
        try:
            password = self._deployment.secret("host", "traefik_operator_password")
        except FileNotFoundError:
            return {}
        return {"Authorization": "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()}

    def _claim(self, number: int) -> int | str:
        try:
            headers = {"Content-Type": "application/json"} | (self._login() if number % 2 else {})
            return self._deployment.request(
                "POST", "/rest/owner/setup", body=STRANGER, headers=headers, timeout=5
            )[0]
        except OSError as error:
            return type(error).__name__

    def _burst(self) -> None:
        with ThreadPoolExecutor(max_workers=100) as pool:
            while not self._stop.wait(2):
                self.answers.update(pool.map(self._claim, range(100)))


def test_first_start(core: Deployment, off_site: OffSite, monkeypatch: pytest.MonkeyPatch) -> None:
    core.destroy_left_over()
    off_site.renew()
    keys = off_site.keys
    # The writing keys as .env.example has them, the pruning ones as variables.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.pop("object_storage_access_key_id"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.pop("object_storage_secret_access_key"))
    with Strangers(core) as strangers, NumberedStream(core, "/webhook/ledger") as early:
        run: Run = core.converge(**keys)
    # What got no answer, as there was no CA or nothing that listened yet, was not refused.
    answers = {answer: count for answer, count in strangers.answers.items() if isinstance(answer, int)}
    assert all(answer >= 400 for answer in answers), strangers.answers
    assert sum(count for answer, count in answers.items() if answer < 500) >= 100, strangers.answers
    assert answers.get(HAS_AN_OWNER), strangers.answers
    # While it migrates its database, n8n answers every path with 200.
    assert early.outcomes and not early.accepted, early.summary()
    assert run.rc == 0


def test_the_bucket_s_keys_are_kept_and_needed_no_more(core: Deployment, off_site: OffSite) -> None:
    kept = core.secret("host", "backup_s3_credentials")
    assert all(value in kept for value in off_site.keys.values())


def test_the_owner_is_ours(core: Deployment) -> None:
    users = core.sql('SELECT email FROM "user"')
    assert len(users) == 1
    assert "stranger" not in users[0][0]


def test_everything_is_healthy(core: Deployment) -> None:
    health = {
        service: c.attrs["State"].get("Health", {}).get("Status") for service, c in core.containers().items()
    }
    assert set(health.values()) == {"healthy"}, health
    for expected in (
        "openbao",
        "postgres-n8n",
        "redis-queue",
        "n8n-main",
        "traefik",
        "n8n-webhook-2",
        "n8n-worker-2",
        "n8n-runner-2",
    ):
        assert expected in health
