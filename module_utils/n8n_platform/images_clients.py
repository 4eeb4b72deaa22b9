"""What a build gets to see of the host's package clients: where packages come from, but no path of the host."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.apt_sources import first_address

# Settings that hold a path of the host or that a build gives itself.
PIP_LEFT_OUT = {
    "cert",
    "client-cert",
    "find-links",
    "cache-dir",
    "log",
    "target",
    "prefix",
    "require-virtualenv",
}
NPM_LEFT_OUT = {"cafile", "cache", "prefix", "nodedir", "userconfig", "globalconfig", "init-module", "tmp"}
PIP_FILES = ("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")
NPM_FILES = ("/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc", "~/.npmrc")


def texts(names: tuple[str, ...]) -> list[str]:
    """Contents of those of the files that exist."""
    return [path.read_text() for name in names if (path := Path(name).expanduser()).is_file()]


def debian_mirrors(entries: list[dict[str, Any]]) -> tuple[str, str]:
    """Debian's archive and its security archive among the host's apt entries, empty where it has none.

    Mirrors keep the last part of the path (debian, debian-security, debian-remote, ...); other vendors' repositories
    that end the same way have no component `main`. Of a list of mirrors it is the first.
    """
    archive = security = ""
    for entry in entries:
        for uri in (first_address(uri).rstrip("/") for uri in entry["uris"]):
            if "main" not in entry["components"] or not uri.rpartition("/")[2].startswith("debian"):
                continue
            if any(suite.endswith(("-security", "/updates")) for suite in entry["suites"]):
                security = security or uri
            else:
                archive = archive or uri
    return archive, security


def apt_sources(suite: str, archive: str, security: str) -> str:
    """A deb822 file for one suite; the security archive only where the host has one."""
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    stanza = f"Types: deb\nURIs: {{}}\nSuites: {{}}\nComponents: main\nSigned-By: {keyring}\n"
    text = stanza.format(archive, f"{suite} {suite}-updates")
    if security:
        text += "\n" + stanza.format(security, f"{suite}-security")
    return text


def apt_conf(dump: str, ca_file: str, proxy: str = "") -> str:
    """Of `apt-config dump`, how the host reaches its mirror: proxies, checks of dates, time-outs and TLS settings."""
    wanted = re.compile(r"Acquire::(https?::|Check-|Retries|ForceIPv)", re.IGNORECASE)
    lines = [
        line
        for line in dump.splitlines()
        if wanted.match(line) and not re.search(r"::(CaInfo|CaPath) ", line)
    ]
    if proxy:
        lines.append(f'Acquire::http::Proxy "{proxy}";')
    lines.append(f'Acquire::https::CaInfo "{ca_file}";')
    return "\n".join(lines) + "\n"


def pip_conf(texts: list[str], environment: dict[str, str]) -> str:
    """The host's pip settings as one file: its files in pip's order, then PIP_* of the environment."""
    merged: dict[str, str] = {}
    for text in texts:
        parser = configparser.RawConfigParser()
        parser.read_string(text)
        for section in ("global", "download"):
            if parser.has_section(section):
                merged.update({key.replace("_", "-"): value for key, value in parser.items(section)})
    for name, value in environment.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE":
            merged[name[4:].lower().replace("_", "-")] = value
    lines = []
    for key, value in sorted(merged.items()):
        if key not in PIP_LEFT_OUT:
            lines.append(f"{key} = " + value.strip().replace("\n", "\n    "))
    return "[global]\n" + "".join(f"{line}\n" for line in lines)


def npmrc(texts: list[str], environment: dict[str, str]) -> str:
    """The host's npm settings as one file: its files in npm's order, then npm_config_* of the environment."""
    merged: dict[str, str] = {}
    for text in texts:
        for line in text.splitlines():
            key, separator, value = line.strip().partition("=")
            if separator and not key.startswith(("#", ";")):
                merged[key.strip()] = value.strip()
    for name, value in environment.items():
        if name.lower().startswith("npm_config_"):
            merged[name[11:].lower().replace("_", "-")] = value
    return "".join(f"{key}={value}\n" for key, value in sorted(merged.items()) if key not in NPM_LEFT_OUT)
