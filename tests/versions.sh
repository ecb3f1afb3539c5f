#!/usr/bin/env bash
# Tries the corners of what pyproject.toml allows: the lowest and the newest packages on several Pythons.
#
#   tests/versions.sh                                          all corners, the test files below
#   tests/versions.sh -p 3.13 -r lowest-direct tests/test_mor.py    some of them, some tests
#   tests/versions.sh -k DIR                                   keep the environments there, some GB each
#
# Needs uv (`pip install uv`) and Pythons on the PATH; one that is absent is a row that says so. Ends with a
# table for docs/tests.md, and with 1 where a corner fails.
set -uo pipefail
cd "$(dirname "$0")/.."

pythons="3.10 3.11 3.12 3.13"
packages="lowest-direct highest"
folder=""
while getopts "p:r:k:" flag; do
  case $flag in
    p) pythons=$OPTARG ;;
    r) packages=$OPTARG ;;
    k) folder=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
tests=("$@")
if [ ${#tests[@]} = 0 ]; then
  core=(mor fused grouped dora loss model generation inference adapter tensors data dataset frames sharding)
  for name in "${core[@]}"; do tests+=("tests/test_$name.py"); done
fi
if [ -z "$folder" ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi

names="torch numpy tokenizers safetensors pytest"
table="| Python | ${names// / | } | result |\n|---|---|---|---|---|---|---|\n"
failed=0
for python in $pythons; do
  for resolution in $packages; do
    environment=$folder/$python-$resolution
    echo "== Python $python, $resolution"
    if ! uv venv --quiet --clear --no-python-downloads --python "$python" "$environment"; then
      table+="| $python | | | | | | not tried: no such Python here |\n"
      break
    fi
    # only binaries: an old release without one for this Python is no corner that anybody can stand in
    if ! uv pip install --quiet --python "$environment" -r pyproject.toml --extra test \
      --resolution "$resolution" --only-binary :all:; then
      table+="| $python | | | | | | $resolution: cannot be installed |\n"
      failed=1
      continue
    fi
    "$environment/bin/python" -m pytest -q -p no:cacheprovider "${tests[@]}" | tee "$environment/log"
    [ "${PIPESTATUS[0]}" = 0 ] || failed=1
    row=$("$environment/bin/python" - $names <<'PYTHON'
import platform, sys
from importlib.metadata import version
print(" | ".join([platform.python_version(), *map(version, sys.argv[1:])]))
PYTHON
    )
    table+="| $row | $(tail -n 1 "$environment/log") |\n"
  done
done
printf "\n%b" "$table"
exit $failed
