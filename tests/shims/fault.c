/* Lets a test break the disk of one node: the file `fault` beside a node's data directory says how. `sync`: fsync and
 * fdatasync fail. `full`: nothing more can be written. `slow`: every sync takes 50 ms longer, or as many as a number behind
 * it says. The file `clock` there has the seconds by which the node's wall clock is off. Loaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "directory.h"

enum fault { NONE, SYNC, FULL, SLOW };

/* What is wrong with the disk that a file is on: its path has the name of the data directory in it. */
static enum fault fault_of(int file, unsigned *millis)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 16);
    if (length <= 0)
        return NONE;
    path[length] = 0;
    char *data = strstr(path, "/data/");
    if (!data)
        return NONE;
    strcpy(data, "/fault");
    FILE *fault = fopen(path, "r");
    if (!fault)
        return NONE;
    char word[8] = "";
    *millis = 50;
    int read = fscanf(fault, "%7s %u", word, millis);
    fclose(fault);
    if (read >= 1 && !strcmp(word, "sync"))
        return SYNC;
    if (read >= 1 && !strcmp(word, "full"))
        return FULL;
    if (read >= 1 && !strcmp(word, "slow"))
        return SLOW;
    return NONE;
}

static int before_sync(int file)
{
    unsigned millis;
    switch (fault_of(file, &millis)) {
    case SYNC:
        errno = EIO;
        return -1;
    case SLOW:
        usleep(millis * 1000);
        return 0;
    default:
        return 0;
    }
}

static int before_write(int file)
{
    int saved = errno;
    unsigned millis;
    if (fault_of(file, &millis) != FULL) {
        errno = saved;
        return 0;
    }
    errno = ENOSPC;
    return -1;
}

int fdatasync(int file)
{
    return before_sync(file) ? -1 : (int)syscall(SYS_fdatasync, file);
}

int fsync(int file)
{
    return before_sync(file) ? -1 : (int)syscall(SYS_fsync, file);
}

ssize_t write(int file, const void *bytes, size_t count)
{
    return before_write(file) ? -1 : syscall(SYS_write, file, bytes, count);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset)
{
    return before_write(file) ? -1 : syscall(SYS_pwrite64, file, bytes, count, offset);
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    return before_write(file) ? -1 : syscall(SYS_writev, file, parts, count);
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t offset)
{
    return before_write(file) ? -1 : syscall(SYS_pwritev, file, parts, count, offset, 0);
}

int posix_fallocate(int file, off_t offset, off_t length)
{
    return before_write(file) ? ENOSPC : syscall(SYS_fallocate, file, 0, offset, length) ? errno : 0;
}

int fallocate64(int file, int mode, off64_t offset, off64_t length)
{
    return before_write(file) ? -1 : (int)syscall(SYS_fallocate, file, mode, offset, length);
}

__attribute__((constructor)) static void begin(void)
{
    find_directory();
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result || clock != CLOCK_REALTIME || !directory[0])
        return result;
    char path[4200], text[32] = "";
    snprintf(path, sizeof path, "%s/clock", directory);
    FILE *file = fopen(path, "r");
    if (file) {
        size_t read = fread(text, 1, sizeof text - 1, file);
        text[read] = 0;
        fclose(file);
        time->tv_sec += atol(text);
    }
    return 0;
}
