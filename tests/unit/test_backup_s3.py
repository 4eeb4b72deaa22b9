"""What backup-s3 says of a good store, of one that refuses, and of one that fails in every way that we know."""

import hashlib
import json
import os
import subprocess
import sys
import time
from datetime import timedelta

import botocore.auth
import pytest
from ansible.module_utils.n8n_platform.backup_s3 import S3, Limits, S3Error
from ansible.module_utils.n8n_platform.engine import EngineError
from ansible.module_utils.n8n_platform.engine_run import Result, RunTimeout
from s3_lab import PROGRAM, S3Process, program
from support.s3_faults import Fault

CONTENT = os.urandom(200_000)
TARGET = {
    "endpoint": "https://s3.example.com",
    "bucket": "backups",
    "prefix": "production",
    "uri_style": "host",
    "ca_file": "/state/s3-ca.pem",
    "network": "n8n-production_backup",
}
RULE = {"prefix": "", "noncurrent_days": 7, "multipart_days": 3, "expire_markers": True}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("s3")
    with S3Process(directory, image="") as running:
        yield running


@pytest.fixture(scope="module")
def module():
    return program()


@pytest.fixture(autouse=True)
def _credentials(monkeypatch, request):
    if "store" in request.fixturenames:
        file = request.getfixturevalue("store").credentials_file
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def ask(store, module):
    return lambda operation, **more: store.ask(module, operation, **more)


class TestAGoodStore:
    def test_gives_back_what_was_put_there(self, ask, file, tmp_path):
        put = ask("put", key="round/trip", file=str(file))
        assert put["ok"], put
        assert (put["size"], put["sha256"]) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
        assert ask("get", key="round/trip", file=str(tmp_path / "back"))["ok"]
        assert (tmp_path / "back").read_bytes() == CONTENT
        assert ask("head", key="round/trip")["version_id"] == put["version_id"]
        found = ask("list", prefix="round/")["objects"]
        assert [(item["key"], item["size"]) for item in found] == [("round/trip", len(CONTENT))]

    def test_takes_a_file_in_parts(self, ask, tmp_path):
        big = tmp_path / "big"
        big.write_bytes(os.urandom(17 * 1024 * 1024))
        put = ask("put", key="big", file=str(big))
        assert put["ok"] and put["etag"].endswith("-2")
        assert ask("get", key="big", file=str(tmp_path / "back"))["ok"]
        assert (tmp_path / "back").read_bytes() == big.read_bytes()

    def test_says_what_is_not_there(self, ask, tmp_path):
        assert ask("head", key="nothing") == {"ok": True, "found": False}
        assert ask("list", prefix="nothing/")["objects"] == []
        refused = ask("get", key="nothing", file=str(tmp_path / "back"))
        assert (refused["ok"], refused["error"]["code"]) == (False, "NotFound")
        assert not list(tmp_path.iterdir())

    def test_names_its_own_mistakes(self, ask, tmp_path):
        assert ask("put", key="x", file=str(tmp_path / "none"))["error"]["code"] == "Local"
        assert ask("fly")["error"]["code"] == "Invalid"
        assert ask("head")["error"]["code"] == "Invalid"

    def test_is_also_a_command(self, store):
        request = {"operation": "head", "endpoint": store.endpoint, "bucket": store.bucket, "key": "nothing"}
        command = [sys.executable, "-B", str(PROGRAM), json.dumps({**request, "ca_file": str(store.ca_file)})]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, "found": False})
        done = subprocess.run([*command[:3], "{}"], capture_output=True, text=True, check=False)
        assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)


class TestRights:
    """Those that role object_storage gives."""

    def test_the_writer_deletes_nothing_but_locks_of_restic(self, ask, file):
        ask("put", key="kept", file=str(file))
        version = ask("head", key="kept")["version_id"]
        for objects in ([{"key": "kept"}], [{"key": "kept", "version_id": version}]):
            refused = ask("delete", objects=objects)["error"]
            assert (refused["code"], refused["status"], refused["key"]) == ("AccessDenied", 403, "kept")
        ask("put", key="core/restic/locks/1", file=str(file))
        assert ask("delete", keys=["core/restic/locks/1"])["ok"]

    def test_the_pruner_deletes_but_leaves_the_bytes_to_the_life_cycle(self, ask, file):
        version = ask("put", key="old", file=str(file))["version_id"]
        assert ask("delete", keys=["old"], profile="prune")["deleted"] == 1
        assert ask("head", key="old") == {"ok": True, "found": False}
        found = {item["version_id"]: item for item in ask("list", prefix="old", versions=True)["objects"]}
        assert found[version]["deleted"] is False and found[version]["latest"] is False
        objects = [{"key": "old", "version_id": version}]
        assert ask("delete", objects=objects, profile="prune")["error"]["code"] == "AccessDenied"

    @pytest.mark.parametrize("profile", ["default", "prune"])
    def test_neither_changes_the_bucket_or_sees_another_one(self, ask, store, profile):
        client = store.client(profile)
        store.client("admin").create_bucket(Bucket=f"other-{profile}")
        suspended = {"Status": "Suspended"}
        for forbidden in (
            lambda: client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration=suspended),
            lambda: client.delete_bucket_lifecycle(Bucket=store.bucket),
            lambda: client.put_bucket_policy(Bucket=store.bucket, Policy="{}"),
            lambda: client.delete_bucket(Bucket=store.bucket),
            lambda: client.create_bucket(Bucket=f"new-{profile}"),
            lambda: client.list_objects_v2(Bucket=f"other-{profile}"),
            lambda: client.put_object(Bucket=f"other-{profile}", Key="x", Body=b"x"),
        ):
            with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
                forbidden()

    def test_the_writer_puts_bundles_of_keys_into_a_bucket_of_their_own_and_removes_none(self, store):
        store.client("admin").create_bucket(Bucket=store.bundles)
        writer, pruner = store.client("default"), store.client("prune")
        place = {"Bucket": store.bundles, "Key": "prefix/x.age"}
        writer.put_object(**place, Body=b"x")
        assert writer.head_object(**place)["ContentLength"] == 1
        with pytest.raises(writer.exceptions.ClientError, match="404"):
            writer.head_object(Bucket=store.bundles, Key="prefix/gone.age")
        for forbidden in (
            lambda: writer.delete_object(**place),
            lambda: pruner.delete_object(**place),
            lambda: pruner.get_object(**place),
        ):
            with pytest.raises(writer.exceptions.ClientError, match="AccessDenied"):
                forbidden()

    def test_unknown_keys_get_nothing(self, ask, tmp_path, monkeypatch):
        wrong = tmp_path / "wrong"
        wrong.write_text("[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(wrong))
        assert ask("list")["error"]["status"] == 403


class TestBucket:
    def test_is_made_once_with_all_its_settings(self, ask):
        wanted = {"versioning": True, "object_lock": None, "lifecycle": {"n8n-platform": RULE}}
        wanted |= {"bucket": "settings", "profile": "admin"}
        planned = ask("ensure_bucket", **wanted, apply=False)
        assert (
            len(planned["changes"]) == 3 and not ask("bucket", bucket="settings", profile="admin")["exists"]
        )
        made = ask("ensure_bucket", **wanted)
        assert made["changes"] == planned["changes"]
        assert (made["versioning"], made["lifecycle"]) == (True, {"n8n-platform": {**RULE, "enabled": True}})
        assert ask("ensure_bucket", **wanted)["changes"] == []

    def test_another_ones_rules_stay(self, ask, store):
        ask("ensure_bucket", bucket="shared", versioning=True, profile="admin")
        rule = {
            "ID": "theirs",
            "Status": "Enabled",
            "Filter": {"Prefix": "theirs/"},
            "Expiration": {"Days": 9},
        }
        store.client("admin").put_bucket_lifecycle_configuration(
            Bucket="shared", LifecycleConfiguration={"Rules": [rule]}
        )
        made = ask(
            "ensure_bucket",
            bucket="shared",
            versioning=True,
            lifecycle={"n8n-platform": RULE},
            profile="admin",
        )
        assert set(made["lifecycle"]) == {"theirs", "n8n-platform"}

    def test_a_locked_one_lets_nobody_delete_a_version(self, ask, store, file):
        lock = {"mode": "COMPLIANCE", "days": 1}
        wanted = {"bucket": "locked", "profile": "admin", "versioning": True, "object_lock": lock}
        assert ask("ensure_bucket", **wanted)["object_lock"] == lock
        assert ask("ensure_bucket", **wanted)["changes"] == []
        version = ask("put", bucket="locked", key="kept", file=str(file), profile="admin")["version_id"]
        client = store.client("admin")
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            client.delete_object(
                Bucket="locked", Key="kept", VersionId=version, BypassGovernanceRetention=True
            )
        assert ask("delete", bucket="locked", keys=["kept"], profile="admin")["ok"]
        objects = ask("list", bucket="locked", versions=True, profile="admin")["objects"]
        assert version in [item["version_id"] for item in objects]

    def test_a_lock_for_a_bucket_made_without_is_refused(self, ask):
        ask("ensure_bucket", bucket="unlocked", profile="admin")
        refused = ask(
            "ensure_bucket", bucket="unlocked", profile="admin", object_lock={"mode": "GOVERNANCE", "days": 1}
        )
        assert refused["error"]["code"] == "Invalid" and "take another bucket" in refused["error"]["message"]


class TestABadStore:
    """Each request ends within its limits, and never says that it went well when it did not."""

    @pytest.fixture
    def proxy(self, store):
        with store.proxy() as proxy:
            yield proxy

    @pytest.fixture
    def bad(self, store, module, proxy):
        def bad(operation, fault, **more):
            proxy.fault = fault
            started = time.monotonic()
            answer = store.ask(module, operation, endpoint=proxy.endpoint, **more)
            assert time.monotonic() - started < 15
            return answer

        return bad

    def requests(self, file, tmp_path):
        return {
            "put": {"key": "bad", "file": str(file)},
            "get": {"key": "good", "file": str(tmp_path / "back")},
            "head": {"key": "good"},
            "list": {},
            "delete": {"keys": ["good"], "profile": "prune"},
            "bucket": {"profile": "admin"},
        }

    @pytest.mark.parametrize("operation", ["put", "get", "head", "list", "delete", "bucket"])
    @pytest.mark.parametrize(
        ("fault", "codes"),
        [
            (Fault("status", 500), {"InternalError", "500"}),
            (Fault("status", 503), {"SlowDown", "503"}),
            (Fault("status", 403), {"AccessDenied"}),
            (Fault("stall"), {"Timeout"}),
            (Fault("reset"), {"Unreachable"}),
            (Fault("error200"), {"InternalError", "500", "Corrupt", "Invalid"}),
        ],
        ids=["500", "503", "403", "stall", "reset", "error200"],
    )
    def test_that_never_recovers_is_an_error(self, bad, ask, file, tmp_path, operation, fault, codes):
        assert ask("put", key="good", file=str(file))["ok"]
        answer = bad(operation, fault, attempts=1, **self.requests(file, tmp_path)[operation])
        assert not answer["ok"]
        assert answer["error"]["code"] in codes, answer
        assert answer["error"]["bucket"] and answer["error"]["endpoint"] and answer["error"]["message"]
        assert not (tmp_path / "back").exists() and not (tmp_path / "back.partial").exists()

    @pytest.mark.parametrize("fault", ["status", "reset", "error200"])
    def test_that_recovers_is_asked_again(self, bad, ask, file, fault):
        assert bad("put", Fault(fault, methods=("PUT",), times=1), key=f"again-{fault}", file=str(file))["ok"]
        assert ask("head", key=f"again-{fault}")["size"] == len(CONTENT)

    def test_a_part_that_never_arrives_leaves_no_object(self, bad, ask, tmp_path):
        big = tmp_path / "big"
        big.write_bytes(os.urandom(17 * 1024 * 1024))
        answer = bad("put", Fault("reset", path="partNumber=2"), key="torn", file=str(big), read_timeout=5)
        assert answer["error"]["code"] == "Unreachable", answer
        assert ask("head", key="torn") == {"ok": True, "found": False}

    def test_a_download_that_is_cut_leaves_no_file(self, bad, ask, file, tmp_path):
        ask("put", key="good", file=str(file))
        answer = bad("get", Fault("reset_answer", methods=("GET",)), key="good", file=str(tmp_path / "back"))
        assert not answer["ok"] and answer["error"]["code"] in ("Unreachable", "Timeout"), answer
        assert sorted(path.name for path in tmp_path.iterdir()) == ["content"]

    def test_another_byte_is_noticed(self, bad, ask, file, tmp_path):
        ask("put", key="good", file=str(file))
        answer = bad("get", Fault("flip", methods=("GET",)), key="good", file=str(tmp_path / "back"))
        assert answer["error"]["code"] == "Corrupt", answer
        assert sorted(path.name for path in tmp_path.iterdir()) == ["content"]

    @pytest.mark.parametrize("versions", [False, True])
    @pytest.mark.parametrize("kind", ["page200", "empty200"])
    def test_somebody_elses_answer_is_no_empty_listing(self, bad, kind, versions):
        answer = bad("list", Fault(kind, methods=("GET",)), versions=versions)
        assert answer["error"]["code"] == "Corrupt", answer

    def test_a_200_that_kept_nothing_is_no_success(self, bad, file):
        answer = bad("put", Fault("empty200", methods=("PUT",)), key="never", file=str(file))
        assert answer["error"]["code"] == "Corrupt", answer

    def test_nobody_listening_and_a_strange_authority_are_told_apart(self, ask, tmp_path, store):
        assert ask("list", endpoint="https://127.0.0.1:1")["error"]["code"] == "Unreachable"
        with S3Process(tmp_path / "other", image="") as other:
            assert ask("list", ca_file=str(other.ca_file))["error"]["code"] == "Untrusted"

    @pytest.mark.parametrize("kind", ["stall", "drip"])
    def test_one_that_takes_its_time_meets_the_limit_of_the_request(
        self, store, module, proxy, ask, file, tmp_path, kind
    ):
        assert ask("put", key="good", file=str(file))["ok"]
        proxy.fault = Fault(kind)
        started = time.monotonic()
        limits = {"read_timeout": 60, "attempts": 5, "timeout": 2}
        back = {"key": "good", "file": str(tmp_path / "back")}
        answer = store.ask(module, "get", endpoint=proxy.endpoint, **back, **limits)
        assert answer["error"]["code"] == "Timeout" and time.monotonic() - started < 4
        assert sorted(path.name for path in tmp_path.iterdir()) == ["content"]

    @pytest.mark.parametrize("operation", ["put", "get", "list", "delete"])
    def test_a_bucket_that_is_gone_is_no_empty_one(self, bad, file, tmp_path, operation):
        answer = bad(operation, Fault("status", 404), **self.requests(file, tmp_path)[operation])
        assert not answer["ok"] and answer["error"]["code"] in ("NoSuchBucket", "NotFound"), answer
        assert not (tmp_path / "back").exists()

    def test_a_clock_that_is_wrong_is_named(self, ask, monkeypatch):
        late = botocore.auth.get_current_datetime() - timedelta(hours=1)
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: late)
        error = ask("list")["error"]
        assert (error["code"], error["status"]) == ("RequestTimeTooSkewed", 403), error


class Shots:
    """Notes what was to be run, and answers as told."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def run(self, image, argv, **more):
        self.calls.append((image, argv, more))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @property
    def request(self):
        return json.loads(self.calls[-1][1][1])


class TestThroughAContainer:
    def s3(self, answer, **more):
        said = answer if isinstance(answer, Exception) else Result(0, json.dumps(answer), "")
        shots = Shots(said)
        return S3(shots, "backup:1", TARGET, "/secrets/credentials", **more), shots

    def test_keys_lie_below_the_prefix_and_are_given_without(self):
        listed = {"ok": True, "objects": [{"key": "production/runs/2"}, {"key": "production/runs/1"}]}
        s3, shots = self.s3(listed)
        assert [item["key"] for item in s3.list("runs/")] == ["runs/1", "runs/2"]
        assert shots.request["prefix"] == "production/runs/"

    def test_secrets_and_files_travel_as_mounts_only(self, tmp_path):
        s3, shots = self.s3({"ok": True, "size": 1}, profile="prune", limits=Limits(request=77))
        s3.put(tmp_path / "manifest.json", "runs/1/manifest.json")
        _image, argv, more = shots.calls[0]
        targets = {mount.target: (str(mount.source), mount.read_only) for mount in more["mounts"]}
        assert targets["/run/s3/credentials"] == ("/secrets/credentials", True)
        assert targets["/run/s3/ca.pem"] == ("/state/s3-ca.pem", True)
        assert targets[shots.request["file"]] == (str(tmp_path / "manifest.json"), True)
        assert shots.request["profile"] == "prune" and shots.request["uri_style"] == "host"
        assert more["network"] == "n8n-production_backup" and more["timeout"] > 77
        assert argv[0] == "backup-s3"

    def test_many_keys_are_deleted_in_portions(self):
        s3, shots = self.s3({"ok": True, "deleted": 200})
        s3.delete([f"key-{number}" for number in range(401)])
        assert [len(json.loads(argv[1])["keys"]) for _, argv, _ in shots.calls] == [200, 200, 1]

    def test_an_error_names_all_that_one_has_to_know(self):
        error = {"operation": "put", "endpoint": "https://s3.example.com", "bucket": "backups"}
        error |= {"key": "production/x", "code": "SlowDown", "status": 503, "message": "later"}
        s3, _ = self.s3({"ok": False, "error": error})
        with pytest.raises(
            S3Error,
            match=r"S3 put backups/production/x at https://s3\.example\.com: later \(SlowDown, HTTP 503\)",
        ) as caught:
            s3.head("x")
        assert caught.value.temporary and caught.value.status == 503

    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (RunTimeout("not done"), "Timeout"),
            (EngineError("no such network"), "Tools"),
            (Result(137, "", "killed"), "Tools"),
        ],
    )
    def test_a_container_that_says_nothing_is_an_error(self, answer, code):
        s3, shots = self.s3({"ok": True})
        shots.answer = answer
        with pytest.raises(S3Error) as caught:
            s3.bucket()
        assert caught.value.code == code
