"""What the controller does once for all tasks, and how it renders templates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COUNTING = """
from pathlib import Path

with Path("{log}").open("a") as log:
    log.write("loaded\\n")


class FilterModule:
    def filters(self):
        return {{"counted": str}}
"""
TEMPLATE = """# {{ ansible_managed }}
{% set total = [] %}
{% for number in numbers %}
{{ number }} of {{ name }}\\n
{%- set _ = total.append(number) %}

{% endfor %}
{{ total | sum }} {{ nested.value }}
"""


def play(folder: Path, tasks: list[dict[str, Any]], **settings: str) -> dict[str, Any]:
    """What the tasks have written to `folder`/result.json, if anything. The tasks run on this machine."""
    book = folder / "book.yml"
    book.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(folder),
        "ANSIBLE_LOOKUP_PLUGINS": str(ROOT / "plugins/lookup"),
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "plugins/callback"),
        "ANSIBLE_REMOTE_TMP": str(folder / "tmp"),
        **settings,
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local"]
    done = subprocess.run(
        [*command, str(book)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = folder / "result.json"
    return dict(json.loads(result.read_text())) if result.exists() else {}


# The second says what the first is for: should Ansible once do so by itself, the callback can go.
@pytest.mark.parametrize(
    ("settings", "times"), [({"ANSIBLE_CALLBACKS_ENABLED": "platform_preload"}, 1), ({}, 3)]
)
def test_filters_are_loaded_once_for_all_tasks(tmp_path: Path, settings: dict[str, str], times: int) -> None:
    log = tmp_path / "log"
    (tmp_path / "filters").mkdir()
    (tmp_path / "filters/counted.py").write_text(COUNTING.format(log=log))
    tasks = [{"ansible.builtin.debug": {"msg": "{{ 1 | counted }}"}}] * 3
    play(tmp_path, tasks, ANSIBLE_FILTER_PLUGINS=str(tmp_path / "filters"), **settings)
    assert len(log.read_text().splitlines()) == times


MODULE = """from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.told import TOLD
import json
from pathlib import Path

module = AnsibleModule({"path": {"type": "path"}})
Path(module.params["path"]).write_text(json.dumps({"told": TOLD}))
module.exit_json()
"""


def test_modules_are_packed_once_for_each_state_of_their_sources(tmp_path: Path) -> None:
    cache, library, utils = (tmp_path / name for name in ("cache", "library", "utils"))
    library.mkdir()
    utils.mkdir()
    (library / "tell.py").write_text(MODULE)
    settings = {
        "ANSIBLE_CALLBACKS_ENABLED": "platform_module_cache",
        "ANSIBLE_LIBRARY": str(library),
        "ANSIBLE_MODULE_UTILS": str(utils),
        "PLATFORM_MODULE_CACHE": str(cache),
    }

    def told() -> tuple[str, dict[Path, int]]:
        result = play(tmp_path, [{"tell": {"path": str(tmp_path / "result.json")}}], **settings)
        packed = [path for path in cache.glob("*/*.tell-*") if path.suffix != ".lock"]
        return result["told"], {path: path.stat().st_mtime_ns for path in packed}

    (utils / "told.py").write_text("TOLD = 'one'\n")
    first, packed = told()
    assert told() == (first, packed) and len(packed) == 1, "it was packed again"
    (utils / "told.py").write_text("TOLD = 'three'\n")
    other, more = told()
    assert (first, other) == ("one", "three") and packed.items() < more.items()


@pytest.mark.parametrize("cache", ["", "/proc/nowhere"])
def test_without_a_place_to_keep_them_modules_are_packed_as_ever(tmp_path: Path, cache: str) -> None:
    copy = {"content": "{}", "dest": str(tmp_path / "result.json"), "mode": "0600"}
    settings = {"ANSIBLE_CALLBACKS_ENABLED": "platform_module_cache", "PLATFORM_MODULE_CACHE": cache}
    assert play(tmp_path, [{"ansible.builtin.copy": copy}], **settings) == {}
    assert (tmp_path / "result.json").exists()


def test_a_template_comes_out_as_ansible_renders_it(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/one.j2").write_text(TEMPLATE)
    names = {"own": "platform_template", "builtin": "ansible.builtin.template"}
    rendered = {key: f"{{{{ lookup('{name}', 'one.j2') }}}}" for key, name in names.items()}
    variables = {"numbers": [1, 2], "name": "{{ 'x' * 2 }}", "nested": {"value": "{{ name }}"}, **rendered}
    content = "{{ {'own': own, 'builtin': builtin} | to_json }}"
    copy = {"content": content, "dest": str(tmp_path / "result.json"), "mode": "0600"}
    result = play(tmp_path, [{"ansible.builtin.copy": copy, "vars": variables}])
    assert result["own"] == result["builtin"]
    assert "1 of xx" in result["own"] and result["own"].endswith("3 xx\n")


def test_a_template_that_is_not_there_is_named(tmp_path: Path) -> None:
    debug = {"ansible.builtin.debug": {"msg": "{{ lookup('platform_template', 'none.j2') }}"}}
    with pytest.raises(AssertionError, match=r"none\.j2: there is no such template"):
        play(tmp_path, [debug])
