// Says "ready", waits for a line while somebody kills the daemon, and goes on: blocked, attached, with undo.
#include "check.h"

int main(void) {
    int set = new_set(2), seg = shmget(IPC_PRIVATE, 4096, 0600), queue = msgget(IPC_PRIVATE, 0600);
    struct { long mtype; char text[4]; } m = {1, "abc"};
    int *memory = shmat(seg, NULL, 0);
    CHECK(memory != (void *)-1 && queue >= 0);
    memory[0] = 4711;
    CHECK(op(set, 0, 3, SEM_UNDO) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(op(set, 1, -1, 0) == 0);
        CHECK(msgrcv(queue, &m, 4, 0, 0) == 4);
        CHECK(memory[0] == 4711 && nattch(seg) == 2);
        _exit(0);
    }
    CHECK(sleeper(set, 1));
    puts("ready");
    fflush(stdout);
    char line[8];
    CHECK(fgets(line, sizeof line, stdin));
    CHECK(op(set, 1, 1, 0) == 0);
    CHECK(msgsnd(queue, &m, 4, 0) == 0);
    int other = new_set(1);
    CHECK(semctl(other, 0, IPC_RMID) == 0);
    CHECK(ends_well(child));
    CHECK(nattch_becomes(seg, 1) && semctl(set, 0, GETVAL) == 3);
    CHECK(shmdt(memory) == 0 && shmctl(seg, IPC_RMID, NULL) == 0);
    CHECK(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
    puts("done");
    return 0;
}
