"""A role's template, rendered with the variables that are there anyway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.template import trust_as_template

DOCUMENTATION = r"""
name: platform_template
short_description: Text of a rendered template
description:
  - Like C(ansible.builtin.template), which copies all variables of a host for each template that it renders; this one
    renders with the variables themselves.
options:
  _terms:
    description: Names of templates, looked for as C(ansible.builtin.template) does.
    required: true
"""


class LookupModule(LookupBase):
    def run(self, terms: Iterable[str], variables: Mapping[str, Any] | None = None, **_: Any) -> list[Any]:
        return [self._render(term, variables or {}) for term in terms]

    def _render(self, term: str, variables: Mapping[str, Any]) -> Any:
        path = self.find_file_in_search_path(variables, "templates", term)
        if not path:
            raise AnsibleLookupError(f"{term}: there is no such template")
        managed = {"ansible_managed": constants.config.get_config_value("DEFAULT_MANAGED_STR")}
        templar = self._templar.copy_with_new_env(
            available_variables={**managed, **variables}, searchpath=[str(Path(path).parent)]
        )
        return templar.template(
            trust_as_template(self._loader.get_text_file_contents(path)), escape_backslashes=False
        )
