# SPDX-License-Identifier: GPL-3.0-or-later
"""The error tree: every failure that a user can meet, with its code, exit code and way out.

An error class carries a message template; code that fails raises facts (`fields`), the words live
here. Mistakes and failures of the world are `P2VError`s and print one sentence; anything else that
escapes is a bug and prints a traceback. The exit codes are a public contract (docs/exit-codes.md).
"""

from __future__ import annotations

from typing import Any, ClassVar


class P2VError(Exception):
    """Base of all errors that p2v raises on purpose.

    Attributes:
        code: stable slug, the `type` of an API problem document.
        exit_code: of the process that ends with it.
        status: HTTP status when it crosses the API.
        fields: the facts, by the names that `message` uses.
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500
    message: ClassVar[str] = "{problem}"
    hint: ClassVar[str] = ""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__(self.message.format(**fields))

    @property
    def way_out(self) -> str:
        """What the user can do next; empty where the message already says so."""
        return self.hint.format_map(_Facts(self.fields))


class _Facts(dict[str, Any]):
    """The fields of an error; those that a converter of another version left out are unknown."""

    def __missing__(self, name: str) -> str:
        return "?"


def reason(error: Exception) -> str:
    """Return in words why a file can't be read or written, without its name or a number."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no text in UTF-8"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class UsageError(P2VError):
    """The command line, plan or request does not make sense."""

    code = "usage"
    exit_code = 2
    status = 422


# --- reaching and trusting the converter ---------------------------------------------------------


class PairingError(P2VError):
    """The pairing code was wrong, or somebody sits between agent and converter."""

    code = "pairing-failed"
    exit_code = 10
    status = 403
    message = "Pairing with {server} failed: {problem}."
    hint = "Run 'p2v pair' on the converter for a new code and check the address."


class FingerprintMismatchError(P2VError):
    """The converter's certificate is not the one that was paired."""

    code = "wrong-fingerprint"
    exit_code = 10
    message = "The converter at {server} shows certificate {actual}, expected {expected}."
    hint = (
        "Compare with the fingerprint that 'p2v serve' prints; if it was reinstalled, pair again. "
        "Otherwise somebody else answers at this address."
    )


class AuthError(P2VError):
    """The token is missing, wrong or revoked."""

    code = "not-authorised"
    exit_code = 11
    status = 401
    message = "The converter refused the token: {problem}."
    hint = "Pair again with 'p2v pair' on the converter, or check P2V_TOKEN / the token file."


class UnreachableError(P2VError):
    """No converter answers at the address."""

    code = "unreachable"
    exit_code = 12
    message = "No converter answers at {server}: {problem}."
    hint = "Check that 'p2v serve' runs there, the address and port, and the firewall between."


class MigrationBusyError(P2VError):
    """Another agent is already sending this migration."""

    code = "migration-busy"
    exit_code = 13
    status = 409
    message = "Migration {id} is in use by another agent ({agent})."
    hint = "Stop that agent, or wait {seconds} s after it has lost its connection."


class NoSuchMigrationError(P2VError):
    """The id names no migration of this converter."""

    code = "no-such-migration"
    exit_code = 14
    status = 404
    message = "There is no migration '{id}' on this converter."
    hint = "'p2v migrations list' on the converter shows those that exist."


class NoSuchTokenError(P2VError):
    """The id names no token of this converter."""

    code = "no-such-token"
    exit_code = 14
    status = 404
    message = "There is no token {id} on this converter."
    hint = "'p2v pair --list' shows those that exist."


class NoAgentFileError(P2VError):
    """The converter has no agent to give out."""

    code = "no-agent-file"
    exit_code = 14
    status = 404
    message = "This converter has no agent to give out."
    hint = "Run 'make agent' where p2v was built, or put its p2v-agent into the data folder."


class MigrationStateError(P2VError):
    """The migration is not in a state that allows this."""

    code = "wrong-state"
    exit_code = 15
    status = 409
    message = "Migration {id} is {state}: {problem}."


class ProtocolError(P2VError):
    """A frame or message breaks docs/wire.md."""

    code = "protocol"
    exit_code = 51
    status = 400
    message = "Bad data on the wire: {problem}."
    hint = "Agent and converter should be of the same version; the range will be sent again."


# --- the source ----------------------------------------------------------------------------------


class ReadFailedError(P2VError):
    """Sectors of the source could not be read; what could be was copied."""

    code = "source-read-errors"
    exit_code = 20
    message = (
        "{bytes} bytes in {count} places of {disk} could not be read and are zeros in the image."
    )
    hint = "The report lists every range; replace the disk or restore those files from a backup."


class SourceChangedError(P2VError):
    """The source is no longer what the plan says: other size, other disk, gone."""

    code = "source-changed"
    exit_code = 21
    message = "{disk} has changed since the plan was made: {problem}."
    hint = "Run 'p2v-agent inventory' and make a new plan; the image so far is kept."


class DiskInUseError(P2VError):
    """The disk is written to while it would be read."""

    code = "disk-in-use"
    exit_code = 22
    message = "{disk} is in use: {problem}."
    hint = (
        "Capture it while it is in use with --live, or unmount it, mount it read-only, or boot the "
        "machine from the p2v ISO."
    )


class NoSuchDiskError(P2VError):
    """The name is no block device or image file of this machine."""

    code = "no-such-disk"
    exit_code = 23
    status = 404
    message = "'{disk}' is no disk or image file here."
    hint = "Check the name; on the server, 'p2v-agent inventory' lists its disks."


class DiskUnreadableError(P2VError):
    """The disk exists and cannot be opened."""

    code = "disk-unreadable"
    exit_code = 24
    message = "{disk} cannot be opened: {problem}."
    hint = "Run p2v-agent as root; 'dmesg' shows what the kernel has to say of the disk."


class FreezeError(P2VError):
    """The file systems could not be frozen, all together and for a short time."""

    code = "freeze-failed"
    exit_code = 25
    message = "{path} cannot be frozen: {problem}."
    hint = (
        "All is thawed and what was sent is kept: try again with --resume, or capture the disk "
        "offline, from the p2v ISO."
    )


class HookError(P2VError):
    """A program in /etc/p2v/freeze.d failed, or took too long."""

    code = "hook-failed"
    exit_code = 26
    message = "The hook {hook} failed: {problem}."
    hint = (
        "All is thawed and what was sent is kept: mend the hook, or make it no program (chmod -x), "
        "and go on with --resume."
    )


class NotLiveError(P2VError):
    """What is written to the disk can't be followed, so that it can't be captured live."""

    code = "not-live"
    exit_code = 27
    message = "{disk} cannot be captured while it is written to: {problem}."
    hint = "Unmount it, mount it read-only, or boot the machine from the p2v ISO."


class SnapshotLostError(P2VError):
    """A snapshot was written over: its volume changed more than there was room for."""

    code = "snapshot-lost"
    exit_code = 29
    message = "The snapshot of {volume} is lost: more was written than it had room for."
    hint = (
        "What was sent is kept. Go on at a quieter time with --resume, add room to the volume "
        "group, or boot the machine from the p2v ISO."
    )


class TooBusyError(P2VError):
    """The disk is written to faster than a short freeze allows."""

    code = "too-busy"
    exit_code = 28
    message = "The disks are too busy for a cut-over: {problem}."
    hint = (
        "What was sent is kept. Go on at a quieter time with --resume, stop what writes most "
        "before it, allow a longer --freeze-limit, or finish from the p2v ISO."
    )


# --- the target ----------------------------------------------------------------------------------


class NoRoomError(P2VError):
    """The store is full. Nothing is lost: the migration goes on when there is room."""

    code = "no-room"
    exit_code = 30
    status = 507
    message = "No room left in {path}: at least {needed} more bytes are needed."
    hint = (
        "Free space or extend the file system. A migration that had begun resumes by itself or "
        "with --resume; otherwise give the command again."
    )


class ImageError(P2VError):
    """An image is not what its format demands."""

    code = "bad-image"
    exit_code = 50
    status = 422
    message = "{path}: {problem}."


class ImageIncompleteError(ImageError):
    """The image was never committed: a migration into it has not finished."""

    code = "incomplete-image"
    message = "{path} is incomplete: a migration into it has not finished."
    hint = "Resume it with 'p2v-agent migrate --resume ID'."


class VerifyError(P2VError):
    """What was written is not what was sent."""

    code = "verify-failed"
    exit_code = 50
    message = "{path} differs from what was captured in {count} chunks, the first at byte {offset}."
    hint = (
        "Suspect the converter's disk or memory; resume the migration to send those chunks again."
    )


class ToolError(P2VError):
    """An external program that p2v needs is missing or failed."""

    code = "tool-failed"
    exit_code = 41
    message = "{tool}: {problem}."


# --- the guest -----------------------------------------------------------------------------------


class GuestError(P2VError):
    """Inspecting or editing a guest failed inside the appliance."""

    code = "guest-failed"
    exit_code = 60
    status = 422
    message = "{image}: {problem}."
    hint = "The image is as it was; 'p2v convert --dry-run' shows how far the guest can be read."


class NoGuestError(P2VError):
    """No operating system was found, or more than one and none was chosen."""

    code = "no-guest"
    exit_code = 61
    status = 422
    message = "{image}: {problem}."
    hint = "{way_out}"


class ConversionRefusedError(P2VError):
    """The guest can't be converted for this target; the image is as it was."""

    code = "conversion-refused"
    exit_code = 62
    status = 422
    message = "{image} is not converted: {problem}."
    hint = "{way_out}"


class ConversionFailedError(P2VError):
    """An edit or a check failed; the image is as it was."""

    code = "conversion-failed"
    exit_code = 63
    status = 500
    message = "{image} is not converted: {problem}."
    hint = "The image is as it was; {report} says what was found and tried."


# --- hosts ---------------------------------------------------------------------------------------


class NoSuchHostError(P2VError):
    """The name is no host or connection of this converter."""

    code = "no-such-host"
    exit_code = 14
    status = 404
    message = "There is no host '{host}' on this converter."
    hint = "'p2v hosts list' shows those that there are."


class HostUnreachableError(P2VError):
    """A hypervisor does not answer, or not to these credentials."""

    code = "host-unreachable"
    exit_code = 70
    status = 502
    message = "{host} does not answer: {problem}."
    hint = "Check its address, user and password ('p2v hosts show'), and the firewall between."


class HostError(P2VError):
    """A hypervisor refused or failed."""

    code = "host-failed"
    exit_code = 71
    status = 502
    message = "{host} refused or failed: {problem}."


class NoSuitableHostError(P2VError):
    """No host can take the virtual machine."""

    code = "no-suitable-host"
    exit_code = 72
    status = 409
    message = "No host can take {name}: {problem}."
    hint = "'p2v hosts rate' shows every reason and what would help."


class RehearsalFailedError(P2VError):
    """The guest did not reach its login prompt in a rehearsal."""

    code = "rehearsal-failed"
    exit_code = 64
    status = 500
    message = "{image} does not start: {problem}"
    hint = "'p2v rehearse {image} --screenshot DIR' shows where it ends; docs/rehearsal.md."


# --- the converter itself ------------------------------------------------------------------------


class AlreadyServedError(P2VError):
    """Another process is the converter of this data folder."""

    code = "already-served"
    exit_code = 42
    message = "Another process is already the converter of {path}."
    hint = "Stop that one ('systemctl stop p2v'), or give another folder with --data."


class ListenError(P2VError):
    """The address to listen on cannot be had."""

    code = "cannot-listen"
    exit_code = 43
    message = "Cannot listen on {address}: {problem}."
    hint = "Choose another address or port with --listen; 'ss -ltnp' shows who has it."


class StoreError(P2VError):
    """The converter's database can't be opened or does not answer."""

    code = "store-failed"
    exit_code = 44
    status = 503
    message = "The converter's database fails: {problem}."
    hint = "Check --database, the data folder and its file system."


class TooLargeError(P2VError):
    """A request's body is larger than the converter takes."""

    code = "too-large"
    exit_code = 51
    status = 413
    message = "The request's body has more than {limit} bytes."
