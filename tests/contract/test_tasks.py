"""What tasks may and may not do, in roles and playbooks."""

from typing import Any

from contract.conftest import ROOT, every_task

COMMANDS = {"shell", "command", "raw", "script", "expect"}
COMMANDS |= {f"ansible.builtin.{name}" for name in COMMANDS} | {"community.docker.docker_container_exec"}
FORBIDDEN = {
    "ansible.builtin.pause",
    "ansible.builtin.lineinfile",
    "ansible.builtin.include_vars",
    "ansible.builtin.debug",
}
READ_OUT = {"playbooks/logs.yml", "playbooks/support.yml", "playbooks/status.yml"}


KEYWORDS = {
    "any_errors_fatal",
    "args",
    "async",
    "become",
    "become_user",
    "changed_when",
    "check_mode",
    "connection",
}
KEYWORDS |= {
    "delay",
    "delegate_to",
    "diff",
    "environment",
    "failed_when",
    "listen",
    "loop",
    "loop_control",
    "name",
    "no_log",
}
KEYWORDS |= {
    "notify",
    "poll",
    "register",
    "retries",
    "run_once",
    "tags",
    "throttle",
    "timeout",
    "until",
    "vars",
    "when",
}
KEYWORDS |= {"block", "rescue", "always"}


def module_of(task: dict[str, Any]) -> str:
    return next((key for key in task if key not in KEYWORDS), "")


def found(condition: Any) -> list[str]:
    return [f"{where}: {task.get('name')}" for where, task in every_task() if condition(where, task)]


def test_no_task_hides_its_failure() -> None:
    assert found(lambda _, task: "ignore_errors" in task or "ignore_unreachable" in task) == []


def test_commands_are_few_and_say_why_no_module_fits() -> None:
    commands = found(lambda _, task: module_of(task) in COMMANDS)
    assert len(commands) <= 15, commands
    unexplained = []
    for where, task in every_task():
        if module_of(task) in COMMANDS:
            lines = (ROOT / where).read_text().splitlines()
            at = next(number for number, line in enumerate(lines) if f"name: {task.get('name')}" in line)
            if not lines[at - 1].lstrip().startswith("#"):
                unexplained.append(f"{where}: {task.get('name')}")
    assert unexplained == []


def test_nothing_waits_for_a_time_or_edits_lines() -> None:
    assert found(lambda where, task: module_of(task) in FORBIDDEN - report_modules(where)) == []


def report_modules(where: str) -> set[str]:
    """A playbook that shows something to its operator may print it; so may the role that makes the report."""
    shows = where in READ_OUT or where.startswith("roles/platform_report/")
    return {"ansible.builtin.debug"} if shows else set()


def test_roles_are_entered_by_literal_names() -> None:
    def is_variable(_: str, task: dict[str, Any]) -> bool:
        call = next((task[key] for key in task if key.endswith(("import_role", "include_role"))), None)
        return call is not None and "{{" in str(call)

    assert found(is_variable) == []


def test_builtin_and_collection_modules_have_their_full_name() -> None:
    own = {path.stem for path in (ROOT / "library").glob("*.py")} | {
        path.stem for path in (ROOT / "plugins/action").glob("*.py")
    }
    assert (
        found(lambda _, task: module_of(task) and "." not in module_of(task) and module_of(task) not in own)
        == []
    )


def test_a_suite_is_asked_for_only_after_its_lists_were_fetched() -> None:
    """The apt module opens its cache with default_release before it updates: a new suite is refused then."""
    both = {"default_release", "update_cache"}
    assert found(lambda _, task: both <= set(task.get("ansible.builtin.apt") or {})) == []
