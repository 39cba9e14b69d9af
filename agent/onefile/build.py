# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the agent as one executable: `python agent/onefile/build.py OUTPUT`.

In it are this machine's Python and C library, the packages that the agent imports, its tools, and
every library that one of them needs. The programs are linked to `FOLDER`, where `launcher.c`
unpacks them; nothing of the server's is used but its kernel. That the C library travels along is
what makes the age of the server's irrelevant: glibc 2.36 itself asks for Linux 3.2 or later.

What is used from the server where it is there: lvm (its own version must handle its volumes), and
what the hooks in /etc/p2v/freeze.d call.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import py_compile
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import zstandard

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
FOLDER = "/run/p2v-agent"
MAGIC = b"p2vagent"

TOOLS = (
    *(f"partclone.{kind}" for kind in ("ext2", "ext3", "ext4", "xfs", "btrfs")),
    *(f"partclone.{kind}" for kind in ("vfat", "exfat", "ntfs")),
    *("xfs_db", "dumpe2fs", "blkid", "lsblk", "mount", "umount"),
    *("lscpu", "dmidecode", "smartctl", "ip"),
)
"""What the agent runs, by `agent.tools`."""

PACKAGES = ("agent", "native", "p2v")
CONVERTER_ONLY = {"dbos", "fastapi", "prometheus-client", "pydantic", "uvicorn"}
"""Dependencies that no module of the agent imports, with `--to DIR` either."""

_STDLIB = Path(sysconfig.get_path("stdlib"))
_NOT_USED = re.compile(
    r"(^|/)(agent/onefile|__pycache__|__editable__[^/]*|tests?|testing|idlelib|tkinter|turtledemo"
    r"|lib2to3|ensurepip|distutils|pydoc_data|config-[^/]*|dist-packages|site-packages|RECORD|direct_url\.json|INSTALLER)(/|$)"
    r"|\.(pyc|pyi|pyx|pxd|c|h|a|exe|typed)$|_test[a-z]*\.cpython|\.dist-info/(?!METADATA)"
)
_NEEDED = re.compile(r"(?:=>\s*)?(/\S+)\s+\(0x")
_ELF = b"\x7fELF"
_LOCALE = Path("/usr/lib/locale/C.utf8")
_LIBRARIES_BESIDE = ("libgcc_s.so.1",)  # of the C library, for threads that are cancelled


def main() -> None:
    """Build it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--level", type=int, default=19, help="of the compression")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="p2v-onefile-") as name:
        tree = Path(name, "tree")
        gather(tree)
        launcher = compile_launcher(Path(name, "launcher"))
        payload = pack(tree, options.level)
    new = options.output.with_name(options.output.name + ".new")
    new.write_bytes(launcher + payload + struct.pack("<Q8s", len(payload), MAGIC))
    new.chmod(0o755)
    new.replace(options.output)
    digest = hashlib.sha256(options.output.read_bytes()).hexdigest()
    print(f"{options.output}: {options.output.stat().st_size >> 20} MiB, sha256 {digest}")


# --- what is in it -------------------------------------------------------------------------------


def gather(tree: Path) -> None:
    """Fill `tree` with what is to be found at `FOLDER`."""
    library = tree / "python" / "lib"
    stdlib = library / _STDLIB.name
    copy_modules(_STDLIB, _files(_STDLIB), stdlib)
    packages = library / "python3" / "dist-packages"  # where Debian's Python looks
    for name in PACKAGES:
        copy_modules(REPOSITORY, _files(REPOSITORY / name), packages)
    site = Path(sysconfig.get_path("purelib"))
    for distribution in distributions():
        copy_modules(site, installed(distribution, site), packages)
    programs = [_program(Path(sys.executable).resolve(), tree / "python/bin/python3")]
    for tool in TOOLS:
        if (found := shutil.which(tool)) is None:
            sys.exit(f"{tool} is missing; 'make setup' installs it")
        programs.append(_program(Path(found).resolve(), tree / "bin" / tool))
    modules = [path for path in library.rglob("*.so*") if not path.is_symlink()]
    loader = copy_libraries([*programs, *modules], tree / "lib")
    for path in (*modules, *programs, *(tree / "lib").iterdir()):
        _run("strip", "--strip-unneeded", path)
    shutil.copytree(_LOCALE, tree / "lib" / "locale" / _LOCALE.name)
    for path in programs:
        _run("patchelf", "--set-interpreter", f"{FOLDER}/lib/{loader}", path)
        # Not a RUNPATH: that would not hold for the libraries of libraries.
        _run("patchelf", "--force-rpath", "--set-rpath", f"{FOLDER}/lib", path)


def distributions() -> list[metadata.Distribution]:
    """Return p2v and what its agent depends on, directly or not."""
    waiting = ["p2v"]
    found: dict[str, metadata.Distribution] = {}
    while waiting:
        name = waiting.pop()
        if name in found or name in CONVERTER_ONLY:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # only needed on other systems
            continue
        wanted = found[name].requires or ()
        waiting += [_name(text) for text in wanted if "extra ==" not in text]
    return [found[name] for name in sorted(found)]


def installed(distribution: metadata.Distribution, site: Path) -> Iterator[Path]:
    """Yield the files of a distribution below `site`."""
    if distribution.read_text("RECORD") is not None:
        found = (Path(str(file.locate())) for file in distribution.files or ())
        yield from (path for path in found if path.is_relative_to(site) and path.is_file())
        return
    for name in (distribution.read_text("top_level.txt") or "").split():  # an older setuptools
        yield from _files(site / name)
        yield from site.glob(f"{name}.*")


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement  # noqa: S101
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def copy_modules(base: Path, paths: Iterable[Path], into: Path) -> None:
    """Copy what is needed of `paths`, at their places below `base`; modules are compiled."""
    for path in paths:
        place = path.relative_to(base)
        if _NOT_USED.search(str(place)):
            continue
        target = into / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py":
            _compile(path, place, target.with_suffix(".pyc"))
        else:
            shutil.copyfile(path, target)


def _compile(path: Path, place: Path, target: Path) -> None:
    py_compile.compile(
        str(path),
        cfile=str(target),
        dfile=str(place),
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _program(path: Path, target: Path) -> Path:
    if path.read_bytes()[:4] != _ELF:
        sys.exit(f"{path} is no program that could be taken along")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    target.chmod(0o755)
    return target


def copy_libraries(users: Iterable[Path], into: Path) -> str:
    """Copy all that `users` are linked to, flat; return the name of the program loader."""
    into.mkdir()
    loader = ""
    for user in users:
        for found in _NEEDED.findall(_run("ldd", user)):
            path = Path(found)
            if path.name.startswith("ld-linux"):
                loader = path.name
            _copy_library(path, into)
    libc = Path(_run("gcc", "-print-file-name=libc.so.6").strip()).resolve()
    for name in _LIBRARIES_BESIDE:
        _copy_library(libc.with_name(name), into)
    return loader


def _copy_library(path: Path, into: Path) -> None:
    target = into / path.name
    if not target.exists():
        shutil.copyfile(path.resolve(), target)
        target.chmod(0o755)


# --- the file ------------------------------------------------------------------------------------


def compile_launcher(output: Path) -> bytes:
    """Return the program that the file begins with; it needs no library."""
    warnings = ("-O2", "-Wall", "-Wextra", "-Werror", "-s", "-static", f'-DFOLDER="{FOLDER}"')
    _run("gcc", *warnings, "-o", output, HERE / "launcher.c", "-lzstd")
    return output.read_bytes()


def pack(tree: Path, level: int) -> bytes:
    """Return `tree` as a compressed archive, the same for the same contents."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(tree.iterdir()):
            archive.add(path, arcname=path.name, filter=_entry)
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
    return compressor.compress(plain.getvalue())


def _entry(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    return info


def _run(*argv: str | Path) -> str:
    words: Sequence[str] = [str(word) for word in argv]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
