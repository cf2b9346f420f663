#!/bin/sh
# Make .venv-transformerlens: TransformerLens with the last transformers whose Mamba it can read, and ssmlens
# beside it, so that both run in one process on the same operands. Takes about 3 minutes and 3 GB.
set -e
cd "$(dirname "$0")/../.."
"${PYTHON:-python3}" -m venv .venv-transformerlens
pip=".venv-transformerlens/bin/python -m pip install"
$pip torch==2.13.0 # first, so that the build this machine offers is taken
$pip -e . "transformer-lens==4.3.*" "transformers==5.14.*" torch==2.13.0
echo "made .venv-transformerlens; now: python -m analyses.benchmarks.maps"
