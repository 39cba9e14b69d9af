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
