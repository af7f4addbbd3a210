"""A JupyterHub on loopback, with the gateway as its service and the roles of the administrators' page."""

import json
import os
import re
import sys
from pathlib import Path

from traitlets.config import get_config

c = get_config()
told = json.loads(os.environ["HUB"])
place = Path(told["directory"])

c.JupyterHub.bind_url = f"http://127.0.0.1:{told['public']}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{told['hub']}"
c.JupyterHub.db_url = f"sqlite:///{place}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = str(place / "cookie_secret")
c.ConfigurableHTTPProxy.command = [told["proxy"]]
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{told['proxy_api']}"
c.ConfigurableHTTPProxy.pid_file = str(place / "proxy.pid")
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = told["password"]
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = f"{place}/home/{{username}}"
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root"] if os.getuid() == 0 else []
c.Spawner.env_keep = ["PATH", "LANG"]
c.Spawner.environment = {
    **told["environ"],
    "CONDOR_CONFIG": lambda spawner: f"{place}/home/{spawner.user.name}/condor_config",
}
c.Spawner.start_timeout = 120
c.JupyterHub.services = [
    {"name": "dask-gateway", "url": told["gateway"], "api_token": told["gateway_token"], "display": False},
    {"name": "people", "api_token": told["people_token"]},
]
# The page's own lines, and the right to play the people.
page = Path(told["page"]).read_text()
exec(re.search(r"^```python\n(c\.JupyterHub\.load_roles.*?)^```", page, re.M | re.S)[1])
if told["without_scope"]:
    for role in c.JupyterHub.load_roles:
        role["scopes"] = [scope for scope in role["scopes"] if "dask-gateway" not in scope]
people = ["admin:users", "admin:servers", "access:servers", "tokens", "read:hub"]
c.JupyterHub.load_roles.append({"name": "people", "services": ["people"], "scopes": people})
