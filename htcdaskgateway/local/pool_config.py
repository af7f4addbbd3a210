"""HTCondor's configuration of the personal pool."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..condor.quoting import quote_config
from ..errors import ConfigError
from .errors import LocalSystemError

HOST = "127.0.0.1"
DOMAIN = "pool.test"

CONFIG: dict[str, object] = {
    "LOCAL_CONFIG_FILE": "",
    "LOCAL_CONFIG_DIR": "",
    "USER_CONFIG_FILE": "",
    "SHARE": "$(RELEASE_DIR)/share/condor",
    "ETC": "$(LOCAL_DIR)",
    "RUN": "$(LOCAL_DIR)/run",
    "LOG": "$(LOCAL_DIR)/log",
    "LOCK": "$(LOCAL_DIR)/lock",
    "SPOOL": "$(LOCAL_DIR)/spool",
    "EXECUTE": "$(LOCAL_DIR)/execute",
    "SEC_CREDENTIAL_DIRECTORY": "$(LOCAL_DIR)/cred",
    "CONDOR_HOST": HOST,
    "NETWORK_INTERFACE": HOST,
    "BIND_ALL_INTERFACES": "false",
    "ENABLE_IPV6": "false",
    "NETWORK_HOSTNAME": "localhost",
    "USE_SHARED_PORT": "true",
    "COLLECTOR_HOST": "$(CONDOR_HOST):$(SHARED_PORT_PORT)",
    "UID_DOMAIN": DOMAIN,
    "FILESYSTEM_DOMAIN": DOMAIN,
    "TRUST_DOMAIN": DOMAIN,
    "TRUST_UID_DOMAIN": "true",
    "EMAIL_DOMAIN": DOMAIN,
    "CONDOR_ADMIN": "",
    "MAIL": "/bin/true",
    "SCHEDD_NAME": "schedd@",
    "SEC_DEFAULT_AUTHENTICATION": "REQUIRED",
    "SEC_DEFAULT_AUTHENTICATION_METHODS": "FS, IDTOKENS",
    "SEC_DEFAULT_INTEGRITY": "REQUIRED",
    "SEC_PASSWORD_DIRECTORY": "$(LOCAL_DIR)/passwords.d",
    "SEC_TOKEN_POOL_SIGNING_KEY_FILE": "$(LOCAL_DIR)/passwords.d/POOL",
    "SEC_TOKEN_SYSTEM_DIRECTORY": "$(LOCAL_DIR)/tokens.d",
    "DAEMON_LIST": "MASTER, COLLECTOR, NEGOTIATOR, SCHEDD, STARTD",
    "RESERVED_DISK": 0,
    "NUM_SLOTS_TYPE_1": 1,
    "SLOT_TYPE_1": "100%",
    "SLOT_TYPE_1_PARTITIONABLE": "true",
    # Without this, plugins in Python are asked and log the modules that they miss.
    "FILETRANSFER_PLUGINS": "$(LIBEXEC)/curl_plugin, $(LIBEXEC)/data_plugin",
    "START": "true",
    "SUSPEND": "false",
    "PREEMPT": "false",
    "KILL": "false",
    "RUNBENCHMARKS": "false",
    "BASE_CGROUP": "",
    "NEGOTIATOR_INTERVAL": 2,
    "NEGOTIATOR_MIN_INTERVAL": 1,
    "NEGOTIATOR_CYCLE_DELAY": 1,
    "SCHEDD_INTERVAL": 5,
    "SCHEDD_MIN_INTERVAL": 1,
    "UPDATE_INTERVAL": 5,
    "JOB_START_DELAY": 0,
    "PERIODIC_EXPR_INTERVAL": 5,
    # By default a hundredth of the time: on a busy machine a look of half a second puts the next one off by 50 s.
    "PERIODIC_EXPR_TIMESLICE": 0.5,
    "MAX_JOBS_PER_OWNER": 200000,
    "MAX_JOBS_PER_SUBMISSION": 200000,
}


def config_lines(values: Mapping[str, object]) -> str:
    """Return assignments in HTCondor's configuration language; no value can add a line."""
    try:
        return "".join(f"{quote_config(name, value)}\n" for name, value in values.items())
    except ConfigError as error:
        raise LocalSystemError(str(error)) from None


def plain_path(path: Path) -> str:
    """Give the path's text if HTCondor's configuration takes it as it is."""
    text = os.fspath(path)
    if re.search(r"[\s$,\"'\\]", text):
        raise LocalSystemError(f"{text!r}: HTCondor needs a path without spaces, commas, quotes, $ and backslashes")
    return text
