# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from agent.inventory.kernels import check_kernels

HYPERV = ("kernel/drivers/hv/hv_vmbus.ko.xz", "kernel/drivers/scsi/hv_storvsc.ko",
          "kernel/drivers/net/hyperv/hv_netvsc.ko.zst")  # fmt: skip
KVM = ("kernel/drivers/virtio/virtio_pci.ko", "kernel/drivers/net/virtio_net.ko")
BLOCK = ("kernel/drivers/block/virtio_blk.ko",)


@pytest.fixture
def install(tmp_path):
    def make(version: str, modules=(), builtin=(), boot=True):
        folder = tmp_path / "lib/modules" / version
        folder.mkdir(parents=True)
        (folder / "modules.dep").write_text("".join(f"{path}: other.ko\n" for path in modules))
        (folder / "modules.builtin").write_text("".join(f"{path}\n" for path in builtin))
        if boot:
            (tmp_path / "boot").mkdir(exist_ok=True)
            (tmp_path / "boot" / f"vmlinuz-{version}").touch()
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("modules", "builtin", "lacking"),
    [
        ((*HYPERV, *KVM, *BLOCK), (), []),
        ((*KVM, *BLOCK), HYPERV, []),
        ((*HYPERV, *KVM, "x/virtio-scsi.ko"), (), []),
        ((*HYPERV, *KVM), (), ["KVM: virtio_blk or virtio_scsi"]),
        (KVM[1:] + BLOCK, (), ["Hyper-V: hv_netvsc, hv_storvsc, hv_vmbus", "KVM: virtio_pci"]),
    ],
)
def test_each_host_needs_its_drivers(install, modules, builtin, lacking):
    found = list(check_kernels(install("5.10.0-9", modules, builtin), running="x"))
    assert [each.subject for each in found] == ["5.10.0-9"] * len(lacking)
    assert all(f"for {words}." in each.message for each, words in zip(found, lacking, strict=True))


def test_leftovers_and_kernels_that_tell_nothing_are_passed_over(install, tmp_path):
    install("4.19.0", KVM, boot=False)
    (tmp_path / "lib/modules/5.0.0-custom").mkdir()
    assert not list(check_kernels(tmp_path, running="x"))
    assert len(list(check_kernels(tmp_path, running="4.19.0"))) == 2
    assert not list(check_kernels(tmp_path / "nothing", running="x"))
