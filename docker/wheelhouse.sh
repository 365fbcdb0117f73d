#!/usr/bin/env bash
# A folder with this package and all that it needs, for machines without internet. Run it where there is internet, under the
# Python version, operating system and processor of those machines:
#
#   docker/wheelhouse.sh wheelhouse                      # extras: EXTRAS=parquet,s3 docker/wheelhouse.sh wheelhouse
#
# and there, with nothing but that folder:
#
#   python3.12 -m venv /opt/pathotune
#   /opt/pathotune/bin/pip install --no-index --find-links wheelhouse -c wheelhouse/constraints.txt 'pathotune_pipeline[parquet]'
#
# The versions are those of constraints/. pip's own settings say where packages come from (PIP_INDEX_URL, pip.conf).
set -euo pipefail

out=${1:?Give a folder: docker/wheelhouse.sh wheelhouse}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
extras=${EXTRAS-parquet,interchange,s3,slurm,kubernetes}

minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
constraints=$root/constraints/python$minor.txt
if [[ ! -f $constraints ]]; then
  echo "wheelhouse.sh: there are no constraints for Python $minor. Set PYTHON to a Python 3.11, 3.12 or 3.13." >&2
  exit 2
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
cp "$constraints" "$out/constraints.txt"
"$python" -m pip wheel --disable-pip-version-check --constraint "$constraints" --wheel-dir "$out" \
  "$root${extras:+[$extras]}"
(cd "$out" && sha256sum ./*.whl constraints.txt >SHA256SUMS)
echo "wheelhouse.sh: $(find "$out" -name '*.whl' | wc -l) wheels in $out; check them there with: sha256sum -c SHA256SUMS"
