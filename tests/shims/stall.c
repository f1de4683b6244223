/* Lets a test stop the disk: while the file named by STALL_FILE exists, fsync and fdatasync do not return. Loaded into
 * the broker with LD_PRELOAD. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void wait_while_stalled(void)
{
    const char *file = getenv("STALL_FILE");
    while (file && access(file, F_OK) == 0)
        usleep(1000);
}

int fdatasync(int file)
{
    wait_while_stalled();
    return (int)syscall(SYS_fdatasync, file);
}

int fsync(int file)
{
    wait_while_stalled();
    return (int)syscall(SYS_fsync, file);
}
