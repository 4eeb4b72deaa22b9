"""What a module reports holds no secret, and still says what it is about."""

from __future__ import annotations

from types import SimpleNamespace

from ansible.module_utils.n8n_platform import redact


def test_values_are_replaced_wherever_they_stand() -> None:
    data = {"url": "redis://n8n:geheim@redis", "list": ["geheim", 3, None], "geheim": ("geheimer",)}
    masked = redact.redact_values(data, ["geheim", "", "geheimer"])
    assert masked == {
        "url": f"redis://n8n:{redact.MASK}@redis",
        "list": [redact.MASK, 3, None],
        redact.MASK: [redact.MASK],
    }


def test_the_longer_value_goes_first() -> None:
    assert redact.redact_values("geheimnis", ["geheim", "geheimnis"]) == redact.MASK


def test_keys_that_sound_secret_hide_what_is_below_them() -> None:
    data = {"apiKey": "x", "db": {"DB_PASSWORD": "y", "host": "z"}, "tokens": ["a"], "note": "", "secret": ""}
    assert redact.redact_keys([data]) == [
        {
            "apiKey": redact.MASK,
            "db": {"DB_PASSWORD": redact.MASK, "host": "z"},
            "tokens": redact.MASK,
            "note": "",
            "secret": "",
        }
    ]


def test_withheld_values_leave_parameters_and_masking() -> None:
    entries = [
        {"name": "smtp", "value": "n8n"},
        {"name": "other", "value": None},
        {"name": "empty", "value": ""},
    ]
    module = SimpleNamespace(params={"secrets": entries}, no_log_values={"n8n", "kept"})
    assert redact.withhold(module, "secrets", "value") == {"smtp": "n8n"}
    assert all("value" not in entry for entry in module.params["secrets"])
    assert module.no_log_values == {"kept"}
