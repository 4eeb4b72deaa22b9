"""Tells somebody that a backup failed: a webhook (POST of JSON) and mail. It never makes a run fail itself."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.n8n_platform.backup import Definition
from ansible.module_utils.n8n_platform.http import HttpError, JsonClient

URL = "backup_notify_url"
_TIMEOUT = 20.0


def notify(definition: Definition, event: str, message: str, **fields: Any) -> list[str]:
    """Sends {event, environment, message, ...} wherever the definition says; what could not be delivered, in words."""
    settings = definition.values.get("notify") or {}
    body = {"event": event, "environment": definition.environment, "message": message, **fields}
    failures = []
    if settings.get("webhook"):
        failures += _post(definition, settings, body)
    if (settings.get("mail") or {}).get("to"):
        failures += _mail(definition, settings["mail"], body)
    return failures


def _post(definition: Definition, settings: dict[str, Any], body: dict[str, Any]) -> list[str]:
    # The address may carry a token: it is a secret and is not repeated in an error.
    try:
        url = urlsplit((definition.secrets_root / "host" / URL).read_text(encoding="utf-8").strip())
        client = JsonClient(
            f"{url.scheme}://{url.netloc}", timeout=_TIMEOUT, ca_file=settings.get("ca_file") or None
        )
        client.request("POST", (url.path or "/") + (f"?{url.query}" if url.query else ""), body)
    except HttpError as error:
        return [f"webhook: {f'status {error.status}' if error.status else 'no answer'}"]
    except (OSError, ValueError) as error:
        return [f"webhook: {type(error).__name__}"]
    return []


def _mail(definition: Definition, mail: dict[str, Any], body: dict[str, Any]) -> list[str]:
    """`mail`: {host, port, ssl, starttls, user, password (name of the secret), from, to}."""
    message = EmailMessage()
    message["Subject"] = f"[{definition.environment}] {body['event']}: {body['message']}"[:150].replace(
        "\n", " "
    )
    message["From"], message["To"] = mail["from"], ", ".join(mail["to"])
    message.set_content("\n".join(f"{key}: {value}" for key, value in body.items()))
    context = ssl.create_default_context(cafile=mail.get("ca_file") or None)
    try:
        if mail.get("ssl"):
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                mail["host"], mail["port"], timeout=_TIMEOUT, context=context
            )
        else:
            server = smtplib.SMTP(mail["host"], mail["port"], timeout=_TIMEOUT)
        with server:
            if not mail.get("ssl") and mail.get("starttls"):
                server.starttls(context=context)
            if mail.get("user"):
                password = definition.secret_file(mail["password"]).read_text(encoding="utf-8").strip()
                server.login(mail["user"], password)
            server.send_message(message)
    except Exception as error:
        return [f"mail: {type(error).__name__}"]
    return []
