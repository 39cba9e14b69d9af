# SPDX-License-Identifier: GPL-3.0-or-later
from dataclasses import replace

import pytest

from p2v.guest.edit import CopyFile, DeleteKey, RecoverHive, SetValue
from p2v.guest.facts import Volume
from p2v.guest.target import Platform
from p2v.guest.windows.facts import Filters, SystemPartition, VolumeState
from p2v.guest.windows.plan import details
from p2v.model.machine import FirmwareKind
from tests.p2v.guest.windows.making import (
    actions,
    control_set,
    facts,
    facts_of,
    planned,
    refused,
    service,
    target,
    windows,
)

UEFI = target(firmware=FirmwareKind.UEFI)


def disk_filters(*names: str) -> tuple[Filters, ...]:
    return (Filters("{4d36e967}", "DiskDrive", "UpperFilters", names),)


def test_nothing_to_do_is_a_good_answer():
    assert planned(facts()) == replace(planned(facts()), edits=(), problems=())


# --- drivers


@pytest.mark.parametrize("name", ["vmbus", "storvsc", "storflt", "intelide", "atapi", "pciide"])
def test_a_driver_that_starts_on_demand_starts_with_the_kernel(name):
    found = facts(windows(control_set(service(name, 3))))
    assert actions(planned(found)) == [rf"set ControlSet001\Services\{name}\Start to 0"]


def test_a_driver_that_is_held_back_no_longer_is():
    found = facts(windows(control_set(service("vmbus", overridden=True))))
    assert actions(planned(found)) == [r"delete the key ControlSet001\Services\vmbus\StartOverride"]


def test_every_control_set_is_changed():
    second = replace(control_set(service("storvsc", 3)), name="ControlSet002")
    found = facts(windows(control_set(service("storvsc", 3)), second))
    assert actions(planned(found)) == [
        rf"set {name}\Services\storvsc\Start to 0" for name in ("ControlSet001", "ControlSet002")
    ]


def test_generation_2_leaves_the_ide_drivers_alone():
    found = facts(windows(control_set(service("intelide", 3))), firmware=FirmwareKind.UEFI)
    assert planned(found, UEFI).edits == ()


def test_a_driver_without_its_file_is_not_started_since_that_would_stop_windows():
    known = windows(control_set(service("pciide", 3)))
    found = facts(replace(known, drivers=tuple(n for n in known.drivers if n != "pciide.sys")))
    assert planned(found).edits == ()


def test_a_missing_file_comes_out_of_the_driver_store():
    known = windows()
    stored = "/Windows/System32/DriverStore/FileRepository/wstorvsc.inf_amd64_652/storvsc.sys"
    found = facts(
        replace(
            known,
            drivers=tuple(n for n in known.drivers if n != "storvsc.sys"),
            packages=(stored,),
        )
    )
    assert [edit.action for edit in planned(found).edits] == [
        CopyFile(stored, "/Windows/System32/drivers/storvsc.sys")
    ]


def test_windows_7_gets_the_entries_that_its_device_database_lacks():
    known = windows(control_set(critical=("primary_ide_channel", "pci#ven_8086&dev_7111")))
    found = facts(replace(known, driver_database=False), version=(6, 1))
    keys = {edit.action.key.rpartition("\\")[2] for edit in planned(found).edits}
    assert keys == {
        "ACPI#VMBus",
        "VMBUS#{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}",
        "Secondary_IDE_Channel",
    }


def test_a_real_windows_7_needs_storvsc_only_and_loses_vmware_tools():
    edits = planned(facts_of("SYSTEM"))
    drivers = [action for action in actions(edits) if "storvsc" in action]
    assert drivers == [
        rf"set {name}\Services\storvsc\Start to 0" for name in ("ControlSet001", "ControlSet002")
    ]
    disabled = {action for action in actions(edits) if action.endswith("Start to 4")}
    assert r"set ControlSet001\Services\VMTools\Start to 4" in disabled
    assert not any("CriticalDeviceDatabase" in action for action in actions(edits))


def test_a_real_windows_10_gets_its_held_back_drivers_and_loses_a_vendors_filter():
    edits = planned(facts_of("SYSTEM_B"))
    deleted = {edit.action.key for edit in edits.edits if isinstance(edit.action, DeleteKey)}
    assert deleted == {
        rf"ControlSet001\Services\{name}\StartOverride"
        for name in ("vmbus", "storvsc", "storflt", "intelide", "atapi", "pciide")
    }
    filters = [edit for edit in edits.edits if "LowerFilters" in str(edit.action)]
    assert [edit.action.shown for edit in filters] == ["'EhStorClass'"]
    assert "stdcfltn" in filters[0].before


# --- filters and settings


def test_a_filter_without_a_driver_or_a_file_is_taken_out():
    gone = control_set(service("gone"), filters=disk_filters("partmgr", "ghost", "gone"))
    known = windows(gone)
    found = facts(replace(known, drivers=tuple(n for n in known.drivers if n != "gone.sys")))
    (edit,) = planned(found).edits
    assert edit.action.shown == "'partmgr'"
    assert "ghost: its driver is not installed" in edit.reason
    assert "gone: its file gone.sys is missing" in edit.reason


def test_an_unknown_filter_stays_and_is_named():
    encryption = service("safecrypt")
    known = windows(control_set(encryption, filters=disk_filters("partmgr", "safecrypt")))
    edits = planned(facts(known))
    assert edits.edits == ()
    assert [(one.code, one.subject) for one in edits.problems] == [("unknown-filter", "safecrypt")]


def test_windows_own_filters_always_stay():
    known = windows(control_set(filters=disk_filters("partmgr", "EhStorClass", "fvevol")))
    assert planned(facts(known)).edits == ()


def test_settings_that_hurt_elsewhere_are_changed():
    known = windows(control_set(san_policy=2, fast_startup=1, auto_reboot=1))
    done = actions(planned(facts(known)))
    assert r"set ControlSet001\Services\partmgr\Parameters\SanPolicy to 1" in done
    assert r"set ControlSet001\Control\Session Manager\Power\HiberbootEnabled to 0" in done
    assert r"set ControlSet001\Control\CrashControl\AutoReboot to 0" in done


def test_windows_7_knows_no_fast_startup():
    known = windows(control_set(fast_startup=-1))
    assert planned(facts(known, version=(6, 1))).edits == ()
    assert len(planned(facts(known)).edits) == 1


def test_services_of_the_old_hardware_are_disabled_unless_they_are():
    services = (service("hpqilo3", 1), service("Server Administrator", 2), service("vmci", 4))
    done = actions(planned(facts(windows(control_set(*services)))))
    assert done == [
        r"set ControlSet001\Services\hpqilo3\Start to 4",
        r"set ControlSet001\Services\Server Administrator\Start to 4",
    ]


def test_pending_changes_of_the_registry_come_first():
    known = replace(windows(control_set(san_policy=2)), recovered=24, logs=("/a.LOG1", "/a.LOG2"))
    first = planned(facts(known)).edits[0].action
    assert first == RecoverHive(known.hive, known.logs)


# --- the loader


@pytest.mark.parametrize(("fallback", "edits"), [(False, 1), (True, 0)])
def test_the_fallback_loader_is_added_where_there_is_none(fallback, edits):
    partition = SystemPartition("/dev/sda1", manager=True, fallback=fallback)
    found = facts(replace(windows(), system_partition=partition), firmware=FirmwareKind.UEFI)
    done = planned(found, UEFI).edits
    assert len(done) == edits
    if done:
        assert done[0].action == CopyFile(
            "/EFI/Microsoft/Boot/bootmgfw.efi", "/EFI/BOOT/BOOTX64.EFI", "/dev/sda1"
        )


# --- refusals and problems


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": VolumeState.HIBERNATED}, "hibernated"),
        ({"state": VolumeState.UNCLEAN}, "unclean-volume"),
        ({"dynamic": True}, "dynamic-system-disk"),
        ({"damage": "its bin at 0 is broken"}, "damaged-registry"),
    ],
)
@pytest.mark.parametrize("platform", Platform)
def test_what_must_not_be_converted_is_refused_with_a_way_out(changes, code, platform):
    refusal = refused(facts(replace(windows(), **changes)), target(platform))
    assert refusal.code == code
    assert refusal.hint


@pytest.mark.parametrize("version", [(5, 1), (5, 2), (6, 0)])
@pytest.mark.parametrize("platform", Platform)
def test_windows_before_7_is_refused_and_a_plain_ide_start_offered(version, platform):
    refusal = refused(facts(version=version), target(platform))
    assert refusal.code == "windows-too-old"
    assert "IDE" in refusal.hint and "--no-convert" in refusal.hint


def test_windows_7_by_uefi_has_no_generation_to_run_in():
    found = facts(version=(6, 1), firmware=FirmwareKind.UEFI)
    assert refused(found, UEFI).code == "no-generation-2"


def test_generation_2_needs_the_vmbus_drivers_and_generation_1_does_without():
    bare = tuple(one for one in control_set().services if one.name not in ("vmbus", "storvsc"))
    known = windows(replace(control_set(), services=bare))
    found = facts(known, firmware=FirmwareKind.UEFI)
    assert refused(found, UEFI).code == "no-vmbus-drivers"
    (problem,) = planned(facts(known)).problems
    assert problem.code == "no-vmbus-drivers" and "vmbus, storvsc" in problem.message


def test_a_domain_controller_is_warned_about():
    (problem,) = planned(facts(windows(product="LanmanNT"))).problems
    assert problem.code == "domain-controller"


def test_a_data_volume_of_bitlocker_is_named():
    found = facts(volumes=(Volume("/dev/sda3", kind="BitLocker"),))
    (problem,) = planned(found).problems
    assert (problem.code, problem.subject) == ("bitlocker-data", "/dev/sda3")


def test_details_name_what_a_person_looks_for():
    shown = {one.name: one.value for one in details(facts_of("SYSTEM_B"), target())}
    assert shown["storvsc"] == "start 0, held back"
    assert shown["DiskDrive LowerFilters"] == "EhStorClass, stdcfltn"
    assert shown["registry"] == "clean"


def test_every_registry_action_is_of_the_guests_own_hive():
    known = replace(windows(), hive="/WINNT/system32/config/SYSTEM")
    found = facts_of("SYSTEM_2", hive=known.hive)
    for edit in planned(found).edits:
        if isinstance(edit.action, SetValue | DeleteKey):
            assert edit.action.hive == known.hive
