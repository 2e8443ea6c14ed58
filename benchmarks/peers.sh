#!/usr/bin/env bash
# The libraries that benchmarks/scan.py and .ci/peers compare with, each in a virtual environment that clashes with nobody:
# benchmarks/peers.sh
#
# They are in $PEERS_DIR, or build/peers. torch has snnTorch, Norse, SpikingJelly, sinabs and tonic; without their dependencies, which
# would bring a torchvision for another torch. jax has JAX, Spyx and jaxpike.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=${PEERS_DIR:-build/peers}
mkdir -p "$peers"
python3 -m venv "$peers/torch"
"$peers/torch/bin/pip" install -q -c constraints.txt torch snntorch==1.0.0 numpy scipy matplotlib tqdm loguru pbr nir nirtorch
"$peers/torch/bin/pip" install -q --no-deps norse==1.1.0 spikingjelly==2.0.0 sinabs==3.1.3
"$peers/torch/bin/pip" install -q h5py requests
"$peers/torch/bin/pip" install -q --no-deps tonic==1.7.0 importRosbag expelliarmus
python3 -m venv "$peers/jax"
"$peers/jax/bin/pip" install -q jax==0.10.2 spyx==1.0.0 jaxpike==0.1.4
