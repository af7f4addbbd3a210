"""The Helm values of the administrators' page, by the chart's own schema and in a real server.

`chart/` holds the schema, the values and the licence of dask-gateway's Helm chart, as its authors published them.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from dask_gateway import Gateway
from dask_gateway.auth import BasicAuth
from dask_gateway.client import GatewayWarning
from traitlets.config import Config

from htcdaskgateway.local import GatewayServer

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/administrators.md"


def documented() -> dict[str, Any]:
    """Return the values that the page gives."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    (values,) = [found for found in map(yaml.safe_load, blocks) if "traefik" in found]
    return values  # type: ignore[no-any-return]


def check(values: dict[str, Any]) -> None:
    """Check values, above the chart's own, by its schema."""
    schema, defaults = (
        yaml.safe_load((HERE / "chart" / name).read_text()) for name in ("values.schema.yaml", "values.yaml")
    )
    jsonschema.validate(_merged(defaults, values), schema)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return merged


def python() -> str:
    """Return the Python of the values, in the order in which the chart has it run."""
    extra = documented()["gateway"]["extraConfig"]
    return "\n".join(extra[key] for key in sorted(extra))


def test_the_chart_takes_the_values_of_the_page() -> None:
    check(documented())


@pytest.mark.parametrize(
    "wrong",
    [
        {"traefik": {"service": {"ports": {"tcpp": {"port": 8786}}}}},
        {"gateway": {"extraConfigs": {}}},
        {"gateway": {"auth": {"type": "jupyter"}}},
    ],
)
def test_the_chart_would_refuse_a_misspelt_value(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(wrong)


def test_the_python_of_the_values_says_what_the_page_says() -> None:
    config = Config()
    exec(compile(python(), str(PAGE), "exec"), {"c": config})
    assert config.ClusterConfig.cluster_max_workers == 0
    assert config.ClusterConfig.scheduler_cmd == ["dask", "scheduler"]
    assert config.ClusterConfig.idle_timeout == 3600


@pytest.mark.long
def test_a_real_server_runs_the_values_python_and_makes_clusters() -> None:
    extra = documented()["gateway"]["extraConfig"]
    # Which command there is on this machine is the local server's to know.
    text = "\n".join(extra[key] for key in sorted(extra) if "command" not in key)
    with (
        GatewayServer(extra_config=text) as server,
        Gateway(
            server.address, proxy_address=server.proxy_address, auth=BasicAuth(password=server.password)
        ) as gateway,
    ):
        assert gateway.cluster_options().image == "ghcr.io/dask/dask-gateway:2026.3.0"
        with gateway.new_cluster(image="site/image:1") as cluster:
            assert gateway.get_cluster(cluster.name).options == {"image": "site/image:1"}
            with pytest.warns(GatewayWarning, match="limit of 0 workers"):
                cluster.scale(1)
