// Death in the middle of things: undo is applied once, whoever waits goes on, nothing is left behind; undo outlives exec.
#include "check.h"

static int becomes(int set, int num, int value) {
    for (int i = 0; i < 600 && semctl(set, num, GETVAL) != value; i++) usleep(5000);
    return semctl(set, num, GETVAL) == value;
}
static void reap(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child);
}

int main(int count, char **words) {
    if (count == 2 && strcmp(words[1], "sleep") == 0)
        for (;;) pause();
    int set = new_set(3), queue = msgget(IPC_PRIVATE, 0600);
    CHECK(op(set, 0, 1, 0) == 0);
    pid_t child, other;

    // The owner of a mutex dies; somebody waits for it.
    if ((child = fork()) == 0) {
        CHECK(op(set, 0, -1, SEM_UNDO) == 0);
        for (;;) pause();
    }
    CHECK(becomes(set, 0, 0));
    if ((other = fork()) == 0) {
        CHECK(op(set, 0, -1, SEM_UNDO) == 0);
        _exit(0);
    }
    CHECK(sleeper(set, 0));
    kill(child, SIGKILL);
    reap(child);
    CHECK(ends_well(other) && becomes(set, 0, 1));

    // Undo outlives exec.
    if ((child = fork()) == 0) {
        CHECK(op(set, 0, -1, SEM_UNDO) == 0);
        execl("/proc/self/exe", words[0], "sleep", NULL);
        _exit(1);
    }
    CHECK(becomes(set, 0, 0));
    usleep(200000);
    CHECK(semctl(set, 0, GETVAL) == 0);
    kill(child, SIGKILL);
    reap(child);
    CHECK(becomes(set, 0, 1));

    // A sleeper dies and is counted no more.
    if ((child = fork()) == 0) {
        op(set, 1, -1, 0);
        _exit(1);
    }
    CHECK(sleeper(set, 1));
    kill(child, SIGKILL);
    reap(child);
    for (int i = 0; i < 600 && semctl(set, 1, GETNCNT); i++) usleep(5000);
    CHECK(semctl(set, 1, GETNCNT) == 0);
    CHECK(op(set, 1, 1, 0) == 0 && semctl(set, 1, GETVAL) == 1);

    // Killed anywhere, many times over, while others go on.
    for (int round = 0; round < 25; round++) {
        struct { long mtype; char text[100]; } m = {1, ""};
        if ((child = fork()) == 0)
            for (;;) {
                struct sembuf both[2] = {{0, -1, SEM_UNDO}, {2, 1, SEM_UNDO}};
                semop(set, both, 2);
                both[0].sem_op = 1, both[1].sem_op = -1;
                semop(set, both, 2);
                msgsnd(queue, &m, sizeof m.text, IPC_NOWAIT);
                msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT);
            }
        usleep(1000 + round * 500);
        kill(child, SIGKILL);
        struct timespec most = {10, 0};
        struct sembuf down = {0, -1, SEM_UNDO};
        CHECK(semtimedop(set, &down, 1, &most) == 0);
        CHECK(op(set, 0, 1, SEM_UNDO) == 0);
        reap(child);
        CHECK(becomes(set, 2, 0));
        CHECK(msgsnd(queue, &m, 5, IPC_NOWAIT) == 0 || errno == EAGAIN);
        while (msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT) >= 0) {}
        CHECK(errno == ENOMSG);
    }
    struct msqid_ds ds;
    CHECK(msgctl(queue, IPC_STAT, &ds) == 0 && ds.msg_qnum == 0 && ds.msg_cbytes == 0);
    CHECK(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
    return 0;
}
