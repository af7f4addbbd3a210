"""What setup_condor was told: options over the environment over a .env file over dask's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import config
from ..errors import ConfigError
from ..sites.paths import expand

FACTORS = ("push", "phone", "sms", "passcode", "ask")
_HOST = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:,@\[\] -]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+\\-]*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")


@dataclass(frozen=True)
class Settings:
    """What setup_condor does; each field is the configuration's key of that name, in seconds where it is a time."""

    login_host: str
    user: str | None = None
    port: int | None = None
    ssh_options: tuple[str, ...] = ()
    host_key: str | None = None
    duo: str = "push"
    schedd: str | None = None
    collector: str | None = None
    trust_domain: str | None = None
    uid_domain: str | None = None
    filesystem_domain: str | None = None
    condor_settings: Mapping[str, str] = field(default_factory=dict)
    token_command: str = "condor_token_fetch"  # noqa: S105 - a program's name
    token_lifetime: int | None = None
    token_name: str = "htcdaskgateway"  # noqa: S105 - a file's name
    token_directory: Path = Path("~/.condor/tokens.d")
    condor_config: Path | None = None
    connect_timeout: float = 20
    answer_timeout: float = 60
    duo_timeout: float = 180
    ask_timeout: float = 300


def load(options: Mapping[str, Any]) -> Settings:
    """Return the settings: what `options` says, and the configuration where it has None or an empty tuple."""

    def value(name: str) -> Any:
        given = options.get(name)
        return config.get(f"setup.{name}") if given is None or given == () else given

    def text(name: str, pattern: re.Pattern[str]) -> str | None:
        found = value(name)
        if found is None or found == "":
            return None
        if not pattern.fullmatch(str(found)):
            raise ConfigError(f"{name}: {str(found)!r} cannot be used")
        return str(found)

    def required(name: str, pattern: re.Pattern[str]) -> str:
        found = text(name, pattern)
        if found is None:
            raise ConfigError(
                f"{name}: not given; set htcdaskgateway.setup.{name} or --{name}, "
                "or choose your site with htcdaskgateway.site"
            )
        return found

    def seconds(name: str) -> float:
        return config.parse_seconds(value(name), name)

    host, user = required("login-host", _HOST), text("user", _USER)
    named, at, rest = host.rpartition("@")
    if at:
        if not rest or not _USER.fullmatch(named) or user not in (None, named):
            raise ConfigError(f"login-host: {host!r} cannot be used" + (f" with the user {user!r}" if user else ""))
        host, user = rest, named
    directory = expand(str(value("token-directory")), "token-directory").absolute()
    if Path.home().is_relative_to(directory):
        raise ConfigError(f"token-directory: HTCondor reads each file there as a token, so {directory} is none")
    lifetime = value("token-lifetime")
    target = value("condor-config")
    return Settings(
        login_host=host,
        user=user,
        port=_port(value("port")),
        ssh_options=_ssh_options(value("ssh-options")),
        host_key=_host_key(value("host-key")),
        duo=_factor(value("duo")),
        schedd=text("schedd", _HOST),
        collector=text("collector", _HOST),
        trust_domain=text("trust-domain", _HOST),
        uid_domain=text("uid-domain", _HOST),
        filesystem_domain=text("filesystem-domain", _HOST),
        condor_settings={str(name): str(one) for name, one in (value("condor-settings") or {}).items()},
        token_command=str(value("token-command")),
        token_lifetime=None if lifetime is None else max(1, int(config.parse_seconds(lifetime, "token-lifetime"))),
        token_name=required("token-name", _NAME),
        token_directory=directory,
        condor_config=expand(str(target), "condor-config").absolute() if target else None,
        connect_timeout=seconds("connect-timeout"),
        answer_timeout=seconds("answer-timeout"),
        duo_timeout=seconds("duo-timeout"),
        ask_timeout=seconds("ask-timeout"),
    )


def _port(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if not str(value).isdecimal() or not 0 < int(value) < 65536:
        raise ConfigError(f"port: {value!r} is not a port")
    return int(value)


def _factor(value: Any) -> str:
    factor = str(value).strip().lower()
    if factor not in FACTORS and not re.fullmatch(r"[1-9]\d?", factor):
        raise ConfigError(f"duo: {value!r} is neither {', '.join(FACTORS)} nor the number of an option")
    return factor


def _host_key(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not re.fullmatch(r"(SHA256|MD5):[A-Za-z0-9+/=:]+", str(value)):
        raise ConfigError(f"host-key: {value!r} is not a fingerprint such as SHA256:...")
    return str(value)


def _ssh_options(value: Any) -> tuple[str, ...]:
    found = tuple(str(option).strip() for option in ([value] if isinstance(value, str) else value or ()))
    for option in found:
        name, _, argument = re.sub(r"[\s=]+", "=", option, count=1).partition("=")
        if not re.fullmatch(r"[A-Za-z0-9]+", name) or not argument or re.search(r"[\r\n\0]", option):
            raise ConfigError(f"ssh-options: {option!r} is not of the form Name=value")
        if name.lower() == "stricthostkeychecking" and argument.strip('" ').lower() not in ("yes", "ask"):
            raise ConfigError(f"ssh-options: {option!r}: the login node's key is always checked")
        if name.lower().endswith("knownhostsfile") and "/dev/null" in argument:
            raise ConfigError(f"ssh-options: {option!r}: the login node's key is always checked")
    return found
