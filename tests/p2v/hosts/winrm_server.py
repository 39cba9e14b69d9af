# SPDX-License-Identifier: GPL-3.0-or-later
"""A small WinRM endpoint: WS-Management over HTTPS, and PowerShell remoting by psrpcore.

The envelopes are those of Windows Server 2016 and 2019 as recorded in pypsrp's tests; it checks
what they check: the user, the shell, the action, the stream. What a script does is a function of
the test: there is no PowerShell in it.
"""

from __future__ import annotations

import base64
import ssl
import threading
import uuid
import xml.etree.ElementTree as ET
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

import psrpcore
from psrpcore.types import ErrorCategoryInfo, ErrorRecord, NETException, PSInvocationState

S = "{http://www.w3.org/2003/05/soap-envelope}"
A = "{http://schemas.xmlsoap.org/ws/2004/08/addressing}"
W = "{http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd}"
R = "{http://schemas.microsoft.com/wbem/wsman/1/windows/shell}"
SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
TRANSFER = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
POWERSHELL = "http://schemas.microsoft.com/powershell/Microsoft.PowerShell"
TIMED_OUT = "2150858793"
ENVELOPE = """<s:Envelope xml:lang="en-US" xmlns:s="http://www.w3.org/2003/05/soap-envelope" \
xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" \
xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" \
xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" \
xmlns:rsp="http://schemas.microsoft.com/wbem/wsman/1/windows/shell" \
xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"><s:Header>\
<a:Action>{action}</a:Action><a:MessageID>uuid:{id}</a:MessageID>\
<a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To>\
<a:RelatesTo>{to}</a:RelatesTo></s:Header><s:Body>{body}</s:Body></s:Envelope>"""
FAULT = """<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>w:{name}</s:Value>\
</s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">{text}</s:Text></s:Reason><s:Detail>\
<f:WSManFault Code="{code}" Machine="hv1"><f:Message>{text}</f:Message></f:WSManFault>\
</s:Detail></s:Fault>"""


@dataclass
class Said:
    """What a script said: strings, warnings, and the error that ended it."""

    output: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    error: str = ""


class Shell:
    """A runspace pool on the server, and what waits to be received of it and its pipelines."""

    def __init__(self, run):
        self.pool = psrpcore.ServerRunspacePool()
        self.run = run
        self.waiting = {}
        self.done = set()

    def take(self, data, pipeline=None):
        stream = psrpcore.StreamType.default
        self.pool.receive_data(psrpcore.PSRPPayload(data, stream, pipeline))
        while (event := self.pool.next_event()) is not None:
            if isinstance(event, psrpcore.CreatePipelineEvent):
                self._invoke(self.pool.pipeline_table[event.pipeline_id])
        while (payload := self.pool.data_to_send()) is not None:
            self.waiting.setdefault(payload.pipeline_id, []).append(payload.data)

    def _invoke(self, pipeline):
        (command,) = pipeline.metadata.commands
        assert command.is_script
        pipeline.start()
        said = self.run(command.command_text)
        for text in said.output:
            pipeline.write_output(text)
        for text in said.warnings:
            pipeline.write_warning(text)
        if said.error:
            exception = NETException(Message=said.error)
            record = ErrorRecord(Exception=exception, CategoryInfo=ErrorCategoryInfo())
            pipeline._change_state(PSInvocationState.Failed, record)
        else:
            pipeline.complete()
        self.done.add(pipeline.pipeline_id)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        known = base64.b64encode(self.server.user.encode()).decode()
        if self.headers.get("Authorization") != f"Basic {known}":
            return self._send(401, b"", {"WWW-Authenticate": 'Basic realm="WSMAN"'})
        assert self.path == "/wsman"
        request = ET.fromstring(body)
        header = request.find(f"{S}Header")
        action = header.findtext(f"{A}Action")
        assert header.findtext(f"{W}ResourceURI") == POWERSHELL
        answer = self._act(action.rpartition("/")[2], header, request.find(f"{S}Body"))
        name = "fault" if "<s:Fault>" in answer else f"{action}Response"
        text = ENVELOPE.format(
            action=name, id=str(uuid.uuid4()).upper(), to=header.findtext(f"{A}MessageID"),
            body=answer,
        )  # fmt: skip
        return self._send(500 if name == "fault" else 200, text.encode(), {})

    def _send(self, status, body, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/soap+xml;charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _act(self, verb, header, body):
        shells = self.server.shells
        if verb == "Create":
            options = {each.get("Name"): each.text for each in header.iter(f"{W}Option")}
            assert options["protocolversion"] >= "2.1"
            wanted = body.find(f"{R}Shell")
            assert wanted.findtext(f"{R}IdleTimeOut") == "PT60S"
            name = wanted.get("ShellId")
            shells[name] = shell = Shell(self.server.run)
            shell.take(base64.b64decode(wanted[-1].text))
            return (
                "<x:ResourceCreated><a:Address>http://hv1/wsman</a:Address>"
                f"<a:ReferenceParameters><w:ResourceURI>{POWERSHELL}</w:ResourceURI><w:SelectorSet>"
                f'<w:Selector Name="ShellId">{name}</w:Selector></w:SelectorSet>'
                f"</a:ReferenceParameters></x:ResourceCreated><rsp:Shell><rsp:ShellId>{name}"
                "</rsp:ShellId></rsp:Shell>"
            )
        name = next(each.text for each in header.iter(f"{W}Selector"))
        shell = shells[name]
        if verb == "Delete":
            del shells[name]
            return ""
        verbs = {
            "Command": self._command,
            "Send": self._input,
            "Receive": self._receive,
            "Signal": lambda *_: "<rsp:SignalResponse/>",
        }
        return verbs[verb](shell, body)

    def _command(self, shell, body):
        line = body.find(f"{R}CommandLine")
        name = line.get("CommandId")
        psrpcore.ServerPipeline(shell.pool, uuid.UUID(name))
        shell.take(base64.b64decode(line.findtext(f"{R}Arguments")), uuid.UUID(name))
        return f"<rsp:CommandResponse><rsp:CommandId>{name}</rsp:CommandId></rsp:CommandResponse>"

    def _input(self, shell, body):
        for stream in body.iter(f"{R}Stream"):
            assert stream.get("Name") in ("stdin", "pr")
            name = stream.get("CommandId")
            shell.take(base64.b64decode(stream.text), uuid.UUID(name) if name else None)
        return "<rsp:SendResponse/>"

    def _receive(self, shell, body):
        wanted = body.find(f"{R}Receive/{R}DesiredStream")
        assert wanted.text == "stdout"
        name = wanted.get("CommandId")
        key = uuid.UUID(name) if name else None
        waiting = shell.waiting.pop(key, [])
        if not waiting and key not in shell.done:
            text = "The WS-Management service cannot complete the operation within the time."
            return FAULT.format(name="TimedOut", code=TIMED_OUT, text=escape(text))
        mark = f' CommandId="{name}"' if name else ""
        streams = "".join(
            f'<rsp:Stream Name="stdout"{mark}>{base64.b64encode(data).decode()}</rsp:Stream>'
            for data in waiting
        )
        state = f'<rsp:CommandState{mark} State="{SHELL}/CommandState/Done"/>' if name else ""
        return f"<rsp:ReceiveResponse>{streams}{state}</rsp:ReceiveResponse>"


@contextmanager
def serving(certificate, run, user="EXAMPLE\\admin:secret"):
    """Serve scripts with `run` for the block; give the server, whose `shells` are those open."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.run, server.user, server.shells = run, user, {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
