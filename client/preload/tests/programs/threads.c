// Threads: many at once on one set and one queue, many one after another, removal under sleepers.
#include "check.h"

static int set, queue;

static void *adds(void *unused) {
    (void)unused;
    for (int i = 0; i < 2000; i++) {
        CHECK(op(set, 0, -1, SEM_UNDO) == 0);
        int value = semctl(set, 1, GETVAL);
        CHECK(semctl(set, 1, SETVAL, value + 1) == 0);
        CHECK(op(set, 0, 1, SEM_UNDO) == 0);
    }
    return NULL;
}
static void *sends(void *type) {
    struct { long mtype; int number; } m = {(long)type, 0};
    for (m.number = 0; m.number < 3000; m.number++) CHECK(msgsnd(queue, &m, sizeof m.number, 0) == 0);
    return NULL;
}
static void *receives(void *type) {
    struct { long mtype; int number; } m;
    for (int i = 0; i < 3000; i++) {
        CHECK(msgrcv(queue, &m, sizeof m.number, (long)type, 0) == sizeof m.number);
        CHECK(m.number == i && m.mtype == (long)type);
    }
    return NULL;
}
static void *once(void *unused) {
    (void)unused;
    CHECK(op(set, 2, 1, 0) == 0);
    return NULL;
}
static void *until_removed(void *number) {
    CHECK(op((int)(long)number, 0, -1, 0) == -1);
    CHECK(errno == EIDRM);
    return NULL;
}

int main(void) {
    set = new_set(3);
    queue = msgget(IPC_PRIVATE, 0600);
    CHECK(queue >= 0 && op(set, 0, 1, 0) == 0);
    pthread_t threads[8];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, adds, NULL) == 0);
    for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(semctl(set, 1, GETVAL) == 8000 && semctl(set, 0, GETVAL) == 1);

    for (long i = 0; i < 3; i++) {
        CHECK(pthread_create(&threads[2 * i], NULL, sends, (void *)(i + 1)) == 0);
        CHECK(pthread_create(&threads[2 * i + 1], NULL, receives, (void *)(i + 1)) == 0);
    }
    for (int i = 0; i < 6; i++) CHECK(pthread_join(threads[i], NULL) == 0);

    for (int i = 0; i < 500; i++) {
        CHECK(pthread_create(&threads[0], NULL, once, NULL) == 0);
        CHECK(pthread_join(threads[0], NULL) == 0);
    }
    CHECK(semctl(set, 2, GETVAL) == 500);

    for (int round = 0; round < 30; round++) {
        int doomed = new_set(1);
        for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, until_removed, (void *)(long)doomed) == 0);
        for (int i = 0; i < 400 && semctl(doomed, 0, GETNCNT) < 3; i++) usleep(2000);
        CHECK(semctl(doomed, 0, IPC_RMID) == 0);
        for (int i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
    return 0;
}
