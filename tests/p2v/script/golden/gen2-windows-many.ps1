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
$Generation = 2
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
    if (Get-ClusterGroup | Where-Object { $_.Name -eq $Machine.Name }) {
        Remove-ClusterGroup -VMId $Machine.Id -RemoveResources -Force
    }
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
        $image1 = Receive-Image 'web01-7f3a9c04-1.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret1' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image2 = Receive-Image 'web01-7f3a9c04-2.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret2' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image3 = Receive-Image 'web01-7f3a9c04-3.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret3' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image4 = Receive-Image 'web01-7f3a9c04-4.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret4' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image5 = Receive-Image 'web01-7f3a9c04-5.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret5' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image6 = Receive-Image 'web01-7f3a9c04-6.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret6' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image7 = Receive-Image 'web01-7f3a9c04-7.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret7' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image8 = Receive-Image 'web01-7f3a9c04-8.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret8' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image9 = Receive-Image 'web01-7f3a9c04-9.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret9' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image10 = Receive-Image 'web01-7f3a9c04-10.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret10' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image11 = Receive-Image 'web01-7f3a9c04-11.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret11' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image12 = Receive-Image 'web01-7f3a9c04-12.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret12' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image13 = Receive-Image 'web01-7f3a9c04-13.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret13' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image14 = Receive-Image 'web01-7f3a9c04-14.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret14' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image15 = Receive-Image 'web01-7f3a9c04-15.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret15' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image16 = Receive-Image 'web01-7f3a9c04-16.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret16' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image17 = Receive-Image 'web01-7f3a9c04-17.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret17' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image18 = Receive-Image 'web01-7f3a9c04-18.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret18' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image19 = Receive-Image 'web01-7f3a9c04-19.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret19' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image20 = Receive-Image 'web01-7f3a9c04-20.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret20' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image21 = Receive-Image 'web01-7f3a9c04-21.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret21' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image22 = Receive-Image 'web01-7f3a9c04-22.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret22' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image23 = Receive-Image 'web01-7f3a9c04-23.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret23' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image24 = Receive-Image 'web01-7f3a9c04-24.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret24' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image25 = Receive-Image 'web01-7f3a9c04-25.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret25' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image26 = Receive-Image 'web01-7f3a9c04-26.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret26' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image27 = Receive-Image 'web01-7f3a9c04-27.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret27' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image28 = Receive-Image 'web01-7f3a9c04-28.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret28' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image29 = Receive-Image 'web01-7f3a9c04-29.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret29' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image30 = Receive-Image 'web01-7f3a9c04-30.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret30' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image31 = Receive-Image 'web01-7f3a9c04-31.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret31' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image32 = Receive-Image 'web01-7f3a9c04-32.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret32' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image33 = Receive-Image 'web01-7f3a9c04-33.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret33' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image34 = Receive-Image 'web01-7f3a9c04-34.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret34' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image35 = Receive-Image 'web01-7f3a9c04-35.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret35' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image36 = Receive-Image 'web01-7f3a9c04-36.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret36' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image37 = Receive-Image 'web01-7f3a9c04-37.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret37' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image38 = Receive-Image 'web01-7f3a9c04-38.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret38' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image39 = Receive-Image 'web01-7f3a9c04-39.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret39' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image40 = Receive-Image 'web01-7f3a9c04-40.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret40' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image41 = Receive-Image 'web01-7f3a9c04-41.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret41' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image42 = Receive-Image 'web01-7f3a9c04-42.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret42' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image43 = Receive-Image 'web01-7f3a9c04-43.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret43' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image44 = Receive-Image 'web01-7f3a9c04-44.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret44' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image45 = Receive-Image 'web01-7f3a9c04-45.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret45' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image46 = Receive-Image 'web01-7f3a9c04-46.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret46' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image47 = Receive-Image 'web01-7f3a9c04-47.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret47' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image48 = Receive-Image 'web01-7f3a9c04-48.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret48' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image49 = Receive-Image 'web01-7f3a9c04-49.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret49' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image50 = Receive-Image 'web01-7f3a9c04-50.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret50' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image51 = Receive-Image 'web01-7f3a9c04-51.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret51' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image52 = Receive-Image 'web01-7f3a9c04-52.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret52' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image53 = Receive-Image 'web01-7f3a9c04-53.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret53' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image54 = Receive-Image 'web01-7f3a9c04-54.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret54' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image55 = Receive-Image 'web01-7f3a9c04-55.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret55' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image56 = Receive-Image 'web01-7f3a9c04-56.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret56' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image57 = Receive-Image 'web01-7f3a9c04-57.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret57' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image58 = Receive-Image 'web01-7f3a9c04-58.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret58' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image59 = Receive-Image 'web01-7f3a9c04-59.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret59' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image60 = Receive-Image 'web01-7f3a9c04-60.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret60' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image61 = Receive-Image 'web01-7f3a9c04-61.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret61' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image62 = Receive-Image 'web01-7f3a9c04-62.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret62' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image63 = Receive-Image 'web01-7f3a9c04-63.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret63' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image64 = Receive-Image 'web01-7f3a9c04-64.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret64' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
        $image65 = Receive-Image 'web01-7f3a9c04-65.vhdx' 'https://10.0.0.1:8443/api/v1/downloads/secret65' '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'

        $vm = New-VM -Name $Name -Generation $Generation -MemoryStartupBytes $Memory -NoVHD `
            -Path $Folder
        $made = $vm
        Add-Undo "the virtual machine $Name" { Remove-Machine $made }
        Set-VM -VM $vm -Notes $Unfinished -ProcessorCount $Processors -StaticMemory `
            -AutomaticStartAction Start -AutomaticStopAction ShutDown
        Get-VMNetworkAdapter -VM $vm | Remove-VMNetworkAdapter
        while (@(Get-VMScsiController -VM $vm).Count -lt 2) {
            Add-VMScsiController -VM $vm
        }
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 0 -Path $image0
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 1 -Path $image1
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 2 -Path $image2
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 3 -Path $image3
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 4 -Path $image4
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 5 -Path $image5
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 6 -Path $image6
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 7 -Path $image7
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 8 -Path $image8
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 9 -Path $image9
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 10 -Path $image10
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 11 -Path $image11
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 12 -Path $image12
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 13 -Path $image13
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 14 -Path $image14
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 15 -Path $image15
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 16 -Path $image16
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 17 -Path $image17
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 18 -Path $image18
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 19 -Path $image19
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 20 -Path $image20
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 21 -Path $image21
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 22 -Path $image22
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 23 -Path $image23
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 24 -Path $image24
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 25 -Path $image25
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 26 -Path $image26
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 27 -Path $image27
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 28 -Path $image28
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 29 -Path $image29
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 30 -Path $image30
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 31 -Path $image31
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 32 -Path $image32
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 33 -Path $image33
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 34 -Path $image34
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 35 -Path $image35
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 36 -Path $image36
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 37 -Path $image37
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 38 -Path $image38
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 39 -Path $image39
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 40 -Path $image40
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 41 -Path $image41
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 42 -Path $image42
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 43 -Path $image43
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 44 -Path $image44
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 45 -Path $image45
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 46 -Path $image46
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 47 -Path $image47
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 48 -Path $image48
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 49 -Path $image49
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 50 -Path $image50
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 51 -Path $image51
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 52 -Path $image52
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 53 -Path $image53
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 54 -Path $image54
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 55 -Path $image55
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 56 -Path $image56
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 57 -Path $image57
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 58 -Path $image58
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 59 -Path $image59
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 60 -Path $image60
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 61 -Path $image61
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 62 -Path $image62
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 63 -Path $image63
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 1 `
            -ControllerLocation 0 -Path $image64
        Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 1 `
            -ControllerLocation 1 -Path $image65
        Set-VMFirmware -VM $vm -EnableSecureBoot On -SecureBootTemplate MicrosoftWindows
        $boot = Get-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 `
            -ControllerLocation 0
        Set-VMFirmware -VM $vm -FirstBootDevice $boot
        $nic = Add-VMNetworkAdapter -VM $vm -Name 'eno0' -StaticMacAddress '525400000000' -Passthru
        Connect-VMNetworkAdapter -VMNetworkAdapter $nic `
            -VMSwitch (Find-Switch 'LAN')
        $nic = Add-VMNetworkAdapter -VM $vm -Name 'eno1' -StaticMacAddress '525400000001' -Passthru
        Set-VMNetworkAdapterVlan -VMNetworkAdapter $nic -Access -VlanId 10
        Connect-VMNetworkAdapter -VMNetworkAdapter $nic `
            -VMSwitch (Find-Switch 'LAN')
        $nic = Add-VMNetworkAdapter -VM $vm -Name 'eno2' -StaticMacAddress '525400000002' -Passthru
        Set-VMNetworkAdapterVlan -VMNetworkAdapter $nic -Access -VlanId 20
        # Left unconnected until the guest was looked at; then connect it to
        # 'LAN'.
        Get-VMIntegrationService -VM $vm |
            Where-Object { -not $_.Enabled -and $_.Id -notlike '*6C09BB55-D683-4DA0-8931-C9BF705F6480' } |
            Enable-VMIntegrationService
        Add-ClusterVirtualMachineRole -VMId $vm.Id | Out-Null
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
if ($vm.State -eq 'Off') { Start-VM -VM $vm }
[pscustomobject]@{ name = $vm.Name; id = [string]$vm.Id } | ConvertTo-Json -Compress
