# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts, ratings, scripts and links over a real converter, by its API and by `p2v`."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.cli.main import main
from p2v.guest.report import Report, Verdict, report_path
from p2v.guest.target import Platform, Target
from p2v.model.machine import FirmwareKind
from p2v.model.migration import MigrationState
from p2v.model.plan import ImageFormat
from p2v.model.planfile import dump, to_json
from p2v.model.vm import VmLoad, VmNic, VmSettings
from tests.p2v.script.powershell import faults, parse

GiB = 1 << 30
HOSTS = """
[[hosts]]
name = "hv1"
hypervisor = "hyperv"
cpus = 20
memory = 154618822656
group = ["Berlin", "cluster-a"]
storages = [{ name = "D:\\\\VMs", free = 536870912000 }]
networks = [{ name = "LAN" }]
load = { cpu_percent = 17.0, memory_used = 17179869184 }
reserve = { memory = 17179869184 }

[[hosts]]
name = "hv2"
hypervisor = "hyperv"
cpus = 20
memory = 17179869184
networks = [{ name = "LAN" }]
maintenance = true
"""


@pytest.fixture
def hosts_file(tmp_path):
    path = tmp_path / "hosts.toml"
    path.write_text(HOSTS)
    return path


@pytest.fixture
def plan(make_plan):
    settings = VmSettings(
        cpus=4,
        memory=16 * GiB,
        nics=(VmNic("eno1", "52:54:00:00:00:01", "LAN"),),
        load=VmLoad(2.0, 10.0, 100.0),
    )
    return replace(make_plan(name="web 01"), vm=settings, convert=False)


@pytest.fixture
def plan_file(tmp_path, plan):
    path = tmp_path / "plan.toml"
    path.write_text(dump(plan))
    return path


@pytest.fixture
def p2v(running, capsys):
    def run(*words):
        code = main([*words, "--data", str(running.data)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def known(p2v, hosts_file):
    """The converter knows the hosts of the file."""
    code, out, err = p2v("hosts", "add", "lab", "--kind", "static", "--address", str(hosts_file))
    assert code == 0, err
    yield out
    p2v("hosts", "remove", "lab")


@pytest.fixture
def finished(running, plan):
    """A migration whose images are in place."""
    answer = running.client().call("POST", "/migrations", {"plan": to_json(plan)})
    name = answer.json["id"]
    store = running.converter.migrations.store
    image = Path(store.get(name).images[0])
    image.write_bytes(bytes(range(256)) * 4096)
    store.move(name, [MigrationState.RECEIVING], MigrationState.FINISHED)
    return name, image


def test_hosts_are_added_listed_shown_and_removed(p2v, known):
    assert "hv1" in known and "hyperv" in known
    code, out, _ = p2v("hosts", "list")
    assert code == 0
    hv2, berlin, cluster, hv1 = (out.index(name) for name in ("hv2", "Berlin", "cluster-a", "hv1"))
    assert hv2 < berlin < cluster < hv1
    assert "in maintenance mode" in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = p2v("hosts", "show", "hv1", "--json")
    document = json.loads(out)
    assert (document["facts"]["cpus"], document["connection"]) == (20, "lab")
    code, out, _ = p2v("hosts", "show", "hv2")
    assert "maintenance  yes" in out
    assert p2v("hosts", "refresh")[0] == 0
    assert p2v("hosts", "show", "nobody")[0] == 14
    assert p2v("hosts", "remove", "nobody")[0] == 14


def test_silent_hosts_are_shown_in_their_tree_within_80_columns(p2v, plan_file, tmp_path):
    path = tmp_path / "silent.toml"
    silent = (
        '[[hosts]]\nname = "hv3"\nhypervisor = "hyperv"\ncpus = 0\nmemory = 0\n'
        'group = ["Berlin", "cluster-b"]\nproblem = "WinRM timed out after 30 seconds at port 5986 '
        'of hv3.berlin.example.com, twice"\n'
    )
    path.write_text(HOSTS + silent)
    words = ("--kind", "static", "--address", str(path))
    try:
        assert p2v("hosts", "add", "more", *words)[0] == 0
        _, out, _ = p2v("hosts", "list")
        assert max(map(len, out.splitlines())) <= 80
        names = re.findall(r"^ *(HOST|hv\d) ", out, flags=re.MULTILINE)
        assert names == ["HOST", "hv2", "hv1", "hv3"]
        text = " ".join(out.split())
        assert "Berlin cluster-a hv1" in text and "cluster-b hv3" in text
        assert text.count("Berlin") == 1
        assert "does not answer: WinRM timed out" in text
        rated = p2v("hosts", "rate", str(plan_file))[1]
        assert max(map(len, rated.splitlines())) <= 80
        assert "no stars: the host does not answer: WinRM" in " ".join(rated.split())
    finally:
        p2v("hosts", "remove", "more")


def test_a_secret_is_never_shown(p2v, running, hosts_file, monkeypatch):
    monkeypatch.setenv("P2V_HOST_PASSWORD", "hunter2")
    words = ("--kind", "static", "--address", str(hosts_file), "--user", "root")
    kept = ("--reserve-memory", "0", "--reserve-iops", "50", "--reserve-network", "25")
    code, out, err = p2v("hosts", "add", "secret", *words, *kept, "--json")
    listed = p2v("hosts", "list", "--json")[1]
    answer = running.client().call("GET", "/hosts").body.decode()
    p2v("hosts", "remove", "secret")
    assert code == 0 and '"secret"' in listed
    (reserve,) = (each["reserve"] for each in json.loads(listed)["connections"])
    assert (reserve["memory"], reserve["iops"], reserve["network_percent"]) == (0, 50, 25)
    assert "hunter2" not in out + err + listed + answer


def test_a_host_that_does_not_answer_is_not_added(p2v):
    words = ("--kind", "libvirt", "--address", "qemu+unix:///system?socket=/nonexistent")
    code, _, err = p2v("hosts", "add", "kvm9", *words)
    assert code == 70 and "kvm9" in err and err.count("\n") == 2
    assert "kvm9" not in p2v("hosts", "list", "--json")[1]


def test_hosts_are_rated_with_every_term_and_reason(p2v, known, plan_file):
    code, out, _ = p2v("hosts", "rate", str(plan_file), "--explain")
    assert code == 0
    head, first, second = re.split(r"^(?:\*\*\*1/2|-) ", out, flags=re.MULTILINE)
    assert "STARS" in head and max(map(len, out.splitlines())) <= 80
    out = " ".join(out.split())
    # cpu 1 - 27/90 = 0.7, memory 1 - 32/128 = 0.75; (0.7 + 0.75) / 2 x 5 = 3.625
    assert first.split()[:4] == ["70%", "75%", "-", "-"] and "Berlin/cluster-a/hv1" in first
    assert "together 3.62 of 5, which makes 3.5 stars" in out
    assert "leaves 70% free" in out and "leaves 75% free" in out
    assert "maintenance" in second and "not enough memory" in second
    assert "no storage" in second
    assert p2v("hosts", "rate", str(plan_file), "--group", "Berlin")[1].count("hv") == 1
    assert p2v("hosts", "rate", str(plan_file), "--group", "Rome")[0] == 72


def test_the_same_ratings_come_from_the_api_and_without_a_converter(
    p2v, known, running, plan, plan_file, hosts_file, capsys
):
    answer = running.client().call("POST", "/placement", {"plan": to_json(plan)})
    by_api = [(each["host"], each["stars"]) for each in answer.json["ratings"]]
    assert by_api == [("hv1", 3.5), ("hv2", 0.0)]
    words = ["hosts", "rate", str(plan_file), "--hosts", str(hosts_file), "--json"]
    assert main(words) == 0
    offline = json.loads(capsys.readouterr().out)["ratings"]
    assert [(each["host"], each["stars"]) for each in offline] == by_api
    assert offline[0]["terms"] == answer.json["ratings"][0]["terms"]


def test_a_machine_is_removed_only_when_somebody_says_that_it_is_meant(
    p2v, running, finished, monkeypatch
):
    name = finished[0]
    assert p2v("hosts", "undeploy", name, "--yes")[0] == 15
    deployer = running.converter.migrations.deployer
    gone = []
    monkeypatch.setattr(type(deployer), "remove", lambda self, migration: gone.append(migration.id))
    deployer.store.want(name, running.converter.migrations.get(name).plan.vm)
    assert p2v("hosts", "undeploy", name)[0] == 2 and gone == []
    assert p2v("hosts", "undeploy", name, "--yes")[0] == 0 and gone == [name]


def test_a_migration_is_rated_too(p2v, known, running, finished):
    path = f"/placement?migration={finished[0]}&goal=consolidate"
    answer = running.client().call("GET", path).json
    assert answer["goal"] == "consolidate"
    assert answer["ratings"][0]["stars"] == 1.0  # (0.3 + 0.25) / 2 x 5 = 1.375
    assert p2v("hosts", "rate", finished[0], "--goal", "consolidate")[0] == 0
    shown = p2v("migrations", "show", finished[0])[1]
    assert f"-> {finished[1]}\n" in shown, "a finished image is there"


def test_a_migration_is_rated_by_weights_as_its_plan_is(known, running, finished, plan):
    path = f"/placement?migration={finished[0]}&weights="
    ask = running.client().call
    weighed = ask("GET", f"{path}cpu=3,memory=1").json["ratings"][0]["terms"]
    assert [term["weight"] for term in weighed[:2]] == [0.75, 0.25]
    body = {"plan": to_json(plan), "weights": {"cpu": 3, "memory": 1}}
    assert ask("POST", "/placement", body).json["ratings"][0]["terms"] == weighed
    refused = ask("GET", f"{path}gpu=1")
    assert refused.status == 422 and "'gpu' is not cpu or memory" in refused.body.decode()


@pytest.mark.parametrize("weights", ["cpu", "gpu=1", "cpu=-1", "cpu=0,memory=0"])
def test_weights_that_make_no_sense_are_refused(p2v, known, plan_file, weights):
    assert p2v("hosts", "rate", str(plan_file), "--weights", weights)[0] == 2


def test_a_figure_out_of_bounds_is_named_as_the_user_knows_it(p2v, known, plan_file):
    code, _, err = p2v("hosts", "rate", str(plan_file), "--growth", "9")
    assert code == 2 and "growth: Input should be less than or equal to 1" in err
    assert "body" not in err


def test_no_host_is_no_silence(p2v, running):
    assert "'p2v hosts add' adds one" in p2v("hosts", "list")[1]


def test_where_no_host_has_a_star_the_exit_code_says_so(p2v, known, plan, tmp_path):
    path = tmp_path / "huge.toml"
    path.write_text(dump(replace(plan, vm=replace(plan.vm, memory=1 << 50))))
    code, out, err = p2v("hosts", "rate", str(path))
    assert code == 72 and "not enough memory" in out and "no-suitable-host" not in err
    assert p2v("hosts", "rate", str(path), "--json")[0] == 72


def test_a_plans_script_needs_no_converter(plan_file, capsys):
    words = ["script", str(plan_file), "--kind", "hyperv", "--storage", "D:\\VMs"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert not faults(parse(text)) and "'web 01'" in text
    assert "Add-Type" not in text
    assert main(["script", str(plan_file), "--kind", "hyperv"]) == 2
    assert main(["script", str(plan_file), "--storage", "x"]) == 2


def test_the_report_on_a_guest_is_shown_once_there_is_one(running, finished):
    name, image = finished
    path = f"/migrations/{name}/conversion"
    answer = running.client().call("GET", path)
    assert answer.status == 409 and "not converted" in answer.json["detail"]
    target = Target(Platform.HYPERV, FirmwareKind.UEFI)
    report = Report((str(image),), target, Verdict.CONVERTED, "Debian 12 is ready.", 1.0)
    report_path(image).write_text(report.to_json())
    assert running.client().call("GET", path).json == json.loads(report.to_json())


def test_an_agent_reads_the_script_of_its_plan_beforehand(running, known, plan):
    plan = replace(plan, format=ImageFormat.VHDX)
    chosen = replace(plan, vm=replace(plan.vm, host="hv1"))
    for each, storage in ((plan, "Virtual Hard Disks"), (chosen, r"D:\VMs")):
        answer = running.client().call("POST", "/script", {"plan": to_json(each)}).json
        assert answer["kind"] == "hyperv" and storage in answer["text"]
        assert not faults(parse(answer["text"]))


def test_a_finished_migrations_script_fetches_its_images_once(p2v, running, finished, tmp_path):
    name, image = finished
    words = ("--kind", "xenserver", "--storage", "Local storage", "--progress", "none")
    code, text, err = p2v("script", name, *words)
    assert code == 0, err
    line = next(line for line in text.splitlines() if line.startswith("receive web-01"))
    _, file, url, sha256 = line.split()
    pin = next(line for line in text.splitlines() if line.startswith("public_key="))
    target = tmp_path / file
    curl = ["curl", "--fail", "--silent", "--show-error", "--continue-at", "-", "--insecure",
            "--output", target, "--pinnedpubkey"]  # fmt: skip
    wrong = subprocess.run([*curl, f"sha256//{'A' * 43}=", url], capture_output=True, text=True)
    assert wrong.returncode == 90, "another certificate is refused"
    target.write_bytes(image.read_bytes()[:1000])  # as if cut off before
    done = subprocess.run([*curl, pin.removeprefix("public_key="), url], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == image.read_bytes()
    check = f"{sha256}  {target}"
    assert not subprocess.run(["sha256sum", "--check", "-"], input=check.encode()).returncode
    again = subprocess.run([*curl[:-3], "--output", tmp_path / "again", url], capture_output=True)
    assert again.returncode == 22, "a link is good once"


def test_a_part_that_is_not_the_end_leaves_the_link_good(running, finished):
    token = running.converter.migrations.deployer.downloads.add(finished[1])
    client = running.client("")
    part = client.call("GET", f"/downloads/{token}", headers={"Range": "bytes=0-9"})
    assert (part.status, part.body) == (206, bytes(range(10)))
    rest = client.call("GET", f"/downloads/{token}", headers={"Range": "bytes=10-"})
    assert rest.body == finished[1].read_bytes()[10:]
    assert client.call("GET", f"/downloads/{token}").status == 404


def test_an_unfinished_migration_has_no_script(p2v, running):
    assert p2v("script", running.create(), "--kind", "hyperv", "--storage", "x")[0] == 15


def test_deploy_waits_and_says_why_it_failed(p2v, known, finished):
    code, _, err = p2v("hosts", "deploy", finished[0], "--host", "hv1")
    assert code == 71 and "p2v script" in err
    code, out, _ = p2v("hosts", "deploy", finished[0], "--host", "hv1", "--json")
    assert code == 71 and json.loads(out)["state"] == "failed"
    assert p2v("hosts", "deploy", "nothing-1")[0] == 14
    assert p2v("hosts", "deploy", "../x")[0] == 14


def test_a_machine_that_can_not_be_made_says_why(running, known, finished):
    name = finished[0]
    assert running.client().call("GET", f"/migrations/{name}/machine").status == 409
    made = running.admin.call("POST", f"/admin/migrations/{name}/machine", {"host": "hv1"})
    assert made["state"] in ("wanted", "making", "failed")
    for _ in range(600):
        found = running.client().call("GET", f"/migrations/{name}/machine").json
        if found["state"] == "failed":
            break
        time.sleep(0.1)
    assert "p2v script" in found["problem"] and found["undone"] == []
