// A handler of SIGCHLD waits for children wherever it comes: in the middle of malloc too, of this thread and of one that calls System V IPC meanwhile. Also
// there whoever has waited for a child finds what it had to undo undone.
#include "check.h"
#include <pthread.h>

static volatile sig_atomic_t reaped, wrong;
static int set;

static void reap(int signal) {
    (void)signal;
    int before = errno;
    while (waitpid(-1, NULL, WNOHANG) > 0) {
        reaped++;
        // One child at a time.
        if (semctl(set, 0, GETVAL) != 5) wrong++;
    }
    errno = before;
}

// Takes the allocator's lock again and again, and small pieces that were never freed.
static void churn(void **kept, int turn) {
    free(kept[turn % 64]);
    kept[turn % 64] = malloc(1100 + turn * 37 % 3000);
    for (int bytes = 8; bytes < 128; bytes += 16) {
        void *volatile lost = malloc(bytes);
        (void)lost;
    }
}

static void *neighbour(void *stop) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    while (!*(volatile int *)stop) {
        int id = msgget(IPC_PRIVATE, 0600);
        CHECK(id >= 0 && msgctl(id, IPC_RMID, NULL) == 0);
    }
    return NULL;
}

int main(void) {
    volatile int stop = 0;
    void *kept[64] = {0};
    pthread_t other;
    set = new_set(1);
    CHECK(op(set, 0, 5, 0) == 0);
    CHECK(pthread_create(&other, NULL, neighbour, (void *)&stop) == 0);
    struct sigaction action = {.sa_handler = reap, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGCHLD, &action, NULL) == 0);
    for (int made = 1; made <= 80; made++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            if (made % 4 == 0) op(set, 0, -2, SEM_UNDO);
            _exit(0);
        }
        for (int turn = 0; turn < 300 && reaped < made; turn++) churn(kept, turn);
        while (reaped < made) usleep(200);
    }
    stop = 1;
    pthread_join(other, NULL);
    CHECK(wrong == 0);
    CHECK(semctl(set, 0, IPC_RMID) == 0);
    return 0;
}
