// Threads that change what a call points to while it is made, attach and detach, and a thread that forks meanwhile: nobody dies of it, and nothing stays.
#include "check.h"
#include <fcntl.h>
#include <stdatomic.h>
#include <pthread.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>

static struct sembuf operations[2] = {{0, 1, IPC_NOWAIT}, {0, 1, IPC_NOWAIT}};
static char path[64] = "/proc/sysvipc/shm";
static atomic_int over;

static void *lies(void *unused) {
    while (!over) {
        operations[0].sem_num ^= 1;
        operations[0].sem_op = -operations[0].sem_op;
        operations[1].sem_num ^= 0x7fff;
        memset(path, '/', 30);
        strcpy(path, "/proc/sys/kernel/msgmax");
        strcpy(path, "/proc/sysvipc/sem");
    }
    return unused;
}
static void *attaches(void *segment) {
    while (!over) {
        void *at = shmat((int)(long)segment, NULL, 0);
        CHECK(at == (void *)-1 || shmdt(at) == 0);
    }
    return NULL;
}

int main(void) {
    int set = new_set(2), segment = shmget(IPC_PRIVATE, 4096, 0600), status;
    pthread_t threads[4];
    CHECK(pthread_create(&threads[0], NULL, lies, NULL) == 0);
    for (int i = 1; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, attaches, (void *)(long)segment) == 0);
    for (int turn = 0; turn < 300; turn++) {
        CHECK(semop(set, operations, 2) == 0 || errno == EAGAIN || errno == EFBIG || errno == ERANGE);
        int file = open(path, O_RDONLY);
        CHECK(file < 0 || close(file) == 0);
        if (turn % 10 == 0) {
            pid_t child = fork();
            if (child == 0) _exit(0);
            CHECK(waitpid(child, &status, 0) == child && status == 0);
        }
    }
    over = 1;
    for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(nattch(segment) == 0 && shmctl(segment, IPC_RMID, NULL) == 0 && semctl(set, 0, IPC_RMID) == 0);
    puts("well");
    return 0;
}
