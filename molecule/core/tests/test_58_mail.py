"""n8n's mails reach a mail server that insists on TLS and a password, and lead back to the public address."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.support.deployment import Deployment
from tests.support.docs import doc_block
from tests.support.hook import hook
from tests.support.n8n_rest import Editor
from tests.support.restoring import succeeds
from tests.support.smtp import MailServer, link


@pytest.fixture(scope="module")
def mail_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailServer]:
    with MailServer(tmp_path_factory.mktemp("mail")) as server:
        yield server


@pytest.fixture
def operator(core: Deployment) -> dict[str, str]:
    login = f"admin:{core.secret('host', 'traefik_operator_password')}"
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def test_an_invitation_arrives_and_its_link_is_good(
    core: Deployment, editor: Editor, mail_server: MailServer, operator: dict[str, str]
) -> None:
    address = f"member-{uuid4().hex[:8]}@example.org"
    ((invited,),) = [editor.rest("POST", "/invitations", [{"email": address, "role": "global:member"}])]
    try:
        assert invited["user"]["emailSent"] is True, invited
        assert "inviteAcceptUrl" not in invited["user"], "the link is for the invited alone"
        mail = mail_server.mail_to(address)
        assert f"n8n@n8n.{core.domain}" in mail["From"]
        url = urlsplit(link(mail, "/signup"))
        assert f"{url.scheme}://{url.netloc}" == f"https://n8n.{core.domain}:{core.https_port}"
        status, _, body = core.request("GET", f"/rest/resolve-signup-token?{url.query}", headers=operator)
        assert (status, "inviter" in json.loads(body)["data"]) == (200, True)
    finally:
        editor.rest("DELETE", f"/users/{invited['user']['id']}")


def test_a_password_reset_arrives_and_its_link_is_good(
    core: Deployment, mail_server: MailServer, operator: dict[str, str]
) -> None:
    ((address,),) = core.sql('SELECT email FROM "user" WHERE "roleSlug" = \'global:owner\'')
    headers = operator | {"Content-Type": "application/json"}
    asked = json.dumps({"email": address}).encode()
    assert core.request("POST", "/rest/forgot-password", body=asked, headers=headers)[0] == 200
    url = urlsplit(link(mail_server.mail_to(address), "/change-password"))
    assert f"{url.scheme}://{url.netloc}" == f"https://n8n.{core.domain}:{core.https_port}"
    assert core.request("GET", f"{url.path}?{url.query}", headers=operator)[0] == 200
    assert core.request("GET", f"/rest/resolve-password-token?{url.query}", headers=operator)[0] == 200


@pytest.mark.full
def test_who_is_told_of_failed_backups_can_be_tried(core: Deployment, mail_server: MailServer) -> None:
    command = doc_block("backup-notify").strip().replace("/production/", f"/{core.name}/")
    with hook() as (url, told):
        try:
            core.converge(backup_notify_url=url, backup_mail_to=["operator@example.org"])
            assert "told by webhook and mail" in succeeds(command)
            mail = mail_server.mail_to("operator@example.org")
        finally:
            core.converge()
    assert [(each["event"], each["environment"]) for each in told] == [("test", core.name)]
    assert mail["Subject"].startswith(f"[{core.name}] test: ")
