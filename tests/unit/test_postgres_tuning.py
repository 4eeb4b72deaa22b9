"""The numbers are pgtune's own answers for the same input."""

import importlib.util
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

_PATH = Path(__file__).resolve().parents[2] / "plugins" / "filter" / "postgres_tuning.py"
_SPEC = importlib.util.spec_from_file_location("postgres_tuning", _PATH)
tuning = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tuning)

SIZES = {"memory_mb": 2048, "cpus": "2.0", "connections": 100, "storage": "ssd"}


def complete(instances, settings=None):
    return tuning.postgres_instances(instances, SIZES, settings or {}, "/secrets")


def test_six_gigabytes_two_cores_two_hundred_connections():
    settings = tuning.postgres_settings(6144, "2.0", 200, "ssd")
    assert settings["shared_buffers"] == "1536MB"
    assert settings["effective_cache_size"] == "4608MB"
    assert settings["maintenance_work_mem"] == "384MB"
    assert settings["work_mem"] == "7561kB"
    assert (settings["min_wal_size"], settings["max_wal_size"]) == ("2048MB", "8192MB")
    assert settings["wal_buffers"] == "16384kB"
    assert settings["huge_pages"] == "off"
    assert "max_parallel_workers" not in settings


def test_large_container_gets_parallel_workers_and_huge_pages():
    settings = tuning.postgres_settings(24576, 8, 200, "nvme")
    assert settings["shared_buffers"] == "6144MB"
    assert settings["huge_pages"] == "try"
    assert settings["max_worker_processes"] == "8"
    assert settings["max_parallel_workers_per_gather"] == "4"
    assert settings["effective_io_concurrency"] == "1000"


def test_small_container_keeps_work_mem_floor_and_a_small_wal():
    settings = tuning.postgres_settings(512, "0.5", 60, "hdd")
    assert settings["work_mem"] == "4096kB"
    assert settings["max_wal_size"] == "2048MB"
    assert settings["wal_buffers"] == "3932kB"
    assert settings["random_page_cost"] == "4"


def test_maintenance_memory_is_capped():
    assert tuning.postgres_settings(262144, 4, 100, "ssd")["maintenance_work_mem"] == "8192MB"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((128, "1", 50, "ssd"), "memory_mb"),
        (("much", "1", 50, "ssd"), "memory_mb"),
        ((1024, "0", 50, "ssd"), "cpus"),
        ((1024, "1", -5, "ssd"), "connections"),
        ((1024, "1", float("inf"), "ssd"), "connections"),
        ((1024, "1", 50, "tape"), "storage"),
    ],
)
def test_bad_size_is_refused_by_name(arguments, named):
    with pytest.raises(AnsibleFilterError, match=f"^{named}: "):
        tuning.postgres_settings(*arguments)


def test_an_empty_instance_is_completed_from_its_name():
    instance = complete({"platform": None})["platform"]
    names = [instance[key] for key in ("database", "owner_role", "app_role")]
    assert names == ["platform", "platform_owner", "platform"]
    assert instance["settings"]["max_connections"] == "100"


def test_nobody_logs_in_as_the_owner_and_the_application_acts_as_it():
    owner, application = complete({"n8n": {"role_settings": {"statement_timeout": "5min"}}})["n8n"]["roles"]
    assert owner == {"name": "n8n_owner", "login": False}
    assert application["member_of"] == ["n8n_owner"]
    assert application["settings"] == {"role": "n8n_owner", "statement_timeout": "5min"}
    assert application["connection_limit"] == 90
    assert application["password_file"] == "/secrets/postgres_n8n_app_password"


def test_own_settings_win_over_shared_ones_and_those_over_computed_ones():
    settings = {"jit": "off", "work_mem": "9MB"}
    done = complete({"n8n": {"settings": {"jit": "on"}}}, settings)["n8n"]["settings"]
    assert (done["jit"], done["work_mem"], done["shared_buffers"]) == ("on", "9MB", "512MB")


@pytest.mark.parametrize(
    ("instances", "named"),
    [
        ({}, "postgres_instances"),
        ({"n8n": {"memory": 5}}, "postgres_instances.n8n.memory"),
        ({"N8N": {}}, "postgres_instances.N8N"),
        ({"my_db": {}}, "postgres_instances.my_db"),
        ({"n8n": {"app_role": "n8n; drop"}}, "postgres_instances.n8n.app_role"),
        ({"n8n": {"app_role": "postgres"}}, "postgres_instances.n8n.app_role"),
        ({"n8n": {"app_role": "n8n_owner"}}, "postgres_instances.n8n.owner_role"),
        ({"n8n": {"memory_mb": 100}}, "postgres_instances.n8n.memory_mb"),
        ({"n8n": {"connections": 900}}, "postgres_instances.n8n.connections"),
        ({"n8n": {"connections": 12}}, "postgres_instances.n8n.connections"),
    ],
)
def test_bad_instance_is_refused_by_name(instances, named):
    with pytest.raises(AnsibleFilterError, match=f"^{named}: "):
        complete(instances)


def test_the_database_carries_extensions_and_table_parameters():
    tables = {"execution_data": {"autovacuum_vacuum_scale_factor": "0.02"}}
    (database,) = complete({"n8n": {"tables": tables}})["n8n"]["databases"]
    assert database == {
        "name": "n8n",
        "owner": "n8n_owner",
        "extensions": ["pg_stat_statements"],
        "tables": tables,
    }
