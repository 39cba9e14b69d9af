# SPDX-License-Identifier: GPL-3.0-or-later
"""PowerShell for Hyper-V: Windows PowerShell 5.1 on Windows Server 2016 and later.

Virtual machines and switches are found by comparing names, never with -Name, which takes wildcards:
a machine called ``*`` must not stand for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

from p2v.model.machine import FirmwareKind
from p2v.model.order import Order, OrderedDisk
from p2v.model.units import MiB
from p2v.model.vm import SecureBoot, StartAction, VmNic
from p2v.script.quote import powershell as quote

EXTENSION = "vhdx"

_START = {
    StartAction.NEVER: "Nothing",
    StartAction.IF_RUNNING: "StartIfRunning",
    StartAction.ALWAYS: "Start",
}
_TEMPLATE = {
    SecureBoot.MICROSOFT: "MicrosoftWindows",
    SecureBoot.UEFI_CA: "MicrosoftUEFICertificateAuthority",
}
_DISKS_OF_CONTROLLER = 64
_MEMORY_STEP = 2 * MiB
"""Hyper-V takes no memory that is no multiple of this."""
_GUEST_SERVICE = "6C09BB55-D683-4DA0-8931-C9BF705F6480"
"""The service through which the host copies files into the guest; the others are switched on."""


def script(order: Order) -> str:
    """Return the script that makes the order's virtual machine on the host that runs it.

    Raises:
        UsageError: a name that can't be written down.
    """
    return "\n".join((*_head(order), *_functions(order), *_main(order))) + "\n"


def removal(order: Order) -> str:
    """Return the script that removes the order's virtual machine and its folder.

    Raises:
        UsageError: a name that can't be written down.
    """
    lines = (*_head(order), *_finding(order), *_REMOVAL)
    return "\n".join(lines) + "\n"


_REMOVAL = """\
$vm = Find-Machine
if ($null -ne $vm -and @($Mark, $Unfinished) -contains $vm.Notes) { Remove-Machine $vm }
if (Test-Path -LiteralPath $Folder) { Remove-Item -LiteralPath $Folder -Recurse -Force }
""".splitlines()


def _head(order: Order) -> Iterator[str]:
    vm = order.vm
    generation = 2 if vm.firmware is FirmwareKind.UEFI else 1
    yield "#Requires -Version 5.1"
    yield "# Makes the virtual machine of a p2v migration. It may be run again: what is there is"
    yield "# kept, and what a failure leaves half made is taken away."
    yield "Set-StrictMode -Version Latest"
    yield "$ErrorActionPreference = 'Stop'"
    yield "$ProgressPreference = 'SilentlyContinue'"
    yield ""
    yield f"$Name = {quote(vm.name)}"
    yield f"$Mark = {quote(order.mark)}"
    yield f"$Unfinished = {quote(order.unfinished_mark)}"
    yield f"$Storage = {quote(order.storage)}"
    yield f"$Folder = [IO.Path]::Combine($Storage, {quote(order.migration)})"
    yield f"$Fingerprint = {quote(order.fingerprint)}"
    yield f"$Generation = {generation}"
    yield f"$Memory = {-(-vm.memory // _MEMORY_STEP) * _MEMORY_STEP}"
    yield f"$Processors = {vm.cpus}"
    yield ""


def _functions(order: Order) -> Iterator[str]:
    yield from _UNDO
    yield ""
    yield from _finding(order)
    yield from _checking(order)


_UNDO = """\
$Undo = New-Object System.Collections.Stack
function Add-Undo([string]$What, [scriptblock]$How) {
    $Undo.Push([pscustomobject]@{ What = $What; How = $How })
}
""".splitlines()


def _finding(order: Order) -> Iterator[str]:
    yield "function Find-Machine {"
    yield "    $found = @(Get-VM | Where-Object { $_.Name -eq $Name })"
    yield "    if ($found.Count -gt 1) { throw \"There are several machines named '$Name'.\" }"
    yield "    if ($found.Count) { $found[0] }"
    yield "}"
    yield ""
    yield "function Remove-Machine($Machine) {"
    yield "    if ($Machine.State -ne 'Off') { Stop-VM -VM $Machine -TurnOff -Force }"
    if order.vm.clustered:
        yield "    if (Get-ClusterGroup | Where-Object { $_.Name -eq $Machine.Name }) {"
        yield "        Remove-ClusterGroup -VMId $Machine.Id -RemoveResources -Force"
        yield "    }"
    yield "    Remove-VM -VM $Machine -Force"
    yield "}"
    yield ""


def _checking(order: Order) -> Iterator[str]:
    yield "function Find-Switch([string]$Switch) {"
    yield "    $found = @(Get-VMSwitch | Where-Object { $_.Name -eq $Switch })"
    yield "    if ($found.Count -ne 1) { throw \"There is no one switch named '$Switch'.\" }"
    yield "    $found[0]"
    yield "}"
    yield ""
    yield "function Test-Image([string]$Path, [string]$Digest) {"
    yield "    if (-not (Test-Path -LiteralPath $Path)) { return $false }"
    yield "    if ($Digest -eq '') { return $true }"
    yield "    (Get-FileHash -LiteralPath $Path -Algorithm SHA256).Hash -eq $Digest"
    yield "}"
    yield ""
    if any(disk.url for disk in order.disks):
        yield "if (-not ('P2VFetch' -as [type])) {"  # of a script run before in this shell
        yield "Add-Type -TypeDefinition @'"
        yield from (files(__package__) / "fetch.cs").read_text(encoding="ascii").splitlines()
        yield "'@"
        yield "}"
        yield ""
    yield from _RECEIVE
    yield ""


_RECEIVE = """\
function Receive-Image([string]$File, [string]$Url, [string]$Digest) {
    $path = [IO.Path]::Combine($Folder, $File)
    if (Test-Image $path $Digest) { return $path }
    if ($Url -eq '') { throw "Bring the image to '$path' first." }
    $part = "$path.part"
    foreach ($try in 1..5) {
        try {
            if (-not (Test-Path -LiteralPath $part) -or -not (Test-Image $part $Digest)) {
                [P2VFetch]::Get($Url, $Fingerprint, $part)
            }
            break
        } catch {
            if ($try -eq 5) { throw }
            Start-Sleep -Seconds 5
        }
    }
    if (-not (Test-Image $part $Digest)) {
        Remove-Item -LiteralPath $part
        throw "What came for '$path' is not what the converter has."
    }
    Move-Item -LiteralPath $part -Destination $path -Force
    Add-Undo "the image $path" { Remove-Item -LiteralPath $path }.GetNewClosure()
    $path
}""".splitlines()


def _main(order: Order) -> Iterator[str]:
    yield "$vm = Find-Machine"
    yield "if ($null -ne $vm -and $vm.Notes -eq $Unfinished) {"
    yield "    Remove-Machine $vm"
    yield "    $vm = $null"
    yield "}"
    yield "if ($null -ne $vm -and $vm.Notes -ne $Mark) {"
    yield "    throw \"There is another virtual machine named '$Name'.\""
    yield "}"
    yield "if ($null -eq $vm) {"
    yield "    try {"
    yield from _indented(_making(order), 8)
    yield "    } catch {"
    yield from _indented(_UNDOING, 8)
    yield "        throw"
    yield "    }"
    yield "}"
    if order.vm.power_on:
        yield "if ($vm.State -eq 'Off') { Start-VM -VM $vm }"
    yield "[pscustomobject]@{ name = $vm.Name; id = [string]$vm.Id } | ConvertTo-Json -Compress"


_UNDOING = """\
while ($Undo.Count -gt 0) {
    $step = $Undo.Pop()
    try {
        & $step.How | Out-Null
        Write-Warning "Undone: $($step.What)"
    } catch {
        Write-Warning "Not undone: $($step.What): $_"
    }
}""".splitlines()


def _making(order: Order) -> Iterator[str]:
    vm = order.vm
    switches = dict.fromkeys(nic.network for nic in vm.nics if nic.network and nic.connected)
    for switch in switches:
        yield f"Find-Switch {quote(switch)} | Out-Null"
    yield "if (-not (Test-Path -LiteralPath $Folder)) {"
    yield "    [IO.Directory]::CreateDirectory($Folder) | Out-Null"
    yield '    Add-Undo "the folder $Folder" { [IO.Directory]::Delete($Folder, $true) }'
    yield "}"
    for number, disk in enumerate(order.disks):
        yield f"$image{number} = {_receive(disk)}"
    yield ""
    yield "$vm = New-VM -Name $Name -Generation $Generation -MemoryStartupBytes $Memory -NoVHD `"
    yield "    -Path $Folder"
    yield "$made = $vm"
    yield 'Add-Undo "the virtual machine $Name" { Remove-Machine $made }'
    yield "Set-VM -VM $vm -Notes $Unfinished -ProcessorCount $Processors -StaticMemory `"
    yield f"    -AutomaticStartAction {_START[vm.start_action]} -AutomaticStopAction ShutDown"
    yield "Get-VMNetworkAdapter -VM $vm | Remove-VMNetworkAdapter"
    yield from _disks(order)
    yield from _firmware(order)
    for nic in vm.nics:
        # Only a machine of generation 1 has an adapter that is older than Hyper-V.
        yield from _nic(nic, legacy=order.plain and vm.firmware is FirmwareKind.BIOS)
    yield "Get-VMIntegrationService -VM $vm |"
    yield f"    Where-Object {{ -not $_.Enabled -and $_.Id -notlike '*{_GUEST_SERVICE}' }} |"
    yield "    Enable-VMIntegrationService"
    if vm.clustered:
        yield "Add-ClusterVirtualMachineRole -VMId $vm.Id | Out-Null"
    yield "Set-VM -VM $vm -Notes $Mark"


def _receive(disk: OrderedDisk) -> str:
    return f"Receive-Image {quote(disk.file)} {quote(disk.url)} {quote(disk.sha256)}"


def _disks(order: Order) -> Iterator[str]:
    """Attach the disks; a machine of generation 1 boots from IDE only, the others go to SCSI."""
    first = order.vm.firmware is FirmwareKind.BIOS
    on_scsi = len(order.disks) - (1 if first else 0)
    if first:
        yield "Add-VMHardDiskDrive -VM $vm -ControllerType IDE -ControllerNumber 0 `"
        yield "    -ControllerLocation 0 -Path $image0"
    controllers = -(-on_scsi // _DISKS_OF_CONTROLLER)
    if controllers:
        yield f"while (@(Get-VMScsiController -VM $vm).Count -lt {controllers}) {{"
        yield "    Add-VMScsiController -VM $vm"
        yield "}"
    for place in range(on_scsi):
        controller, location = divmod(place, _DISKS_OF_CONTROLLER)
        image = place + (1 if first else 0)
        yield f"Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber {controller} `"
        yield f"    -ControllerLocation {location} -Path $image{image}"


def _firmware(order: Order) -> Iterator[str]:
    vm = order.vm
    if vm.firmware is not FirmwareKind.UEFI:
        return
    if vm.secure_boot is SecureBoot.OFF:
        yield "Set-VMFirmware -VM $vm -EnableSecureBoot Off"
    else:
        template = _TEMPLATE[vm.secure_boot]
        yield f"Set-VMFirmware -VM $vm -EnableSecureBoot On -SecureBootTemplate {template}"
    yield "$boot = Get-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `"
    yield "    -ControllerLocation 0"
    yield "Set-VMFirmware -VM $vm -FirstBootDevice $boot"


def _nic(nic: VmNic, *, legacy: bool) -> Iterator[str]:
    words = f"Add-VMNetworkAdapter -VM $vm -Name {quote(nic.name)}"
    if legacy:
        words += " -IsLegacy $true"
    if nic.mac:
        words += f" -StaticMacAddress '{nic.mac.replace(':', '').upper()}'"
    yield f"$nic = {words} -Passthru"
    if nic.vlan:
        yield f"Set-VMNetworkAdapterVlan -VMNetworkAdapter $nic -Access -VlanId {nic.vlan}"
    if nic.network and nic.connected:
        yield "Connect-VMNetworkAdapter -VMNetworkAdapter $nic `"
        yield f"    -VMSwitch (Find-Switch {quote(nic.network)})"
    elif nic.network:
        yield "# Left unconnected until the guest was looked at; then connect it to"
        yield f"# {quote(nic.network)}."


def _indented(lines: Iterator[str] | list[str], by: int) -> Iterator[str]:
    for line in lines:
        yield " " * by + line if line else ""
