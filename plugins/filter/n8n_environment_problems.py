"""What n8n would misread in its environment, said before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ansible.module_utils
from ansible import constants

# Ansible finds the project's module_utils for modules, not for its own process.
ansible.module_utils.__path__ += constants.DEFAULT_MODULE_UTILS_PATH
from ansible.module_utils.n8n_platform.n8n_environment import check  # noqa: E402 (see above)


def n8n_environment_problems(
    managed: Mapping[str, Mapping[str, Any]], extra: Mapping[str, Any], known: Mapping[str, Any]
) -> list[str]:
    """All that is wrong with `extra`, the operator's variables, and with `managed`, {process: {name: value}}.

    `known` is the list that bin/n8n-environment makes of n8n's package. The platform's own variables are held to the
    same rules, ownership aside.
    """
    found = [f"n8n_environment_extra: {finding}" for finding in check(extra, known)]
    for process, variables in managed.items():
        found += [f"{process}: {finding}" for finding in check(variables, known, operator=False)]
    return found


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"n8n_environment_problems": n8n_environment_problems}
