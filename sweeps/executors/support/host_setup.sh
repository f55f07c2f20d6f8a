#!/bin/bash
# Make one host of a slice ready: Python and packages by uv, then what the study needs besides. It may be run again.
#
#   bash host_setup.sh [SCRIPT]      SCRIPT: of the code's folder, run last
#
# The hosts' own Python is 3.10 (Ubuntu 22.04), older than what jax and flax need.
set -euo pipefail
cd "$(dirname "$0")/../../.."

UV_VERSION=0.13.9
PYTHON_VERSION=3.12

if ! [ -x .uv/uv ]; then
  curl --silent --show-error --location --fail --retry 5 "https://astral.sh/uv/$UV_VERSION/install.sh" \
    | env UV_UNMANAGED_INSTALL="$PWD/.uv" sh
fi
.uv/uv venv --quiet --allow-existing --python "$PYTHON_VERSION" .venv
.uv/uv pip install --quiet --python .venv/bin/python --requirements requirements-tpu.txt
if [ $# -gt 0 ]; then
  bash "$1"
fi
