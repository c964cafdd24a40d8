// A program that closes every descriptor it did not open, as daemons do, and goes on.
#include "check.h"

int main(void) {
    int set = new_set(1), seg = shmget(IPC_PRIVATE, 4096, 0600);
    int *memory = shmat(seg, NULL, 0);
    CHECK(memory != (void *)-1 && op(set, 0, 1, SEM_UNDO) == 0);
    for (int round = 0; round < 3; round++) {
        for (int fd = 3; fd < 2000; fd++) close(fd);
        if (round == 1) // Somebody else's descriptors where ours were.
            for (int i = 0; i < 1000; i++) CHECK(open("/dev/null", O_RDWR) >= 0);
        CHECK(op(set, 0, 1, 0) == 0);
        CHECK(nattch(seg) == 1);
        memory[0]++;
    }
    CHECK(semctl(set, 0, GETVAL) == 4);
    pid_t child = fork();
    if (child == 0) {
        CHECK(daemon(0, 1) == 0);
        CHECK(nattch(seg) >= 2 && op(set, 0, 1, 0) == 0);
        memory[1] = 1;
        _exit(0);
    }
    CHECK(ends_well(child));
    for (int i = 0; i < 400 && !*(volatile int *)&memory[1]; i++) usleep(5000);
    CHECK(memory[1] == 1);
    CHECK(nattch_becomes(seg, 1));
    CHECK(semctl(set, 0, GETVAL) == 5);
    CHECK(shmctl(seg, IPC_RMID, NULL) == 0 && semctl(set, 0, IPC_RMID) == 0);
    return 0;
}
