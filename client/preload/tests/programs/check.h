// What every program here needs: checks that say what failed and where, and a limit on time.
#ifndef CHECK_H
#define CHECK_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: %s (errno %d %s)\n", __FILE__, __LINE__, #what, errno,         \
                    strerror(errno));                                                              \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)
#define FAILS(what, number) CHECK((errno = 0, (long)(what)) == -1 && errno == (number))

static inline int new_set(int nsems) {
    int id = semget(IPC_PRIVATE, nsems, 0600);
    CHECK(id >= 0);
    return id;
}
static inline int op(int id, int num, int change, int flags) {
    struct sembuf one = {num, change, flags};
    return semop(id, &one, 1);
}
static inline long nattch(int id) {
    struct shmid_ds ds;
    CHECK(shmctl(id, IPC_STAT, &ds) == 0);
    return ds.shm_nattch;
}
// Waits until nattch is as expected: what ended may be noticed a little later.
static inline int nattch_becomes(int id, long expected) {
    for (int i = 0; i < 400; i++) {
        if (nattch(id) == expected) return 1;
        usleep(5000);
    }
    fprintf(stderr, "nattch is %ld\n", nattch(id));
    return 0;
}
static inline int ends_well(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
// Waits until somebody sleeps in semop.
static inline int sleeper(int id, int num) {
    for (int i = 0; i < 400; i++) {
        if (semctl(id, num, GETNCNT) + semctl(id, num, GETZCNT) > 0) return 1;
        usleep(5000);
    }
    return 0;
}
#endif
