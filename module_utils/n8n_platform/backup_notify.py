"""Tells somebody that a backup failed: a webhook (POST of JSON) and mail. It never makes a run fail itself."""

from __future__ import annotations

import json
import smtplib
import ssl
import urllib.error
import urllib.request
from email.message import EmailMessage
from typing import Any

from ansible.module_utils.n8n_platform.backup import Definition

URL = "backup_notify_url"
_TIMEOUT = 20.0


def notify(definition: Definition, event: str, message: str, **fields: Any) -> list[str]:
    """Sends {event, environment, message, ...} wherever the definition says ({webhook: bool, mail, ca: PEM that is
    trusted besides the system's}); what could not be delivered, in words."""
    settings = definition.values.get("notify") or {}
    body = {"event": event, "environment": definition.environment, "message": message, **fields}
    failures = []
    if "webhook" in receivers(definition):
        failures += _post(definition, _context(settings), body)
    if "mail" in receivers(definition):
        failures += _mail(definition, _context(settings), settings["mail"], body)
    return failures


def receivers(definition: Definition) -> list[str]:
    """The ways by which somebody is told: webhook, mail, both or none."""
    settings = definition.values.get("notify") or {}
    wanted = {"webhook": settings.get("webhook"), "mail": (settings.get("mail") or {}).get("to")}
    return [name for name, on in wanted.items() if on]


def _context(settings: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    # From 3.13 on Python asks for extensions that many an organisation's own authority leaves out.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if settings.get("ca"):
        context.load_verify_locations(cadata=settings["ca"])
    return context


def _post(definition: Definition, context: ssl.SSLContext, body: dict[str, Any]) -> list[str]:
    # The address may carry a token: it is a secret and is not repeated in an error.
    try:
        url = (definition.secrets_root / "host" / URL).read_text(encoding="utf-8").strip()
        headers = {"Content-Type": "application/json", "User-Agent": "n8n-platform"}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        urllib.request.urlopen(request, timeout=_TIMEOUT, context=context).close()
    except urllib.error.HTTPError as error:
        return [f"webhook: status {error.code}"]
    except Exception as error:
        return [f"webhook: no answer ({type(error).__name__})"]
    return []


def _mail(
    definition: Definition, context: ssl.SSLContext, mail: dict[str, Any], body: dict[str, Any]
) -> list[str]:
    """`mail`: {host, port, ssl, starttls, user, password (name of the secret), from, to}."""
    message = EmailMessage()
    subject = " ".join(f"[{definition.environment}] {body['event']}: {body['message']}".split())
    message["Subject"] = subject[:150]
    message["From"], message["To"] = mail["from"], ", ".join(mail["to"])
    message.set_content("\n".join(f"{key}: {value}" for key, value in body.items()))
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
