#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes /opt/p2v, a virtual environment with the Python packages that the agent needs: Debian's are
# too old for it. Runs inside the tools' tree; /requirements.lock has the versions. Usage: ... NAME...
set -eu
export PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export CFLAGS=-g0 # else the name of pip's temporary folder counts for the build ID
python3 -m venv /tools
python3 -m venv --without-pip /opt/p2v
# shellcheck disable=SC2046 # words
/tools/bin/pip install -q $(grep -E '^(Cython|setuptools|wheel)==' /requirements.lock)
/tools/bin/pip wheel -q --no-build-isolation --no-cache-dir -c /requirements.lock -w /packages "$@"
/tools/bin/pip --python /opt/p2v/bin/python install -q --no-index --find-links /packages "$@"
rm -rf /packages
find /opt/p2v -name '*.so' -exec strip --strip-unneeded {} +
/opt/p2v/bin/python -m compileall -q -j 1 --invalidation-mode unchecked-hash /opt/p2v/lib
