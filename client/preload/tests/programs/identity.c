// A process that changes who it is: permission is the present user's. Needs root; without it there is nothing to see.
#include "check.h"

int main(void) {
    if (geteuid() != 0) return 0;
    int set = new_set(1), open_set = semget(IPC_PRIVATE, 1, 0666), readable = semget(IPC_PRIVATE, 1, 0644);
    CHECK(op(set, 0, 1, 0) == 0 && op(open_set, 0, 1, SEM_UNDO) == 0 && op(readable, 0, 2, 0) == 0);
    CHECK(setegid(65534) == 0 && seteuid(65534) == 0);
    FAILS(op(set, 0, 1, 0), EACCES);
    FAILS(semctl(set, 0, GETVAL), EACCES);
    FAILS(semctl(set, 0, IPC_RMID), EPERM);
    CHECK(op(open_set, 0, 1, SEM_UNDO) == 0 && semctl(open_set, 0, GETVAL) == 2);
    CHECK(semctl(readable, 0, GETVAL) == 2);
    FAILS(op(readable, 0, -1, 0), EACCES);
    struct sembuf zero = {0, 0, 0};
    struct timespec little = {0, 30000000};
    FAILS(semtimedop(readable, &zero, 1, &little), EAGAIN);
    int own = new_set(1);
    struct semid_ds ds;
    CHECK(semctl(own, 0, IPC_STAT, &ds) == 0 && ds.sem_perm.uid == 65534);
    CHECK(seteuid(0) == 0 && setegid(0) == 0);
    CHECK(op(set, 0, 1, 0) == 0 && semctl(set, 0, GETVAL) == 2);
    CHECK(op(own, 0, 1, 0) == 0);

    // Write only, read only queues.
    int queue = msgget(IPC_PRIVATE, 0622), inbox = msgget(IPC_PRIVATE, 0644);
    struct { long mtype; char text[8]; } m = {3, "letter"};
    CHECK(msgsnd(inbox, &m, 8, 0) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(setgid(65534) == 0 && setuid(65534) == 0);
        CHECK(msgsnd(queue, &m, 8, 0) == 0);
        FAILS(msgrcv(queue, &m, 8, 0, IPC_NOWAIT), EACCES);
        FAILS(msgsnd(inbox, &m, 8, 0), EACCES);
        m.mtype = 0;
        CHECK(msgrcv(inbox, &m, 8, 0, 0) == 8 && m.mtype == 3);
        CHECK(msgrcv(inbox, &m, 8, 4, 0) == 8 && m.mtype == 4);
        _exit(0);
    }
    usleep(100000);
    m.mtype = 4;
    CHECK(msgsnd(inbox, &m, 8, 0) == 0);
    CHECK(ends_well(child));
    CHECK(msgrcv(queue, &m, 8, 3, IPC_NOWAIT) == 8 && strcmp(m.text, "letter") == 0);
    CHECK(semctl(set, 0, IPC_RMID) == 0 && semctl(open_set, 0, IPC_RMID) == 0 && semctl(own, 0, IPC_RMID) == 0);
    CHECK(semctl(readable, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0 && msgctl(inbox, IPC_RMID, NULL) == 0);
    return 0;
}
