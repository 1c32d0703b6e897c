#!/bin/bash
# A transfer on two nodes by hand. Give the same command on both, with the node's number and the first node's address:
#
#   bash examples/torchrun/two_nodes.sh 0 node0.lan my_transfer.yaml [key=value ...]     # on node0.lan
#   bash examples/torchrun/two_nodes.sh 1 node0.lan my_transfer.yaml [key=value ...]     # on the other
#
# Config, data and output must lie at the same paths on both; only the first node writes. PROCESSES is the number of
# processes on a node: as many as there are GPUs, unless it is set. On nodes with several networks,
# GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the interface to use.

if [ "$#" -lt 3 ]; then
  echo "usage: two_nodes.sh NUMBER FIRST_NODE CONFIG [key=value ...]" >&2
  exit 2
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec torchrun --nnodes 2 --node_rank "$1" --master_addr "$2" --master_port "${PORT:-29500}" \
  --nproc_per_node "${PROCESSES:-gpu}" -m pipelines transfer "${@:3}"
