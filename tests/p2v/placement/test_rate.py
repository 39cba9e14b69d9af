# SPDX-License-Identifier: GPL-3.0-or-later
"""Ratings computed by hand, and what must hold for all of them."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2v.model.errors import UsageError
from p2v.model.host import HostFacts, HostLimits, HostLoad, HostNetwork, HostStorage, HypervisorKind
from p2v.model.machine import FirmwareKind
from p2v.model.plan import ImageFormat, Plan, PlannedDisk
from p2v.model.rating import Goal, Rating, Reason, Resource, Weights
from p2v.model.vm import SecureBoot, VmLoad, VmNic, VmSettings
from p2v.placement.rate import Candidate, Policy, half_steps, rank, rate

GiB = 1 << 30
TiB = 1 << 40


def vm(plan, **changes):
    return replace(plan, vm=replace(plan.vm, **changes))


def loaded(host, **changes):
    return replace(host, load=replace(host.load, **changes))


# --- by hand -------------------------------------------------------------------------------------
#
# CPU:     17 % used + 2 of 20 processors = 10 %, of 100 - 10:   1 - 27/90     = 0.7
# memory:  16 + 16 GiB of 144 - 16:                              1 - 32/128    = 0.75
# disk:    900 + 100 operations of 5000:                         1 - 1000/5000 = 0.8
# network: 90 + 10 MB/s of 1000:                                 1 - 100/1000  = 0.9


def test_the_four_terms_are_those_that_scvmm_publishes(plan, host):
    assert [term.value for term in rate(plan, host).terms] == pytest.approx([0.7, 0.75, 0.8, 0.9])


@pytest.mark.parametrize(
    ("goal", "weights", "score", "stars"),
    [
        (Goal.BALANCE, Weights(), 5 * 3.15 / 4, 3.5),  # 3.9375
        (Goal.BALANCE, Weights(cpu=3, memory=1, disk=0, network=0), 5 * 2.85 / 4, 3.5),  # 3.5625
        (Goal.BALANCE, Weights(cpu=0, memory=1, disk=1, network=2), 5 * 3.35 / 4, 4.0),  # 4.1875
        (Goal.BALANCE, Weights(cpu=0, memory=0.1, disk=2, network=2), 5 * 3.475 / 4.1, 4.0),
        (Goal.CONSOLIDATE, Weights(), 5 * 0.85 / 4, 1.0),  # 1.0625
        (Goal.CONSOLIDATE, Weights(cpu=1, memory=0, disk=0, network=0), 1.5, 1.5),
    ],
)
def test_stars_are_five_times_the_weighted_mean_rounded_down(
    plan, host, goal, weights, score, stars
):
    rating = rate(plan, host, Policy(goal, weights))
    assert rating.score == pytest.approx(score)
    assert rating.stars == stars


@pytest.mark.parametrize(
    ("score", "stars"),
    [(0, 0), (0.49, 0), (0.5, 0.5), (1.0624, 1), (2.999999, 2.5), (4.9999999999, 5), (5, 5)],
)
def test_half_steps_round_down(score, stars):
    assert half_steps(score) == stars


def test_a_host_that_is_exactly_full_fits_and_gets_half_a_star(plan, host):
    full = replace(
        loaded(host, memory_used=112 * GiB, cpu_percent=80.0, iops=4900.0, network_bytes=990e6)
    )
    rating = rate(plan, full)
    assert (rating.stars, rating.reasons, rating.score) == (0.5, (), 0.0)
    assert rate(plan, full, Policy(Goal.CONSOLIDATE)).stars == 5


def test_an_empty_host_and_an_idle_machine_get_all_but_the_memory(plan, host):
    idle = vm(plan, load=VmLoad(0, 0, 0))
    empty = replace(host, load=HostLoad())
    # (1 + (1 - 16/128) + 1 + 1) / 4 = 0.96875; x 5 = 4.84375
    assert rate(idle, empty).stars == 4.5
    assert rate(vm(idle, memory=GiB // 4), replace(empty, memory=4 * TiB)).score > 4.99


def test_a_capacity_that_is_not_known_does_not_count_and_is_said(plan, host):
    rating = rate(plan, replace(host, max_iops=0.0, network_rate=0.0))
    assert [term.weight for term in rating.terms] == [0.5, 0.5, 0, 0]
    assert rating.stars == 3.5  # (0.7 + 0.75) / 2 x 5 = 3.625
    assert rating.terms[2].value is None
    assert "not known" in rating.terms[2].text


def test_a_load_that_was_not_measured_is_said(plan, host):
    rating = rate(vm(plan, load=None), host)
    assert rating.terms[0].added == 0
    assert any("not measured" in note for note in rating.notes)


# --- no stars ------------------------------------------------------------------------------------


def _disk(plan, **changes):
    return replace(plan, disks=(replace(plan.disks[0], **changes),))


def _limit(host, **changes):
    return replace(host, limits=replace(host.limits, **changes))


ZEROS = {
    Reason.MAINTENANCE: lambda p, h: (p, replace(h, maintenance=True)),
    Reason.CPU: lambda p, h: (p, loaded(h, cpu_percent=81.0)),
    Reason.MEMORY: lambda p, h: (vm(p, memory=113 * GiB), h),
    Reason.IOPS: lambda p, h: (p, loaded(h, iops=4901.0)),
    Reason.BANDWIDTH: lambda p, h: (p, loaded(h, network_bytes=991e6)),
    Reason.SPACE: lambda p, h: (p, replace(h, storages=(HostStorage("D:", 45 * GiB),))),
    Reason.CPU_COUNT: lambda p, h: (vm(p, cpus=21), h),
    Reason.MEMORY_LIMIT: lambda p, h: (p, _limit(h, memory=15 * GiB)),
    Reason.DISK_SIZE: lambda p, h: (p, _limit(h, disk=99 * GiB)),
    Reason.SECTOR: lambda p, h: (_disk(p, logical_sector=4096), _limit(h, sectors=(512,))),
    Reason.FORMAT: lambda p, h: (replace(p, format=ImageFormat.QCOW2), h),
    Reason.NETWORK: lambda p, h: (vm(p, nics=(VmNic("a", network="WAN"),)), h),
    Reason.VLAN: lambda p, h: (vm(p, nics=(VmNic("a", network="DMZ", vlan=30),)), h),
    Reason.FIRMWARE: lambda p, h: (p, _limit(h, firmware=(FirmwareKind.BIOS,))),
    Reason.SECURE_BOOT: lambda p, h: (
        vm(p, secure_boot=SecureBoot.UEFI_CA),
        _limit(h, secure_boot=False),
    ),
    Reason.ARCHITECTURE: lambda p, h: (vm(p, architecture="aarch64"), h),
    Reason.STORAGE: lambda p, h: (vm(p, storage="E:"), h),
    Reason.NOT_CLUSTERED: lambda p, h: (
        vm(p, clustered=True),
        replace(h, storages=(replace(h.storages[0], shared=True),)),
    ),
}


@pytest.mark.parametrize("code", [code for code in Reason if code is not Reason.SILENT])
def test_each_reason_takes_all_stars_and_stands_alone(plan, host, code):
    rating = rate(*ZEROS[code](plan, host))
    assert [reason.code for reason in rating.reasons] == [code]
    assert (rating.stars, rating.score) == (0, 0)


@pytest.mark.parametrize(
    ("hypervisor", "form", "convert", "fits"),
    [
        (HypervisorKind.HYPERV, ImageFormat.VHDX, True, True),
        (HypervisorKind.HYPERV, ImageFormat.QCOW2, True, False),
        (HypervisorKind.LIBVIRT, ImageFormat.QCOW2, True, True),
        (HypervisorKind.VMWARE, ImageFormat.RAW, True, True),
        (HypervisorKind.LIBVIRT, ImageFormat.VHDX, True, False),
        (HypervisorKind.LIBVIRT, ImageFormat.VHDX, False, True),
    ],
)
def test_a_guest_made_ready_for_other_devices_gets_no_star(
    plan, host, hypervisor, form, convert, fits
):
    wanted = replace(plan, format=form, convert=convert)
    takes_all = replace(host.limits, formats=tuple(ImageFormat))
    rating = rate(wanted, replace(host, hypervisor=hypervisor, limits=takes_all))
    assert [each.code for each in rating.reasons] == ([] if fits else [Reason.FORMAT])
    if not fits:
        (better,) = rating.improvements
        assert better.stars >= 0.5 and better.change.endswith(" images")


def test_a_host_with_many_faults_gets_all_of_their_reasons(plan, host):
    plan, host = vm(plan, cpus=30, memory=300 * GiB), replace(host, maintenance=True)
    codes = {reason.code for reason in rate(plan, host).reasons}
    assert codes == {Reason.MAINTENANCE, Reason.MEMORY, Reason.CPU_COUNT}


def test_a_host_that_does_not_answer_is_not_rated_from_what_was_known(plan, host):
    rating = rank(plan, [Candidate(host, problem="timed out", age_s=4000, samples=7)])[0]
    assert (rating.stars, rating.terms, rating.age_s) == (0, (), 4000)
    assert rating.reasons[0].code is Reason.SILENT
    assert "timed out" in rating.reasons[0].text


def test_disks_count_with_their_growth_and_the_reserve(plan, host):
    # 20 used + a fifth of the other 80 + 10 reserve
    def at(free):
        return rate(plan, replace(host, storages=(HostStorage("D:", free),)))

    assert at(46 * GiB).stars > 0
    assert at(46 * GiB - 1).reasons[0].missing == 1
    assert any("may grow to 100.0 GiB" in note for note in at(46 * GiB).notes)
    assert at(110 * GiB).notes == ()


def test_a_highly_available_machine_goes_to_shared_storage(plan, host):
    plan = vm(plan, clustered=True)
    local = HostStorage("D:", TiB)
    clustered = replace(host, in_cluster=True, storages=(local,))
    assert rate(plan, clustered).reasons[0].code is Reason.SPACE
    both = replace(clustered, storages=(local, HostStorage("CSV1", 200 * GiB, shared=True)))
    assert rate(plan, both).storage == "CSV1"


# --- what would change it ------------------------------------------------------------------------


def test_the_missing_memory_is_said_and_suffices(plan, host):
    plan = vm(plan, memory=176 * GiB)
    rating = rate(plan, host)
    (better,) = rating.improvements
    assert better.change == "+64 GiB memory"
    assert rate(plan, replace(host, memory=208 * GiB)).stars == better.stars > 0


def test_all_that_is_needed_is_said_at_once(plan, host):
    rating = rate(vm(plan, memory=176 * GiB), replace(host, maintenance=True))
    assert rating.improvements[0].change == "out of maintenance mode and +64 GiB memory"


def test_nothing_is_promised_where_nothing_helps(plan, host):
    assert rate(vm(plan, architecture="aarch64"), host).improvements == ()


@pytest.mark.parametrize("code", ZEROS)
def test_a_promise_names_stars_that_a_rating_gives(plan, host, code):
    for better in rate(*ZEROS[code](plan, host)).improvements:
        assert better.stars >= 0.5 and better.change


def test_more_of_a_resource_gives_the_stars_that_are_promised(plan, host):
    rating = rate(plan, host)
    memory = next(b for b in rating.improvements if "memory" in b.change)
    more = int(re.match(r"\+(\d+) GiB", memory.change)[1]) * GiB
    assert rate(plan, replace(host, memory=host.memory + more)).stars == memory.stars > rating.stars


# --- for all hosts and machines ------------------------------------------------------------------

share = st.floats(0, 1.2, allow_nan=False)


@st.composite
def hosts(draw):
    memory = draw(st.integers(0, 512)) * GiB
    return HostFacts(
        name=draw(st.text(max_size=8)),
        hypervisor=draw(st.sampled_from(HypervisorKind)),
        cpus=draw(st.integers(0, 64)),
        memory=memory,
        storages=(HostStorage("s", draw(st.integers(0, 400)) * GiB),),
        networks=(HostNetwork("LAN"),),
        load=HostLoad(
            draw(share) * 100, int(memory * draw(share)), draw(share) * 1000, draw(share) * 1e9
        ),
        limits=HostLimits(formats=tuple(ImageFormat)),
        max_iops=draw(st.sampled_from([0.0, 1000.0])),
        network_rate=draw(st.sampled_from([0.0, 1e9])),
        maintenance=draw(st.booleans()),
    )


policies = st.builds(
    Policy,
    st.sampled_from(Goal),
    st.builds(Weights, st.floats(0.1, 10), st.floats(0, 10), st.floats(0, 10), st.floats(0, 10)),
)


def _plan():
    settings = VmSettings(cpus=2, memory=8 * GiB, nics=(VmNic("a", network="LAN"),),
                          load=VmLoad(0.5, 50, 1e6))  # fmt: skip
    return Plan("p", (PlannedDisk("sda", "/dev/sda", 50 * GiB),), vm=settings)


@settings(deadline=None)
@given(hosts(), policies)
def test_stars_are_half_steps_and_zero_has_a_reason(host, policy):
    rating = rate(_plan(), host, policy)
    assert rating.stars in {step / 2 for step in range(11)}
    assert (rating.stars == 0) == bool(rating.reasons)


@settings(deadline=None)
@given(hosts(), policies, st.data())
def test_more_load_never_raises_the_stars_of_a_balanced_placement(host, policy, data):
    policy = replace(policy, goal=Goal.BALANCE)
    before = rate(_plan(), host, policy).stars
    name = data.draw(st.sampled_from(["cpu_percent", "memory_used", "iops", "network_bytes"]))
    value = getattr(host.load, name)
    more = type(value)(value * data.draw(st.floats(1, 3)) + data.draw(st.integers(0, 100)))
    assert rate(_plan(), loaded(host, **{name: more}), policy).stars <= before


@settings(deadline=None)
@given(hosts(), policies, st.floats(1, 5))
def test_a_busier_machine_never_gets_more_stars_by_balance(host, policy, factor):
    policy = replace(policy, goal=Goal.BALANCE)
    plan = _plan()
    load = VmLoad(0.5 * factor, 50 * factor, 1e6 * factor)
    busier = vm(plan, load=load, memory=int(plan.vm.memory * factor))
    assert rate(busier, host, policy).stars <= rate(plan, host, policy).stars


@settings(deadline=None)
@given(hosts(), policies, st.floats(1, 3))
def test_consolidation_prefers_the_fuller_host_until_it_is_full(host, policy, factor):
    policy = replace(policy, goal=Goal.CONSOLIDATE)
    fuller = loaded(host, memory_used=int(host.load.memory_used * factor))
    after = rate(_plan(), fuller, policy)
    if not after.reasons:
        assert after.stars >= rate(_plan(), host, policy).stars


@settings(deadline=None)
@given(st.lists(hosts(), max_size=6), policies, st.randoms())
def test_the_order_of_hosts_is_irrelevant(found, policy, rng: random.Random):
    named = [replace(host, name=f"h{number}") for number, host in enumerate(found)]
    shuffled = rng.sample(named, len(named))
    plan = _plan()
    assert rank(plan, map(Candidate, named), policy) == rank(plan, map(Candidate, shuffled), policy)


@settings(deadline=None)
@given(hosts(), policies)
def test_the_words_and_the_score_agree_with_the_numbers(host, policy):
    rating = rate(_plan(), host, policy)
    assert [term.resource for term in rating.terms] == list(Resource)
    assert sum(term.weight for term in rating.terms) == pytest.approx(1) or host.cpus == 0
    for term in rating.terms:
        if term.value is None:
            continue
        usable = term.capacity - term.reserve
        expected = 1 - (term.used + term.added) / usable if usable > 0 else 0
        assert term.value == pytest.approx(min(max(expected, 0), 1))
        wanted = term.value if policy.goal is Goal.BALANCE else 1 - term.value
        assert term.stars == pytest.approx(5 * term.weight * wanted)
        assert f"{term.stars:.2f} stars" in term.text
        assert f"{term.value:.0%} free" in term.text
    if not rating.reasons:
        assert rating.score == pytest.approx(sum(term.stars for term in rating.terms))


@settings(deadline=None)
@given(hosts(), policies)
def test_a_rating_survives_json(host, policy):
    rating = rate(_plan(), host, policy)
    assert Rating.from_json(json.loads(json.dumps(rating.to_json()))) == rating


# --- mistakes ------------------------------------------------------------------------------------


def test_a_plan_without_a_machine_can_not_be_placed(plan, host):
    with pytest.raises(UsageError, match="nothing to place"):
        rate(replace(plan, vm=None), host)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(weights=Weights(cpu=-1)),
        Policy(weights=Weights(cpu=0, memory=0)),
        Policy(weights=Weights(disk=float("nan"))),
        Policy(growth=1.5),
        Policy(growth=-0.1),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(plan, host, policy):
    with pytest.raises(UsageError):
        rate(plan, host, policy)
