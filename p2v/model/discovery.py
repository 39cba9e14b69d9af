# SPDX-License-Identifier: GPL-3.0-or-later
"""How a converter is found on the local network: DNS-SD over multicast (RFC 6762, RFC 6763).

It tells an address and no more. Whoever answers there is trusted only after pairing: anybody on the
network can announce anything.
"""

SERVICE = "_p2v._tcp.local."
VERSION_KEY = "version"
NAME_PREFIX = "p2v on "
