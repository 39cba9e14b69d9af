#Requires -Version 5.1
# Makes the virtual machine of a p2v migration. It may be run again: what is there is
# kept, and what a failure leaves half made is taken away.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'

$Name = 'web01'
$Mark = 'p2v migration web01-7f3a9c04'
$Unfinished = 'p2v migration web01-7f3a9c04 (being made)'
$Storage = 'D:\Hyper-V'
$Folder = [IO.Path]::Combine($Storage, 'web01-7f3a9c04')
$Fingerprint = 'abababababababababababababababababababababababababababababababab'
$Generation = 1
$Memory = 8589934592
$Processors = 4

$Undo = New-Object System.Collections.Stack
function Add-Undo([string]$What, [scriptblock]$How) {
    $Undo.Push([pscustomobject]@{ What = $What; How = $How })
}

function Find-Machine {
    $found = @(Get-VM | Where-Object { $_.Name -eq $Name })
    if ($found.Count -gt 1) { throw "There are several machines named '$Name'." }
    if ($found.Count) { $found[0] }
}

function Remove-Machine($Machine) {
    if ($Machine.State -ne 'Off') { Stop-VM -VM $Machine -TurnOff -Force }
    Remove-VM -VM $Machine -Force
}

function Find-Switch([string]$Switch) {
    $found = @(Get-VMSwitch | Where-Object { $_.Name -eq $Switch })
    if ($found.Count -ne 1) { throw "There is no one switch named '$Switch'." }
    $found[0]
}

function Test-Image([string]$Path, [string]$Digest) {
    if (-not (Test-Path -LiteralPath $Path)) { return $false }
    if ($Digest -eq '') { return $true }
    (Get-FileHash -LiteralPath $Path -Algorithm SHA256).Hash -eq $Digest
}

if (-not ('P2VFetch' -as [type])) {
Add-Type -TypeDefinition @'
// SPDX-License-Identifier: GPL-3.0-or-later
using System;
using System.IO;
using System.Net;
using System.Security.Cryptography;

public static class P2VFetch
{
    // Appends to path what it lacks of the image at url. The converter is known by the SHA-256 of
    // its certificate alone: names, dates and authorities say nothing.
    public static void Get(string url, string fingerprint, string path)
    {
        ServicePointManager.SecurityProtocol |= SecurityProtocolType.Tls12;
        using (var file = new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.None))
        {
            var request = (HttpWebRequest)WebRequest.Create(url);
            request.Proxy = null;
            request.ReadWriteTimeout = 60000;
            request.ServerCertificateValidationCallback = (sender, certificate, chain, errors) =>
            {
                using (var sha = SHA256.Create())
                {
                    var digest = sha.ComputeHash(certificate.GetRawCertData());
                    var found = BitConverter.ToString(digest).Replace("-", "");
                    return string.Equals(found, fingerprint, StringComparison.OrdinalIgnoreCase);
                }
            };
            if (file.Length > 0) request.AddRange(file.Length);
            using (var response = Answer(request, file))
            {
                if (file.Length > 0 && response.StatusCode != HttpStatusCode.PartialContent)
                    file.SetLength(0);
                using (var body = response.GetResponseStream()) body.CopyTo(file, 1 << 20);
            }
        }
    }

    // A part that is longer than the image is none of it: the next attempt begins anew.
    static HttpWebResponse Answer(HttpWebRequest request, FileStream file)
    {
        try
        {
            return (HttpWebResponse)request.GetResponse();
        }
        catch (WebException error)
        {
            var answer = error.Response as HttpWebResponse;
            if (answer != null && answer.StatusCode == HttpStatusCode.RequestedRangeNotSatisfiable)
                file.SetLength(0);
            throw;
        }
    }
}
'@
}

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
}

$vm = Find-Machine
if ($null -ne $vm -and $vm.Notes -eq $Unfinished) {
    Remove-Machine $vm
    $vm = $null
}
if ($null -ne $vm -and $vm.Notes -ne $Mark) {
    throw "There is another virtual machine named '$Name'."
}
if ($null -eq $vm) {
    try {
        Find-Switch 'LAN' | Out-Null
        if (-not (Test-Path -LiteralPath $Folder)) {
            [IO.Directory]::CreateDirectory($Folder) | Out-Null
            Add-Undo "the folder $Folder" { [IO.Directory]::Delete($Folder, $true) }
        }
        $image0 = Receive-Image 'web01-7f3a9c04-0.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret0' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'

        $vm = New-VM -Name $Name -Generation $Generation -MemoryStartupBytes $Memory -NoVHD `
            -Path $Folder
        $made = $vm
        Add-Undo "the virtual machine $Name" { Remove-Machine $made }
        Set-VM -VM $vm -Notes $Unfinished -ProcessorCount $Processors -StaticMemory `
            -AutomaticStartAction Nothing -AutomaticStopAction ShutDown
        Get-VMNetworkAdapter -VM $vm | Remove-VMNetworkAdapter
        Add-VMHardDiskDrive -VM $vm -ControllerType IDE -ControllerNumber 0 `
            -ControllerLocation 0 -Path $image0
        $nic = Add-VMNetworkAdapter -VM $vm -Name 'eno0' -StaticMacAddress '525400000000' -Passthru
        Connect-VMNetworkAdapter -VMNetworkAdapter $nic `
            -VMSwitch (Find-Switch 'LAN')
        Get-VMIntegrationService -VM $vm |
            Where-Object { -not $_.Enabled -and $_.Id -notlike '*6C09BB55-D683-4DA0-8931-C9BF705F6480' } |
            Enable-VMIntegrationService
        Set-VM -VM $vm -Notes $Mark
    } catch {
        while ($Undo.Count -gt 0) {
            $step = $Undo.Pop()
            try {
                & $step.How | Out-Null
                Write-Warning "Undone: $($step.What)"
            } catch {
                Write-Warning "Not undone: $($step.What): $_"
            }
        }
        throw
    }
}
[pscustomobject]@{ name = $vm.Name; id = [string]$vm.Id } | ConvertTo-Json -Compress
