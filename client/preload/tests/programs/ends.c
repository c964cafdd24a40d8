// Calls from where there is little: threads with small stacks, handlers at exit, destructors, a program that has closed all descriptors.
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

static int set, queue;
static struct { long type; char text[100]; } message = {1, "text"};

static void up(int number) {
    struct sembuf op = {number, 1, SEM_UNDO};
    CHECK(semop(set, &op, 1) == 0);
}

static void *little(void *none) {
    up(0);
    CHECK(msgsnd(queue, &message, sizeof message.text, IPC_NOWAIT) == 0);
    CHECK(msgrcv(queue, &message, sizeof message.text, 0, IPC_NOWAIT) == sizeof message.text);
    int segment = shmget(IPC_PRIVATE, 4096, 0600);
    void *at = shmat(segment, NULL, 0);
    CHECK(at != (void *)-1 && shmctl(segment, IPC_RMID, NULL) == 0 && shmdt(at) == 0);
    int other = semget(IPC_PRIVATE, 3, 0600);
    struct sembuf two[2] = {{0, 1, 0}, {1, 1, SEM_UNDO}};
    CHECK(semop(other, two, 2) == 0 && semctl(other, 0, IPC_RMID) == 0);
    return none;
}

static void at_exit(void) {
    up(1);
    CHECK(semctl(set, 1, GETVAL) == 1);
}

__attribute__((destructor)) static void last(void) {
    up(2);
    CHECK(semctl(set, 2, GETVAL) == 1 && semctl(set, 0, IPC_RMID) == 0);
    puts("ended"), fflush(stdout);
}

int main(int count, char **words) {
    CHECK(count == 2 && atexit(at_exit) == 0);
    set = semget(IPC_PRIVATE, 3, 0600);
    queue = msgget(IPC_PRIVATE, 0600);
    CHECK(set >= 0 && queue >= 0);
    pthread_attr_t small;
    CHECK(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, atoi(words[1])) == 0);
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, &small, little, NULL) == 0 && pthread_join(thread, NULL) == 0);
    }
    CHECK(msgctl(queue, IPC_RMID, NULL) == 0);
    CHECK(close_range(3, ~0U, 0) == 0 && semctl(set, 0, GETVAL) == 3);
    return 0;
}
