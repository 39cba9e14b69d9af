# SPDX-License-Identifier: GPL-3.0-or-later
# What a Hyper-V host is and does, as one line of JSON. CIM classes have the same names in every
# language of Windows; performance counters do not.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'

function Read-Counter([string]$Class, [string]$Property) {
    $found = @(Get-CimInstance -ClassName $Class -Filter "Name='_Total'" -ErrorAction SilentlyContinue)
    if ($found.Count) { [double]$found[0].$Property } else { $null }
}

$vmHost = Get-VMHost
$os = Get-CimInstance -ClassName Win32_OperatingSystem
$cpu = Read-Counter Win32_PerfFormattedData_HvStats_HyperVHypervisorLogicalProcessor PercentTotalRunTime
if ($null -eq $cpu) { $cpu = Read-Counter Win32_PerfFormattedData_PerfOS_Processor PercentProcessorTime }
$iops = Read-Counter Win32_PerfFormattedData_PerfDisk_PhysicalDisk DiskTransfersPersec
$traffic = 0
Get-CimInstance -ClassName Win32_PerfFormattedData_Tcpip_NetworkInterface |
    ForEach-Object { $traffic += $_.BytesTotalPersec }
$rate = 0
Get-NetAdapter -Physical | Where-Object { $_.Status -eq 'Up' } |
    ForEach-Object { $rate += $_.ReceiveLinkSpeed / 8 }

$storages = @()
Get-Volume | Where-Object { $_.DriveType -eq 'Fixed' -and $_.DriveLetter } | ForEach-Object {
    $storages += @{ path = "$($_.DriveLetter):\"; free = $_.SizeRemaining; total = $_.Size; shared = $false }
}
$cluster = ''
$paused = $false
$nodes = @()
$service = @(Get-Service | Where-Object { $_.Name -eq 'ClusSvc' -and $_.Status -eq 'Running' })
if ($service.Count) {
    $cluster = (Get-Cluster).Name
    Get-ClusterNode | ForEach-Object {
        $nodes += $_.Name
        if ($_.Name -eq $env:COMPUTERNAME) { $paused = $_.State -ne 'Up' }
    }
    Get-ClusterSharedVolume | ForEach-Object {
        $info = $_.SharedVolumeInfo[0]
        $storages += @{
            path = $info.FriendlyVolumeName; free = $info.Partition.FreeSpace
            total = $info.Partition.Size; shared = $true
        }
    }
}

@{
    name = $env:COMPUTERNAME
    version = "$($os.Caption) $($os.Version)"
    cpus = $vmHost.LogicalProcessorCount
    memory = $vmHost.MemoryCapacity
    memoryUsed = $vmHost.MemoryCapacity - 1KB * $os.FreePhysicalMemory
    cpuPercent = $cpu
    iops = $iops
    traffic = $traffic
    rate = $rate
    storages = $storages
    switches = @(Get-VMSwitch | ForEach-Object { $_.Name })
    cluster = $cluster
    paused = $paused
    nodes = $nodes
} | ConvertTo-Json -Compress -Depth 4
