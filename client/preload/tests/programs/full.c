// A program that can have no further file open. The kernel's own calls need none: what Vshmem cannot do then fails with ENOMEM, and works once there is room.
#include "check.h"
#include <sys/resource.h>

static struct rlimit all;

// No descriptor is free any more.
static void fill(void) {
    struct rlimit few = {8, all.rlim_max};
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    while (open("/dev/null", O_RDONLY) >= 0) {
    }
    CHECK(errno == EMFILE);
}
static void empty(void) {
    CHECK(setrlimit(RLIMIT_NOFILE, &all) == 0);
    for (int fd = 3; fd < 8; fd++) close(fd);
}

int main(void) {
    CHECK(getrlimit(RLIMIT_NOFILE, &all) == 0);
    fill();
    // Not even a first connection.
    FAILS(shmget(IPC_PRIVATE, 4096, 0600), ENOMEM);
    empty();
    int set = new_set(1), seg = shmget(IPC_PRIVATE, 4096, 0600);
    CHECK(seg >= 0 && op(set, 0, 1, 0) == 0);
    fill();
    FAILS(shmat(seg, NULL, 0), ENOMEM);
    CHECK(nattch(seg) == 0);
    // What is mapped already needs no file.
    CHECK(op(set, 0, 1, 0) == 0 && semctl(set, 0, GETVAL) == 2);
    pid_t child = fork();
    if (child == 0) {
        FAILS(shmat(seg, NULL, 0), ENOMEM);
        empty();
        int *memory = shmat(seg, NULL, 0);
        CHECK(memory != (void *)-1 && nattch(seg) == 1);
        CHECK(op(set, 0, -1, 0) == 0);
        _exit(0);
    }
    CHECK(ends_well(child));
    empty();
    CHECK(shmat(seg, NULL, 0) != (void *)-1);
    CHECK(semctl(set, 0, GETVAL) == 1);
    CHECK(shmctl(seg, IPC_RMID, NULL) == 0 && semctl(set, 0, IPC_RMID) == 0);
    return 0;
}
