"""Where the bucket lies: what preflight refuses, and where the names of the environment go."""

import json

import object_storage_bucket as bucket
import object_storage_place as place
import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
from s3_lab import ROOT

# Reads the configuration, so not inside a test.
init_plugin_loader([])

TARGET = {"endpoint": "https://192.0.2.77", "bucket": "backups", "prefix": "production"}


def judged(tmp_path, **more):
    params = {
        "kind": "external",
        "target": TARGET,
        "record_file": str(tmp_path / "record.json"),
        "allow_same_host": False,
        "allow_move": False,
    }
    return place.judge({**params, **more})


class TestPlace:
    def test_an_address_elsewhere_is_a_second_place(self, tmp_path):
        assert judged(tmp_path) == {"same_host": False, "addresses": ["192.0.2.77"]}

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
    def test_the_host_itself_is_none_unless_allowed(self, tmp_path, host):
        target = {**TARGET, "endpoint": f"https://{host}:9000"}
        refused = judged(tmp_path, target=target)["msg"]
        assert "platform_s3_endpoint" in refused and "object_storage_same_host_allowed" in refused
        assert judged(tmp_path, target=target, allow_same_host=True)["same_host"] is True

    def test_our_own_store_is_on_the_host_and_needs_no_leave(self, tmp_path):
        assert judged(tmp_path, kind="own")["same_host"] is True

    @pytest.mark.parametrize("endpoint", ["http://192.0.2.77", "192.0.2.77:9000", "", "https://"])
    def test_only_https_will_do(self, tmp_path, endpoint):
        refused = judged(tmp_path, target={**TARGET, "endpoint": endpoint})["msg"]
        assert refused.startswith("platform_s3_endpoint")

    def test_a_name_that_does_not_resolve_is_no_refusal(self, tmp_path):
        target = {**TARGET, "endpoint": "https://store.invalid"}
        assert judged(tmp_path, target=target) == {"same_host": False, "addresses": []}

    @pytest.mark.parametrize("key", ["endpoint", "bucket", "prefix"])
    def test_another_place_than_before_is_refused_unless_it_is_meant(self, tmp_path, key):
        before = {**TARGET, key: "https://192.0.2.78" if key == "endpoint" else "before"}
        (tmp_path / "record.json").write_text(json.dumps(before))
        refused = judged(tmp_path)["msg"]
        assert f"platform_s3_{key} was {before[key]} and is now {TARGET[key]}" in refused
        assert "msg" not in judged(tmp_path, allow_move=True)

    def test_the_same_place_as_before_is_fine(self, tmp_path):
        (tmp_path / "record.json").write_text(json.dumps(TARGET))
        assert "msg" not in judged(tmp_path)


class TestNamesOfTheEnvironment:
    def test_each_name_of_the_example_is_read_somewhere(self):
        names = [
            line.partition("=")[0]
            for line in (ROOT / ".env.example").read_text().splitlines()
            if line and not line.startswith("#")
        ]
        defaults = (ROOT / "roles/object_storage/defaults/main.yml").read_text()
        shared = (ROOT / "group_vars/all/backup.yml").read_text()
        assert len(names) == 7
        for name in names:
            assert f"lookup('ansible.builtin.env', '{name}')" in defaults + shared, name

    @pytest.mark.parametrize(
        ("variable", "values", "expected"),
        [
            ("object_storage_access_key_id", {"AWS_ACCESS_KEY_ID": "a"}, "a"),
            ("object_storage_access_key_id", {"MINIO_ACCESS_KEY": "m"}, "m"),
            ("object_storage_access_key_id", {"AWS_ACCESS_KEY_ID": "a", "MINIO_ACCESS_KEY": "m"}, "a"),
            ("object_storage_secret_access_key", {"AWS_SECRET_ACCESS_KEY": "a"}, "a"),
            ("object_storage_secret_access_key", {"MINIO_SECRET_KEY": "m"}, "m"),
            ("object_storage_secret_access_key", {}, ""),
            ("platform_s3_bucket", {"AWS_S3_BUCKET": "a"}, "a"),
            ("platform_s3_bucket", {"MINIO_BUCKET": "m"}, "m"),
            ("platform_s3_bucket", {}, "n8n-test-backup"),
            ("platform_s3_region", {"AWS_REGION": "eu-central-1"}, "eu-central-1"),
            ("platform_s3_region", {}, "us-east-1"),
        ],
    )
    def test_is_a_default(self, monkeypatch, variable, values, expected):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_S3_BUCKET", "AWS_REGION"):
            monkeypatch.delenv(name, raising=False)
        for name in ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_BUCKET"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        assert templated(variable) == expected


def templated(variable):
    loader = DataLoader()
    variables = {"platform_project": "n8n-test"}
    for file in ("roles/object_storage/defaults/main.yml", "group_vars/all/backup.yml"):
        variables |= loader.load_from_file(str(ROOT / file), trusted_as_template=True)
    return str(Templar(loader=loader, variables=variables).template(variables[variable]))


def test_rights_are_granted_for_the_bucket_and_that_of_bundles_alone():
    variables = yaml.safe_load((ROOT / "roles/object_storage/vars/main.yml").read_text())
    writer = variables["__object_storage_policies"]["writer"]
    for policy in variables["__object_storage_policies"].values():
        for statement in policy["Statement"]:
            assert statement["Effect"] == "Allow"
            buckets = {
                resource.removeprefix("arn:aws:s3:::").split(" }}")[0] for resource in statement["Resource"]
            }
            assert buckets <= {
                f"{{{{ __object_storage_{name}" for name in ("bucket", "bundles", "bundles_bucket")
            }
            if "{{ __object_storage_bucket" not in buckets:
                assert policy is writer and {*statement["Action"]} <= {
                    "s3:ListBucket",
                    "s3:GetObject",
                    "s3:PutObject",
                }
            assert not [
                action
                for action in statement["Action"]
                if "*" in action or action == "s3:DeleteObjectVersion"
            ]


class Store:
    """Answers ensure_bucket as a store whose bucket lacks `missing`."""

    def __init__(self, missing=(), fails=None):
        self.missing, self.fails, self.asked, self.listed = list(missing), fails, [], []

    def ensure_bucket(self, **wanted):
        self.asked.append(wanted)
        if self.fails:
            raise self.fails
        found = {"exists": True, "versioning": True, "object_lock": None, "lifecycle": {}}
        return {"changes": list(self.missing), **found}

    def list(self, prefix):
        self.listed.append(prefix)
        return []


class TestBucketModule:
    @pytest.fixture
    def params(self, tmp_path):
        (tmp_path / "secrets").mkdir()
        for name in ("credentials", "authority"):
            (tmp_path / "secrets" / name).write_text(name)
        return {
            "target": {**TARGET, "ca_file": str(tmp_path / "state/ca.pem")},
            "credentials_file": str(tmp_path / "secrets/credentials"),
            "authority": str(tmp_path / "secrets/authority"),
            "record_file": str(tmp_path / "state/record.json"),
            "manage": True,
            "versioning": True,
            "object_lock": None,
            "lifecycle": {},
        }

    @pytest.fixture(autouse=True)
    def _own_files(self, monkeypatch):
        """Only root gives files away."""
        monkeypatch.setattr(bucket, "write_file", lambda path, text, **_: path.write_text(text))

    def test_makes_what_is_missing_once_and_says_so(self, params, tmp_path):
        store = Store(["create bucket backups"])
        changes = bucket.Manager(params, store).apply()
        state = tmp_path / "state"
        assert changes == [f"write {state}/ca.pem", f"write {state}/record.json", "create bucket backups"]
        assert (state / "ca.pem").read_text() == "authority"
        assert json.loads((state / "record.json").read_text()) == TARGET
        assert bucket.Manager(params, Store()).apply() == []

    def test_check_mode_asks_but_writes_nothing(self, params, tmp_path):
        bucket.Manager(params, Store()).apply()
        (tmp_path / "state/record.json").unlink()
        store = Store(["enable versioning"])
        assert len(bucket.Manager(params, store).plan()) == 2
        assert [asked["apply"] for asked in store.asked] == [False]
        assert not (tmp_path / "state/record.json").exists()

    @pytest.mark.parametrize("missing", ["credentials_file", "authority"])
    def test_before_the_first_start_there_is_nobody_to_ask(self, params, tmp_path, missing):
        (tmp_path / "secrets" / params[missing].rpartition("/")[2]).unlink()
        store = Store()
        assert bucket.Manager(params, store).plan() == ["make bucket backups"]
        assert store.asked == []

    def test_a_bucket_that_was_not_made_is_not_recorded(self, params, tmp_path):
        with pytest.raises(OSError, match="no store"):
            bucket.Manager(params, Store(fails=OSError("no store"))).apply()
        assert not (tmp_path / "state/record.json").exists()

    def test_without_the_right_to_change_it_is_only_looked_at(self, params):
        store = Store(["create bucket backups"])
        params["manage"] = False
        assert "create bucket backups" not in bucket.Manager(params, store).apply()
        assert store.listed and not store.asked
