// SPDX-License-Identifier: GPL-3.0-or-later
/*
 * The start of the single-file agent: unpacks what is appended to it into memory, and runs it.
 *
 * All that the agent needs (interpreter, C library, tools) is linked to run from one fixed folder.
 * A mount namespace of its own puts a tmpfs there: nothing is written to a disk of the server,
 * nobody else sees the files, several agents do not meet, and when the last process ends the
 * kernel takes all of it away, after kill -9 too. It also keeps every page of the agent off the
 * file systems that it freezes.
 *
 * The file is this program, a zstd stream of a ustar archive, and a trailer.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#define BLOCK 512
#define MAGIC "p2vagent"

struct trailer {
	uint64_t length; /* of the zstd stream before it */
	char magic[8];
};

/* POSIX.1-2017, pax, "ustar Interchange Format". */
struct header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type;
	char link[100], magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155];
	char padding[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a header is a block");

struct stream {
	ZSTD_DStream *context;
	ZSTD_inBuffer in;
};

static _Noreturn void die(const char *hint, const char *format, ...)
{
	va_list arguments;

	fputs("p2v-agent: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, ".\n  %s\n", hint);
	exit(1);
}

static const char damaged[] = "The file is damaged: fetch it again, and compare its digest.";

static void read_exactly(struct stream *stream, void *into, size_t length)
{
	ZSTD_outBuffer out = {into, length, 0};

	while (out.pos < out.size) {
		size_t before = out.pos, rest = ZSTD_decompressStream(stream->context, &out, &stream->in);

		if (ZSTD_isError(rest))
			die(damaged, "it cannot be unpacked: %s", ZSTD_getErrorName(rest));
		if (out.pos == before && stream->in.pos == stream->in.size)
			die(damaged, "it cannot be unpacked: it ends too early");
	}
}

static void write_file(struct stream *stream, const char *path, mode_t mode, size_t length)
{
	static char buffer[1 << 16];
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);

	if (fd < 0)
		die(damaged, "%s cannot be made: %s", path, strerror(errno));
	while (length) {
		size_t part = length < sizeof(buffer) ? length : sizeof(buffer);

		read_exactly(stream, buffer, part);
		if (write(fd, buffer, part) != (ssize_t)part)
			die("It needs 200 MiB of free memory.", "%s cannot be written: %s", path,
			    strerror(errno));
		length -= part;
	}
	close(fd);
}

/* Unpack below the current folder, which is ours alone. */
static void unpack(struct stream *stream)
{
	struct header header;
	char path[300], link[101], padding[BLOCK];

	for (;;) {
		size_t length;
		mode_t mode;

		read_exactly(stream, &header, sizeof(header));
		if (!header.name[0])
			break; /* a block of zeros ends the archive */
		snprintf(path, sizeof(path), "%.155s%s%.100s", header.prefix,
			 header.prefix[0] ? "/" : "", header.name);
		snprintf(link, sizeof(link), "%.100s", header.link);
		mode = (mode_t)strtoul(header.mode, NULL, 8) & 0777;
		length = strtoul(header.size, NULL, 8);
		if (header.type == '5' && mkdir(path, mode))
			die(damaged, "%s cannot be made: %s", path, strerror(errno));
		if (header.type == '2' && symlink(link, path))
			die(damaged, "%s cannot be made: %s", path, strerror(errno));
		if (header.type == '0') {
			write_file(stream, path, mode, length);
			read_exactly(stream, padding, (BLOCK - length % BLOCK) % BLOCK);
		}
	}
}

/* Go to the end, where the checksum is. */
static void finish(struct stream *stream)
{
	static char rest[1 << 16];
	size_t left;

	do {
		ZSTD_outBuffer out = {rest, sizeof(rest), 0};

		left = ZSTD_decompressStream(stream->context, &out, &stream->in);
		if (ZSTD_isError(left))
			die(damaged, "it cannot be unpacked: %s", ZSTD_getErrorName(left));
	} while (left && stream->in.pos < stream->in.size);
	if (left)
		die(damaged, "it cannot be unpacked: it ends too early");
}

/* Map the file itself and find the stream in it. */
static ZSTD_inBuffer payload(void)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct trailer trailer;
	struct stat status;
	char *data;

	if (fd < 0 || fstat(fd, &status))
		die("Mount /proc first.", "/proc/self/exe cannot be read: %s", strerror(errno));
	data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED)
		die(damaged, "it cannot be read: %s", strerror(errno));
	close(fd);
	memcpy(&trailer, data + status.st_size - sizeof(trailer), sizeof(trailer));
	if (memcmp(trailer.magic, MAGIC, sizeof(trailer.magic)) ||
	    trailer.length > (uint64_t)status.st_size - sizeof(trailer))
		die(damaged, "its end is missing");
	return (ZSTD_inBuffer){data + status.st_size - sizeof(trailer) - trailer.length,
			       trailer.length, 0};
}

/*
 * Our tools come first; libraries of the server must not get between ours, nor its locales: the only
 * one that is always right for our C library is the one that came with it.
 */
static void set_environment(void)
{
	const char *given = getenv("PATH");
	char *path;

	if (asprintf(&path, FOLDER "/bin:%s", given ? given : "/usr/bin:/bin") < 0 ||
	    setenv("PATH", path, 1) || setenv("LOCPATH", FOLDER "/lib/locale", 1) ||
	    setenv("GCONV_PATH", FOLDER "/lib/gconv", 1) || setenv("LC_ALL", "C.UTF-8", 1))
		die("Free some memory.", "%s", strerror(ENOMEM));
	unsetenv("LD_LIBRARY_PATH");
	unsetenv("LD_PRELOAD");
}

static void make_room(void)
{
	if (unshare(CLONE_NEWNS))
		die("Run it as root: it reads disks past their file systems.",
		    "it may not have mounts of its own: %s", strerror(errno));
	/* What the server mounts later is still to be seen here, and nothing of this there. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
		die("In a chroot: mount --bind DIR DIR before chroot DIR.",
		    "/ is no mount point: %s", strerror(errno));
	if (mkdir("/run", 0755) && errno != EEXIST)
		die("Make the folder /run.", "/run cannot be made: %s", strerror(errno));
	if (mkdir(FOLDER, 0700) && errno != EEXIST)
		die("Mount a tmpfs at /run.", "%s cannot be made: %s", FOLDER, strerror(errno));
	if (mount("p2v-agent", FOLDER, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=75%"))
		die("The kernel needs tmpfs.", "no memory at %s: %s", FOLDER, strerror(errno));
}

int main(int count, char **words)
{
	static char *const fixed[] = {FOLDER "/python/bin/python3", "-I", "-m", "agent.cli.main"};
	const size_t first = sizeof(fixed) / sizeof(*fixed);
	char **argv = calloc(first + (size_t)count, sizeof(*argv));
	struct stream stream = {ZSTD_createDStream(), payload()};
	int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (!argv || !stream.context)
		die("Free some memory.", "%s", strerror(ENOMEM));
	memcpy(argv, fixed, sizeof(fixed));
	memcpy(argv + first, words + 1, (size_t)(count - 1) * sizeof(*argv));
	set_environment();
	make_room();
	if (chdir(FOLDER))
		die("The kernel needs tmpfs.", "%s cannot be entered: %s", FOLDER, strerror(errno));
	umask(022);
	unpack(&stream);
	finish(&stream);
	if (here < 0 || fchdir(here))
		die("Change to a folder that exists.", "the current folder is gone: %s", strerror(errno));
	execv(argv[0], argv);
	die(damaged, "%s cannot be run: %s", argv[0], strerror(errno));
}
