// What is checked before anything happens, and the fields of the structures.
#include "check.h"

union argument { int val; struct semid_ds *buf; unsigned short *array; struct seminfo *info; };

static void sets(void) {
    int set = new_set(3);
    struct sembuf many[501] = {{0}}, one = {0, 1, 0}, wait = {0, -1, 0};
    FAILS(semop(set, &one, 0), EINVAL);
    FAILS(semop(set, many, 501), E2BIG);
    FAILS(semop(set, NULL, 1), EFAULT);
    FAILS(semop(set, (void *)-1, 1), EFAULT);
    FAILS(op(set, 3, 1, 0), EFBIG);
    FAILS(op(-1, 0, 1, 0), EINVAL);
    FAILS(op(0x7fffffff, 0, 1, 0), EINVAL);
    FAILS(op(set, 0, -1, IPC_NOWAIT), EAGAIN);
    struct timespec bad = {0, 1000000000}, negative = {-1, 0}, little = {0, 20000000}, none = {0, 0};
    FAILS(semtimedop(set, &wait, 1, &bad), EINVAL);
    FAILS(semtimedop(set, &wait, 1, &negative), EINVAL);
    FAILS(semtimedop(set, &wait, 1, &none), EAGAIN);
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    FAILS(semtimedop(set, &wait, 1, &little), EAGAIN);
    clock_gettime(CLOCK_MONOTONIC, &after);
    double took = after.tv_sec - before.tv_sec + (after.tv_nsec - before.tv_nsec) / 1e9;
    CHECK(took >= 0.019 && took < 2);

    struct semid_ds ds;
    union argument arg = {.buf = &ds};
    CHECK(semctl(set, 0, IPC_STAT, arg) == 0);
    CHECK(ds.sem_nsems == 3 && ds.sem_otime == 0 && (ds.sem_perm.mode & 0777) == 0600);
    CHECK(ds.sem_perm.uid == geteuid() && ds.sem_perm.cgid == getegid());
    CHECK(labs(ds.sem_ctime - time(NULL)) <= 3);
    arg.val = 7;
    CHECK(semctl(set, 1, SETVAL, arg) == 0 && semctl(set, 1, GETVAL) == 7);
    arg.val = 32768;
    FAILS(semctl(set, 1, SETVAL, arg), ERANGE);
    arg.val = -1;
    FAILS(semctl(set, 1, SETVAL, arg), ERANGE);
    FAILS(semctl(set, 3, GETVAL), EINVAL);
    FAILS(semctl(set, -1, GETVAL), EINVAL);
    FAILS(op(set, 1, 32767, 0), ERANGE);
    unsigned short values[3] = {1, 2, 3}, back[3] = {0};
    arg.array = values;
    CHECK(semctl(set, 0, SETALL, arg) == 0);
    arg.array = back;
    CHECK(semctl(set, 0, GETALL, arg) == 0 && memcmp(values, back, sizeof back) == 0);
    CHECK(op(set, 0, -1, 0) == 0 && semctl(set, 0, GETPID) == getpid());
    arg.buf = &ds;
    CHECK(semctl(set, 0, IPC_STAT, arg) == 0 && labs(ds.sem_otime - time(NULL)) <= 3);
    ds.sem_perm.mode = 0640;
    CHECK(semctl(set, 0, IPC_SET, arg) == 0);
    CHECK(semctl(set, 0, IPC_STAT, arg) == 0 && (ds.sem_perm.mode & 0777) == 0640);
    CHECK(op(set, 0, 1, 0) == 0);
    struct seminfo info;
    arg.info = &info;
    CHECK(semctl(0, 0, IPC_INFO, arg) >= 0 && info.semvmx == 32767 && info.semopm == 500);
    CHECK(semctl(0, 0, SEM_INFO, arg) >= 0 && info.semusz >= 1 && info.semaem >= 3);
    int found = 0;
    for (int i = 0; i <= semctl(0, 0, SEM_INFO, arg); i++) {
        union argument each = {.buf = &ds};
        found |= semctl(i, 0, SEM_STAT, each) == set && ds.sem_nsems == 3;
    }
    CHECK(found);
    CHECK(semctl(set, 0, IPC_RMID) == 0);
    FAILS(semctl(set, 0, GETVAL), EINVAL);
    FAILS(op(set, 0, 1, 0), EINVAL);
}

static void queues(void) {
    struct { long mtype; char text[8200]; } m = {1, "hello"};
    int queue = msgget(IPC_PRIVATE, 0600);
    CHECK(queue >= 0);
    FAILS(msgsnd(queue, &m, 8193, 0), EINVAL);
    FAILS(msgsnd(queue, &m, -1, 0), EINVAL);
    FAILS(msgsnd(queue, NULL, 1, 0), EFAULT);
    m.mtype = 0;
    FAILS(msgsnd(queue, &m, 5, 0), EINVAL);
    FAILS(msgrcv(queue, &m, -1, 0, IPC_NOWAIT), EINVAL);
    FAILS(msgrcv(queue, &m, 5, 0, IPC_NOWAIT), ENOMSG);
    FAILS(msgrcv(queue, &m, 5, 0, MSG_COPY), EINVAL);
    for (m.mtype = 3; m.mtype > 0; m.mtype--) CHECK(msgsnd(queue, &m, 5, 0) == 0);
    struct msqid_ds ds;
    CHECK(msgctl(queue, IPC_STAT, &ds) == 0);
    CHECK(ds.msg_qnum == 3 && ds.msg_cbytes == 15 && ds.msg_lspid == getpid() && ds.msg_lrpid == 0);
    CHECK(labs(ds.msg_stime - time(NULL)) <= 3 && ds.msg_rtime == 0);
    FAILS(msgrcv(queue, &m, 4, 0, 0), E2BIG);
    CHECK(msgrcv(queue, &m, 4, 0, MSG_NOERROR) == 4 && m.mtype == 3);
    CHECK(msgrcv(queue, &m, 100, -5, 0) == 5 && m.mtype == 1 && memcmp(m.text, "hello", 5) == 0);
    CHECK(msgrcv(queue, &m, 100, 2, 0) == 5 && m.mtype == 2);
    m.mtype = 9;
    CHECK(msgsnd(queue, &m, 0, 0) == 0 && msgrcv(queue, &m, 0, 9, 0) == 0);
    CHECK(msgctl(queue, IPC_STAT, &ds) == 0 && ds.msg_lrpid == getpid() && ds.msg_qnum == 0);
    ds.msg_qbytes = 100;
    CHECK(msgctl(queue, IPC_SET, &ds) == 0);
    CHECK(msgsnd(queue, &m, 100, IPC_NOWAIT) == 0);
    FAILS(msgsnd(queue, &m, 1, IPC_NOWAIT), EAGAIN);
    struct msginfo info;
    CHECK(msgctl(0, MSG_INFO, (void *)&info) >= 0 && info.msgpool >= 1 && info.msgmap >= 1 && info.msgtql >= 100);
    CHECK(msgctl(queue, IPC_RMID, NULL) == 0);
    FAILS(msgsnd(queue, &m, 1, 0), EINVAL);
}

static void by_number(void) {
    int set = syscall(SYS_semget, IPC_PRIVATE, 1, 0600);
    struct sembuf up = {0, 3, 0};
    struct timespec zero = {0, 0};
    CHECK(set >= 0 && syscall(SYS_semop, set, &up, 1) == 0);
    CHECK(syscall(SYS_semctl, set, 0, GETVAL, 0) == 3);
    up.sem_op = -4;
    FAILS(syscall(SYS_semtimedop, set, &up, 1, &zero), EAGAIN);
    CHECK(syscall(SYS_semctl, set, 0, IPC_RMID, 0) == 0);
    int seg = syscall(SYS_shmget, IPC_PRIVATE, 4096, 0600);
    char *at = (char *)syscall(SYS_shmat, seg, NULL, 0);
    CHECK(at != (void *)-1);
    at[4095] = 1;
    CHECK(nattch(seg) == 1 && syscall(SYS_shmdt, at) == 0 && syscall(SYS_shmctl, seg, IPC_RMID, NULL) == 0);
    int queue = syscall(SYS_msgget, IPC_PRIVATE, 0600);
    struct { long mtype; char text[4]; } m = {5, "abc"};
    CHECK(syscall(SYS_msgsnd, queue, &m, 4, 0) == 0);
    m.mtype = 0;
    CHECK(syscall(SYS_msgrcv, queue, &m, 4, 0, 0) == 4 && m.mtype == 5);
    CHECK(syscall(SYS_msgctl, queue, IPC_RMID, NULL) == 0);
    CHECK(syscall(SYS_getpid) == getpid());
    FAILS(syscall(SYS_close, -1), EBADF);
    void *mapped = (void *)syscall(SYS_mmap, NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapped != MAP_FAILED && syscall(SYS_munmap, mapped, 4096) == 0);
}

int main(void) {
    sets();
    queues();
    by_number();
    return 0;
}
