"""A mail server for tests, which takes mail by STARTTLS and with a password only."""

from __future__ import annotations

import hashlib
import html
import re
import ssl
from contextlib import ExitStack
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.certificates import Authority
from tests.support.deployment import wait_until
from tests.support.gateway import gateway

# molecule/core/inventory names the address, and the file of the authority, too.
NETWORK = "n8n-platform-test-mail"
SUBNET, ADDRESS, PORT = "10.203.4.0/28", "10.203.4.1", 2525
LOGIN = LoginPassword(b"n8n", hashlib.sha256(b"smtp").hexdigest().encode())
CACHE = Path("/var/cache/n8n-platform/test-mail")


def authority() -> Authority:
    """Signs the server's certificate. Kept, so that a deployment which trusts it need not change."""
    return Authority(CACHE)


class MailServer:
    """Listens on ADDRESS while the block lasts."""

    def __init__(self, directory: Path) -> None:
        self.received: list[EmailMessage] = []
        self._directory = directory
        self._stack = ExitStack()

    def __enter__(self) -> MailServer:
        with self._stack as stack:
            stack.enter_context(gateway(NETWORK, SUBNET, ADDRESS))
            controller = Controller(
                self,
                hostname=ADDRESS,
                port=PORT,
                tls_context=self._tls(),
                require_starttls=True,
                auth_required=True,
                authenticator=_authenticate,
            )
            controller.start()
            stack.callback(controller.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Called by aiosmtpd."""
        content = envelope.content
        assert isinstance(content, bytes)
        self.received.append(message_from_bytes(content, policy=policy.default))  # type: ignore[arg-type]
        return "250 OK"

    def mail_to(self, recipient: str) -> EmailMessage:
        """The newest mail to an address, waited for."""

        def newest() -> EmailMessage | None:
            return next((mail for mail in reversed(self.received) if recipient in mail["To"]), None)

        found: EmailMessage = wait_until(newest, f"a mail to {recipient}", 20)
        return found

    def _tls(self) -> ssl.SSLContext:
        certificate, key = self._directory / "mail.crt", self._directory / "mail.key"
        authority().issue(certificate, key, [ADDRESS], last_day=2)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        return context


def _authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any) -> AuthResult:
    return AuthResult(success=given == LOGIN)


def link(mail: EmailMessage, path: str) -> str:
    """The one address in the mail's HTML whose path is `path`."""
    part = mail.get_body(("html",))
    assert part, mail.as_string()[:2000]
    addresses = [html.unescape(address) for address in re.findall(r'href="(http[^"]+)"', part.get_content())]
    (found,) = [address for address in addresses if path in address]
    return found
