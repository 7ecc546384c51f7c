#!/bin/sh
# pyarrow 26.0.1: reading a Parquet file, and making an array or a scalar, import pandas if pandas is installed.
#
# pandas is an optional dependency of pyarrow, `import pyarrow` does not load it, and the reference of pyarrow.array
# names it for pandas objects alone. Yet the first pa.array([1]) or read_table of a process loads the whole of pandas
# (0.5 s on a busy machine) for values that have nothing to do with it. A slow first call is reported in
# apache/arrow#34994, without the cause. A process that is to start fast pays for pandas just by having it installed.
#
# Output seen (Python 3.11, Linux x86_64):
#     pyarrow 26.0.1, pandas 3.1.1
#     import pyarrow, pyarrow.parquet: pandas loaded: False
#     pyarrow.parquet.read_table: pandas loaded: True
#     pyarrow.array([1]): pandas loaded: True
#     pyarrow.scalar(1): pandas loaded: True
#     pyarrow.array([1]) where pandas is not installed: [1]
#
# Fails if the behavior changes. Needs python3 (3.11 to 3.13) and a package index.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/with" && "$folder/with/bin/pip" -q install pyarrow==26.0.1 pandas==3.1.1 numpy==2.3.5
python3 -m venv "$folder/without" && "$folder/without/bin/pip" -q install pyarrow==26.0.1 numpy==2.3.5

cat > "$folder/seen.py" <<'PYTHON'
import sys

import pyarrow
import pyarrow.parquet

step, path = sys.argv[1:]
if step == "pyarrow.parquet.read_table":
    pyarrow.parquet.read_table(path)
elif step == "pyarrow.array([1])":
    pyarrow.array([1])
elif step == "pyarrow.scalar(1)":
    pyarrow.scalar(1)
print(f"{step}: pandas loaded: {'pandas' in sys.modules}")
PYTHON

cd "$folder"
with/bin/python -c "
import pyarrow, pyarrow.parquet as pq
from importlib.metadata import version
print(f'pyarrow {version(\"pyarrow\")}, pandas {version(\"pandas\")}')
pq.write_table(pyarrow.table({'a': [1, 2, 3]}), 'a.parquet')"
{
    for step in "import pyarrow, pyarrow.parquet" "pyarrow.parquet.read_table" "pyarrow.array([1])" "pyarrow.scalar(1)"; do
        with/bin/python seen.py "$step" a.parquet
    done
    without/bin/python -c "import pyarrow; print('pyarrow.array([1]) where pandas is not installed:', pyarrow.array([1]).to_pylist())"
} | tee seen.txt
cat > expected.txt <<'TEXT'
import pyarrow, pyarrow.parquet: pandas loaded: False
pyarrow.parquet.read_table: pandas loaded: True
pyarrow.array([1]): pandas loaded: True
pyarrow.scalar(1): pandas loaded: True
pyarrow.array([1]) where pandas is not installed: [1]
TEXT
cmp seen.txt expected.txt
