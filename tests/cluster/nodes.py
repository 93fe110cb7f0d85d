"""A Ray cluster of several nodes on this machine: prints its address, and ends with standard input.

Usage: python nodes.py NUMBER. Each node has one logical GPU; the first is the head.
"""

import sys

from ray.cluster_utils import Cluster

cluster = Cluster()
for _ in range(int(sys.argv[1])):
    cluster.add_node(num_cpus=8, num_gpus=1, object_store_memory=200 * 2**20, include_dashboard=False)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
