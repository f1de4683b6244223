/* Notes how to take back everything that a program does to its data directory, until it is synced, so that a test can
 * leave the directory as a power cut may: without anything that was not. The notes are in `power` beside the directory:
 * `journal`, which tests/src/power.rs reads, and files that were removed or replaced, under numbers. A file's contents
 * are synced by fsync and fdatasync of it, names by those of their directory; sync_file_range syncs nothing. Loaded with
 * LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "directory.h"

/* What a note says. All are followed by `length` bytes: old contents, or paths that each end with a zero byte. */
enum kind {
    CHANGED = 1, /* A file: what was from `offset` on, and its size before. */
    SYNCED,      /* A file or directory: all notes before `offset` in the journal are settled. */
    CREATED,     /* A directory: the path. */
    REMOVED,     /* A directory: the path, where the file is kept. */
    RENAMED,     /* A directory: from, to, where the file is kept that was there before, if any. */
};

struct note {
    uint64_t kind, inode, offset, size, length;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;
static uint64_t written;
static char data[4200];

/* A test must not go on with notes that are not whole. */
static void require(int holds)
{
    if (!holds)
        abort();
}

static void put(const void *bytes, size_t count)
{
    require(syscall(SYS_write, journal, bytes, count) == (long)count);
    written += count;
}

static void note(enum kind kind, uint64_t inode, uint64_t offset, uint64_t size, const void *bytes, size_t length)
{
    struct note note = {kind, inode, offset, size, length};
    put(&note, sizeof note);
    if (length)
        put(bytes, length);
}

__attribute__((constructor)) static void begin(void)
{
    char path[4300];
    struct stat stat;
    find_directory();
    if (!directory[0])
        return;
    snprintf(data, sizeof data, "%s/data", directory);
    snprintf(path, sizeof path, "%s/power", directory);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/power/journal", directory);
    journal = (int)syscall(SYS_openat, AT_FDCWD, path, O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0600);
    require(journal >= 0 && !fstat(journal, &stat));
    written = (uint64_t)stat.st_size;
}

static int is_data(const char *path)
{
    size_t length = strlen(data);
    return journal >= 0 && !strncmp(path, data, length) && (!path[length] || path[length] == '/');
}

/* Where a file is, if it is in the data directory. */
static int find(int file, char path[PATH_MAX])
{
    char link[64];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    errno = saved;
    if (length <= 0)
        return 0;
    path[length] = 0;
    return is_data(path);
}

static uint64_t inode_of_directory(const char *path)
{
    char parent[PATH_MAX];
    struct stat stat;
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    require(slash != NULL);
    *slash = 0;
    require(!lstat(parent, &stat));
    return stat.st_ino;
}

/* Notes what `length` bytes from `offset` on are before they change, and the size. */
static void note_contents(int file, uint64_t offset, uint64_t length)
{
    char link[64];
    struct stat stat;
    require(!fstat(file, &stat));
    if (!S_ISREG(stat.st_mode))
        return;
    uint64_t size = (uint64_t)stat.st_size;
    uint64_t end = offset + length < size ? offset + length : size;
    size_t count = offset < end ? end - offset : 0;
    char *bytes = malloc(count ? count : 1);
    require(bytes != NULL);
    if (count) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        int reader = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
        require(reader >= 0);
        for (size_t got = 0; got < count;) {
            ssize_t read = pread64(reader, bytes + got, count - got, (off64_t)(offset + got));
            require(read > 0);
            got += (size_t)read;
        }
        syscall(SYS_close, reader);
    }
    note(CHANGED, stat.st_ino, offset, size, bytes, count);
    free(bytes);
}

/* Keeps a file under the number of the note that follows; writes that name to `paths`. */
static size_t keep(const char *path, char *paths)
{
    int size = sprintf(paths, "%s/power/%llu", directory, (unsigned long long)written);
    /* Of a step that failed. */
    syscall(SYS_unlink, paths);
    return linkat(AT_FDCWD, path, AT_FDCWD, paths, 0) ? 0 : (size_t)size + 1;
}

static uint64_t position_of(int file)
{
    struct stat stat;
    if (fcntl(file, F_GETFL) & O_APPEND)
        return fstat(file, &stat) ? 0 : (uint64_t)stat.st_size;
    off64_t position = lseek64(file, 0, SEEK_CUR);
    return position < 0 ? 0 : (uint64_t)position;
}

static size_t length_of(const struct iovec *parts, int count)
{
    size_t length = 0;
    for (int part = 0; part < count; part++)
        length += parts[part].iov_len;
    return length;
}

/* Does something to a file between a note of what it changes and the next one. */
#define CHANGE(file, offset, length, type, call)                                                                       \
    char path[PATH_MAX];                                                                                               \
    if (!find(file, path))                                                                                             \
        return call;                                                                                                   \
    pthread_mutex_lock(&lock);                                                                                         \
    note_contents(file, offset, length);                                                                               \
    type result = call;                                                                                                \
    int saved = errno;                                                                                                 \
    pthread_mutex_unlock(&lock);                                                                                       \
    errno = saved;                                                                                                     \
    return result

ssize_t write(int file, const void *bytes, size_t count)
{
    CHANGE(file, position_of(file), count, ssize_t, syscall(SYS_write, file, bytes, count));
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    CHANGE(file, position_of(file), length_of(parts, count), ssize_t, syscall(SYS_writev, file, parts, count));
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset)
{
    CHANGE(file, (uint64_t)offset, count, ssize_t, syscall(SYS_pwrite64, file, bytes, count, offset));
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t offset)
{
    CHANGE(file, (uint64_t)offset, length_of(parts, count), ssize_t,
           syscall(SYS_pwritev, file, parts, count, offset, 0));
}

int ftruncate64(int file, off64_t size)
{
    CHANGE(file, (uint64_t)size, UINT64_MAX - (uint64_t)size, int, (int)syscall(SYS_ftruncate, file, size));
}

int fallocate64(int file, int mode, off64_t offset, off64_t length)
{
    CHANGE(file, (uint64_t)offset, (uint64_t)length, int, (int)syscall(SYS_fallocate, file, mode, offset, length));
}

int posix_fallocate(int file, off_t offset, off_t length)
{
    return fallocate64(file, 0, offset, length) ? errno : 0;
}

static int sync_file(int file, long call)
{
    char path[PATH_MAX];
    struct stat stat;
    if (!find(file, path))
        return (int)syscall(call, file);
    pthread_mutex_lock(&lock);
    uint64_t before = written;
    pthread_mutex_unlock(&lock);
    int result = (int)syscall(call, file);
    int saved = errno;
    if (!result && !fstat(file, &stat)) {
        pthread_mutex_lock(&lock);
        note(SYNCED, stat.st_ino, before, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = saved;
    return result;
}

int fsync(int file)
{
    return sync_file(file, SYS_fsync);
}

int fdatasync(int file)
{
    return sync_file(file, SYS_fdatasync);
}

int open64(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    int creates = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
    mode_t mode = creates ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    char whole[PATH_MAX];
    struct stat stat;
    int is_ours = flags & (O_CREAT | O_TRUNC) && path[0] == '/' && is_data(path);
    if (!is_ours)
        return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    pthread_mutex_lock(&lock);
    snprintf(whole, sizeof whole, "%s", path);
    int is_there = !lstat(whole, &stat);
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, flags & ~O_TRUNC, mode);
    int saved = errno;
    if (file >= 0 && !is_there)
        note(CREATED, inode_of_directory(whole), 0, 0, whole, strlen(whole) + 1);
    if (file >= 0 && flags & O_TRUNC) {
        note_contents(file, 0, UINT64_MAX);
        require(!syscall(SYS_ftruncate, file, 0));
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return file;
}

int unlink(const char *path)
{
    char paths[3 * PATH_MAX];
    if (!is_data(path))
        return (int)syscall(SYS_unlink, path);
    pthread_mutex_lock(&lock);
    size_t length = (size_t)sprintf(paths, "%s", path) + 1;
    size_t saved_length = keep(path, paths + length);
    int result = (int)syscall(SYS_unlink, path);
    int saved = errno;
    if (!result) {
        require(saved_length);
        note(REMOVED, inode_of_directory(path), 0, 0, paths, length + saved_length);
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return result;
}

int rename(const char *from, const char *to)
{
    char paths[3 * PATH_MAX];
    if (!is_data(from) && !is_data(to))
        return (int)syscall(SYS_rename, from, to);
    pthread_mutex_lock(&lock);
    size_t length = (size_t)sprintf(paths, "%s", from) + 1;
    length += (size_t)sprintf(paths + length, "%s", to) + 1;
    length += keep(to, paths + length);
    int result = (int)syscall(SYS_rename, from, to);
    int saved = errno;
    if (!result)
        note(RENAMED, inode_of_directory(to), 0, 0, paths, length);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return result;
}
