#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Installs the agent, whose sources are in /src, in /opt/p2v. Runs inside the tools' tree.
set -eu
export PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export CFLAGS=-g0
cd /src
/tools/bin/pip wheel -q --no-build-isolation --no-deps --no-index -w /wheel .
/tools/bin/pip --python /opt/p2v/bin/python install -q --no-index --no-deps --find-links /wheel p2v
packages=$(/opt/p2v/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
strip --strip-unneeded "$packages"/native/*.so
cd "$packages"
/opt/p2v/bin/python -m compileall -q -j 1 --invalidation-mode unchecked-hash agent native p2v
