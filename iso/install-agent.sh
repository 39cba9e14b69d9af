#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Installs the agent in /opt/p2v, a virtual environment of its own: Debian's Python packages are too
# old for it. Runs inside the build tree; the sources are in /src, the pinned versions beside them.
set -eu
export PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
cd /src
python3 -m venv /tools
python3 -m venv --without-pip /opt/p2v
# shellcheck disable=SC2046 # words
/tools/bin/pip install -q $(grep -E '^(Cython|setuptools|wheel)==' requirements.lock)
/tools/bin/pip wheel -q --no-build-isolation --no-cache-dir -c requirements.lock -w /packages .
/tools/bin/pip --python /opt/p2v/bin/python install -q --no-index --no-deps /packages/*.whl
find /opt/p2v -name '*.so' -exec strip --strip-unneeded {} +
ln -s /opt/p2v/bin/p2v-agent /opt/p2v/bin/p2v /usr/local/bin/
