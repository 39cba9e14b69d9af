# SPDX-License-Identifier: GPL-3.0-or-later
# Finishes a conversion by p2v while Windows runs on its new hardware, then removes itself.
# It stays with what Windows PowerShell 2.0 (Windows 7) knows. Data comes from files beside it.
# What it did is in firstboot.log, which stays.

$folder = Join-Path $env:SystemRoot 'p2v-firstboot'
$system32 = Join-Path $env:SystemRoot 'System32'
$netsh = Join-Path $system32 'netsh.exe'

function Write-Log([string]$text) {
    $line = '{0:yyyy-MM-dd HH:mm:ss} {1}' -f (Get-Date), $text
    Add-Content -Path (Join-Path $folder 'firstboot.log') -Value $line -Encoding UTF8
}

function Read-Table([string]$name) {
    $path = Join-Path $folder $name
    if (-not (Test-Path $path)) { return @() }
    return @([IO.File]::ReadAllLines($path) | ConvertFrom-Csv)
}

function Split-List([string]$text) {
    return @($text.Split(' ') | Where-Object { $_ -ne '' })
}

function Invoke-Netsh([string[]]$arguments) {
    $answer = & $netsh $arguments 2>&1 | Out-String
    Write-Log ('netsh {0}: {1} {2}' -f ($arguments -join ' '), $LASTEXITCODE, $answer.Trim())
}

# A physical function of SR-IOV has the same address as the synthetic adapter: that one comes first.
function Find-Adapter([string]$mac) {
    $found = @(Get-WmiObject Win32_NetworkAdapter -Filter "MACAddress = '$mac'" |
        Where-Object { $_.PNPDeviceID -match '^(VMBUS|PCI|XEN|USB)\\' } |
        Sort-Object { -not ($_.PNPDeviceID -like 'VMBUS*') })
    if ($found.Count -gt 0) { return $found[0] }
    return $null
}

function Set-Addresses($index, $row) {
    $gateways = @(Split-List $row.gateways)
    $first = $true
    foreach ($pair in @(Split-List $row.addresses)) {
        $parts = $pair.Split('/')
        if ($first) {
            $gateway = 'none'
            if ($gateways.Count -gt 0) { $gateway = $gateways[0] }
            Invoke-Netsh @('interface', 'ipv4', 'set', 'address', "name=$index", 'source=static',
                "address=$($parts[0])", "mask=$($parts[1])", "gateway=$gateway")
        } else {
            Invoke-Netsh @('interface', 'ipv4', 'add', 'address', "name=$index",
                "address=$($parts[0])", "mask=$($parts[1])")
        }
        $first = $false
    }
    foreach ($gateway in @($gateways | Select-Object -Skip 1)) {
        Invoke-Netsh @('interface', 'ipv4', 'add', 'address', "name=$index", "gateway=$gateway")
    }
}

function Set-Servers($index, [string]$kind, [string[]]$servers) {
    $first = $true
    foreach ($server in @($servers | Where-Object { $_ })) {
        if ($first) {
            $arguments = @('interface', 'ipv4', 'set', $kind, "name=$index", 'source=static',
                "address=$server")
        } else {
            $arguments = @('interface', 'ipv4', 'add', $kind, "name=$index", "address=$server")
        }
        if ($kind -eq 'dnsservers') { $arguments += 'validate=no' }
        Invoke-Netsh $arguments
        $first = $false
    }
}

function Set-Adapter($adapter, $row) {
    $index = $adapter.InterfaceIndex
    Write-Log ('{0} is {1}, interface {2}' -f $row.mac, $adapter.PNPDeviceID, $index)
    if ($row.name -ne '' -and $adapter.NetConnectionID -ne $row.name) {
        try {
            $adapter.NetConnectionID = $row.name
            [void]$adapter.Put()
        } catch { Write-Log ('it keeps its name: {0}' -f $_) }
    }
    Set-Addresses $index $row
    Set-Servers $index 'dnsservers' (Split-List $row.dns)
    Set-Servers $index 'winsservers' (Split-List $row.wins)
    if ($row.suffix -ne '') {
        $settings = Get-WmiObject Win32_NetworkAdapterConfiguration -Filter "InterfaceIndex = $index"
        [void]$settings.SetDNSDomain($row.suffix)
    }
}

# pnputil can do so as of Windows 10 2004; its texts are in the system's language, the ids are not.
function Remove-OldAdapters {
    if ([Environment]::OSVersion.Version.Build -lt 19041) { return }
    $pnputil = Join-Path $system32 'pnputil.exe'
    $listed = & $pnputil /enum-devices /class Net /disconnected 2>&1 | Out-String
    foreach ($found in [regex]::Matches($listed, 'PCI\\VEN_[0-9A-Fa-f]{4}&\S+')) {
        $answer = & $pnputil /remove-device $found.Value 2>&1 | Out-String
        Write-Log ('removing {0}: {1} {2}' -f $found.Value, $LASTEXITCODE, $answer.Trim())
    }
}

try {
    # What was put here from outside Windows may have no access list; this one is that of Windows.
    & (Join-Path $system32 'icacls.exe') $folder /reset /T /Q | Out-Null
    Write-Log ('started on {0}' -f [Environment]::OSVersion.VersionString)

    foreach ($setting in @(Read-Table 'settings.csv')) {
        Set-ItemProperty 'HKLM:\SYSTEM\CurrentControlSet\Control\CrashControl' AutoReboot ([int]$setting.AutoReboot)
    }

    $drivers = Join-Path $folder 'drivers'
    if (Test-Path $drivers) {
        foreach ($inf in @(Get-ChildItem $drivers -Filter '*.inf')) {
            $answer = & (Join-Path $system32 'pnputil.exe') -i -a $inf.FullName 2>&1 | Out-String
            Write-Log ('pnputil {0}: {1} {2}' -f $inf.Name, $LASTEXITCODE, $answer.Trim())
        }
    }

    # Windows may still be installing the adapters.
    $pending = @(Read-Table 'interfaces.csv')
    $deadline = (Get-Date).AddMinutes(15)
    while ($pending.Count -gt 0 -and (Get-Date) -lt $deadline) {
        $left = @()
        foreach ($row in $pending) {
            $adapter = Find-Adapter $row.mac
            if ($adapter -eq $null -or $adapter.NetConnectionID -eq $null) { $left += $row; continue }
            Set-Adapter $adapter $row
        }
        $pending = $left
        if ($pending.Count -gt 0) { Start-Sleep -Seconds 5 }
    }
    foreach ($row in $pending) { Write-Log ('no adapter has {0}; {1} is not set' -f $row.mac, $row.addresses) }

    if ($pending.Count -eq 0) { Remove-OldAdapters }

    # An adapter that is not there after some starts will not come any more.
    $counter = Join-Path $folder 'starts.txt'
    $starts = 1
    if (Test-Path $counter) { $starts = 1 + [int](Get-Content $counter) }
    Set-Content -Path $counter -Value $starts
    if ($pending.Count -eq 0 -or $starts -ge 5) {
        & (Join-Path $system32 'sc.exe') delete p2v-firstboot | Out-Null
        Get-ChildItem $folder | Where-Object { $_.Name -ne 'firstboot.log' } | Remove-Item -Recurse -Force
        Write-Log 'done'
    }
} catch {
    Write-Log ('failed: {0}' -f $_)
}
