#!/usr/bin/env bash
# Runs the bundle on Loihi 2 through SLURM: "sbatch submit.sh", or "./submit.sh" on the lab's login node.
#SBATCH --job-name=@JOB@
#SBATCH --partition=@PARTITION@
#SBATCH --time=00:30:00
#SBATCH --output=slurm-%j.out
set -euo pipefail

# sbatch runs a copy of this file from elsewhere; the folder is then where it was submitted.
folder="$(dirname -- "${BASH_SOURCE[0]}")"
if [[ ! -f "$folder/bundle.json" ]]; then
  folder="${SLURM_SUBMIT_DIR:?submit this script from the folder that it lies in}"
fi
cd -- "$folder"

export SLURM=1
export LOIHI_GEN="${LOIHI_GEN:-@LOIHI_GEN@}"
export PARTITION="${PARTITION:-@PARTITION@}"

sha256sum --check --quiet SHA256SUMS
exec "${PYTHON:-python}" run.py --hardware "$@"
