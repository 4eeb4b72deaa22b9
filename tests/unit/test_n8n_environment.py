"""Refusing environment variables that n8n would misread, and making the list of those it reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.n8n_platform.n8n_environment import ADVICE, CHOICES, FORBIDDEN, OWNED, check
from n8n_environment_problems import n8n_environment_problems

ROOT = Path(__file__).resolve().parents[2]
KNOWN: dict[str, Any] = json.loads((ROOT / "roles/n8n/files/environment-2.41.1.json").read_text())
TABLE = yaml.safe_load((ROOT / "roles/n8n/vars/main.yml").read_text())["__n8n_environment_table"]


def only(name: str, value: Any) -> str:
    findings = check({name: value}, KNOWN)
    assert len(findings) == 1 and findings[0].startswith(f"{name}: ")
    return findings[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("N8N_LOG_LEVEL", "debug"),
        ("EXECUTIONS_DATA_SAVE_ON_SUCCESS", "none"),
        ("NODES_EXCLUDE", '["n8n-nodes-base.executeCommand"]'),
        ("N8N_CONCURRENCY_PRODUCTION_LIMIT", "-1"),
        ("N8N_SMTP_PASS_FILE", "/run/secrets/n8n_smtp_password"),
        ("N8N_OTEL_ENABLED", "true"),
    ],
)
def test_what_n8n_reads_as_meant_passes(name: str, value: str) -> None:
    assert check({name: value}, KNOWN) == []


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("N8N_METRICS_PORT", "/metrics"),
        ("N8N_EXPORT_FOLDER", "/data/exports"),
        ("N8N_BASIC_AUTH_ACTIVE", "Traefik"),
        ("EXECUTIONS_CONCURRENCY", "n8n_workers_concurrency"),
        ("EXECUTIONS_DATA_PRUNE_MAX_AGE", "EXECUTIONS_DATA_MAX_AGE"),
        ("N8N_USER_FOLDER", "/home/node/.n8n"),
        ("WEBHOOK_URL", "N8N_WEBHOOK_URL"),
        ("N8N_RUNNERS_ENABLED", "no longer needed"),
    ],
)
def test_names_out_of_guides_are_refused_with_the_right_one(name: str, advice: str) -> None:
    assert advice in only(name, "true")


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    assert "did you mean N8N_METRICS_PREFIX?" in only("N8N_METRIC_PREFIX", "x")
    assert "does not know it" in only("COMPLETELY_UNKNOWN", "x")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("N8N_RUNNERS_MODE", "exteranl", "none of internal, external"),
        ("N8N_SSRF_PROTECTION_ENABLED", "yes", "none of true, false"),
        ("N8N_METRICS", True, "string in quotes"),
        ("EXECUTIONS_DATA_SAVE_ON_SUCCESS", "true", "none of all, none"),
        ("OFFLOAD_MANUAL_EXECUTIONS_TO_WORKERS", "1", "none of true, false"),
        ("EXECUTIONS_DATA_MAX_AGE", "7 days", "no number"),
        ("NODES_EXCLUDE", "n8n-nodes-base.executeCommand", "JSON list"),
        ("NODES_EXCLUDE", "['n8n-nodes-base.executeCommand']", "JSON list"),
        ("NODES_EXCLUDE", "[1]", "JSON list"),
        ("N8N_SMTP_PASS_FILE", "secret", "absolute path"),
    ],
)
def test_values_that_n8n_would_silently_replace_are_refused(name: str, value: Any, says: str) -> None:
    assert says in only(name, value)


@pytest.mark.parametrize(
    "name",
    [
        "N8N_SMTP_PASS",
        "CREDENTIALS_OVERWRITE_DATA",
        "N8N_EXTERNAL_STORAGE_AZURE_CONNECTION_STRING",
        "N8N_OTEL_EXPORTER_OTLP_HEADERS",
        "N8N_INSTANCE_OWNER_PASSWORD_HASH",
        "N8N_AI_ANTHROPIC_KEY",
    ],
)
def test_secrets_are_refused_whatever_they_are_called(name: str) -> None:
    assert "a secret does not go into the environment" in only(name, "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("N8N_EXPRESSION_ENGINE", "legacy"),
        ("N8N_SKIP_AUTH_ON_OAUTH_CALLBACK", "true"),
        ("N8N_INSECURE_DISABLE_FORM_HTML_SANDBOX", "true"),
        ("N8N_BLOCK_FILE_ACCESS_TO_N8N_FILES", "false"),
    ],
)
def test_values_that_switch_a_protection_off_are_refused(name: str, value: str) -> None:
    assert "protection" in only(name, value)


def test_secrets_and_what_the_platform_owns_are_refused_from_operators_only() -> None:
    assert "set N8N_ENCRYPTION_KEY_FILE" in only("N8N_ENCRYPTION_KEY", "k")
    assert "belongs to the platform" in only("EXECUTIONS_MODE", "queue")
    assert check({"EXECUTIONS_MODE": "queue"}, KNOWN, operator=False) == []
    assert "none of" in check({"EXECUTIONS_MODE": "queu"}, KNOWN, operator=False)[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("N8N_PYTHON_ENABLED", "true"),
        ("N8N_PYTHON_ENABLED_FILE", "/run/python"),
        ("N8N_NATIVE_PYTHON_RUNNER", "true"),
        ("N8N_RUNNERS_STDLIB_ALLOW", "*"),
        ("N8N_RUNNERS_EXTERNAL_ALLOW", "numpy"),
        ("N8N_RUNNERS_ALLOW_TRANSITIVE_IMPORTS", "true"),
        ("N8N_RUNNERS_BUILTINS_DENY", "eval"),
    ],
)
def test_python_in_code_nodes_is_refused_because_nothing_runs_it(name: str, value: str) -> None:
    assert "no runner for Python" in only(name, value)


def test_it_is_said_whose_variable_it_is() -> None:
    found = n8n_environment_problems({"worker": {"N8N_METRICS": "no"}}, {"N8N_METRICS": "yes"}, KNOWN)
    assert [finding.split(": ")[0:2] for finding in found] == [
        ["n8n_environment_extra", "N8N_METRICS"],
        ["worker", "N8N_METRICS"],
    ]


def test_the_rules_are_about_names_that_this_n8n_has() -> None:
    names = set(KNOWN["variables"])
    assert set(CHOICES) | set(FORBIDDEN) <= names
    assert set(OWNED) <= names
    assert set(ADVICE) & {row["name"] for row in TABLE} == set()


def test_every_variable_that_we_set_is_known_and_has_a_reason() -> None:
    names = set(KNOWN["variables"])
    assert [row["name"] for row in TABLE if row["name"].removesuffix("_FILE") not in names] == []
    assert [row["name"] for row in TABLE if not row.get("reason")] == []
    needs_file = [row["name"] for row in TABLE if row["name"].endswith("_FILE")]
    assert [name for name in needs_file if not KNOWN["variables"][name.removesuffix("_FILE")]["file"]] == []


DECORATED = """
const modeSchema = zod_1.z.enum(['internal', 'external']);
let RunnersConfig = class RunnersConfig {
    constructor() {
        this.mode = 'internal';
        this.timeout = 5 * constants_1.Time.minutes.toSeconds;
        this.enabled = false;
    }
};
__decorate([
    (0, decorators_1.Env)('N8N_RUNNERS_MODE', modeSchema),
    __metadata("design:type", String)
], RunnersConfig.prototype, "mode", void 0);
__decorate([
    (0, decorators_1.Env)('N8N_RUNNERS_TASK_TIMEOUT'),
    __metadata("design:type", Number)
], RunnersConfig.prototype, "timeout", void 0);
__decorate([
    (0, config_1.Env)(otel_constants_1.NAMES.enabled),
    __metadata("design:type", Boolean)
], RunnersConfig.prototype, 'enabled', void 0);
"""
FILES = {
    "runners.config.js": DECORATED,
    "otel.constants.js": "exports.NAMES = {\n    enabled: 'N8N_OTEL_ENABLED',\n};\n"
    "exports.FOLDER = 'N8N_CUSTOM_EXTENSIONS';",
    "reads.js": "const { QUEUE_WORKER_TIMEOUT } = process.env; process.env['N8N_A'];"
    " process.env[x.FOLDER]; process.env.N8N_B",
    "deprecation.service.js": "const SAFE_TO_REMOVE = 'Remove it.';\n{ envVar: 'OLD_ONE', message: SAFE_TO_REMOVE },"
    "\n{ envVar: 'SOMETIMES', message: 'x y', checkValue: (v) => v },",
}


def test_the_list_is_read_from_compiled_code(tmp_path: Path) -> None:
    package = tmp_path / "node_modules/n8n"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text('{"name": "n8n", "version": "9.9.9"}')
    for name, code in FILES.items():
        (package / "dist" / name).write_text(code)
    made = subprocess.run(
        [sys.executable, ROOT / "bin/n8n-environment", tmp_path], capture_output=True, text=True, check=True
    )
    found = json.loads(made.stdout)
    assert (found["version"], found["retired"]) == ("9.9.9", {"OLD_ONE": "Remove it."})
    assert found["variables"]["N8N_RUNNERS_MODE"] == {
        "type": "string",
        "default": "internal",
        "choices": ["internal", "external"],
        "file": True,
    }
    assert found["variables"]["N8N_RUNNERS_TASK_TIMEOUT"]["default"] == 300
    assert found["variables"]["N8N_OTEL_ENABLED"]["type"] == "boolean"
    plain = {name for name, entry in found["variables"].items() if not entry["file"]}
    assert {"QUEUE_WORKER_TIMEOUT", "N8N_A", "N8N_B", "N8N_CUSTOM_EXTENSIONS", "TZ"} <= plain
