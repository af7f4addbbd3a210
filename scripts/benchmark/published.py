"""The submission code of the published ncsa-htcdaskgateway 1.0.4, in its own environment.

A program: reads numbers of workers from its standard input, submits that many jobs with 1.0.4's own method on an
object that has what it needs, and answers with the seconds that it took.
"""

import sys
import time
from types import SimpleNamespace

from htcdaskgateway import HTCGatewayCluster


def main():
    """Answer each number with the seconds that its submit took."""
    cluster = SimpleNamespace(
        security=SimpleNamespace(tls_cert="certificate", tls_key="key"),
        name="published",
        container_image="/image.sif",
        condor_bin_dir=sys.argv[1],
        scheduler_proxy_ip="localhost",
    )
    cluster._get_stage_dir = lambda: HTCGatewayCluster._get_stage_dir(cluster)
    for line in sys.stdin:
        begin = time.perf_counter()
        HTCGatewayCluster.scale_batch_workers(cluster, int(line))
        print(f"took {time.perf_counter() - begin}", flush=True)


main()
