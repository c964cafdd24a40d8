// Threads that make and remove constructs and operate, while others fork and signals rain.
#include "check.h"

static volatile int over;
static volatile sig_atomic_t rang;
static int set, seg;

static void ring(int s) { (void)s; rang++; }

static void *makes(void *unused) {
    (void)unused;
    while (!over) {
        int own = semget(IPC_PRIVATE, 2, 0600), queue = msgget(IPC_PRIVATE, 0600);
        CHECK(own >= 0 && queue >= 0);
        CHECK(op(own, 1, 2, SEM_UNDO) == 0 && op(own, 1, -2, SEM_UNDO) == 0);
        struct { long mtype; char text[3]; } m = {1, "ab"};
        CHECK(msgsnd(queue, &m, 3, 0) == 0 && msgrcv(queue, &m, 3, 0, 0) == 3);
        void *at = shmat(seg, NULL, 0);
        CHECK(at != (void *)-1 && shmdt(at) == 0);
        CHECK(semctl(own, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
    }
    return NULL;
}
static void *operates(void *unused) {
    (void)unused;
    while (!over) {
        while (op(set, 0, 1, SEM_UNDO)) CHECK(errno == EINTR);
        while (op(set, 0, -1, SEM_UNDO)) CHECK(errno == EINTR);
    }
    return NULL;
}

int main(void) {
    set = new_set(2);
    seg = shmget(IPC_PRIVATE, 4096, 0600);
    int *memory = shmat(seg, NULL, 0);
    CHECK(memory != (void *)-1);
    struct sigaction action = {.sa_handler = ring, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, i % 2 ? makes : operates, NULL) == 0);
    for (int i = 0; i < 60; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            while (op(set, 1, 1, i % 2 ? SEM_UNDO : 0)) CHECK(errno == EINTR);
            __atomic_add_fetch(&memory[0], 1, __ATOMIC_SEQ_CST);
            int own = new_set(1);
            CHECK(semctl(own, 0, IPC_RMID) == 0);
            CHECK(shmdt(memory) == 0);
            _exit(0);
        }
        int status, got;
        while ((got = waitpid(child, &status, 0)) < 0) CHECK(errno == EINTR);
        CHECK(got == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    over = 1;
    for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    CHECK(memory[0] == 60 && rang > 0);
    for (int i = 0; i < 600 && semctl(set, 1, GETVAL) != 30; i++) usleep(5000);
    CHECK(semctl(set, 0, GETVAL) == 0 && semctl(set, 1, GETVAL) == 30);
    CHECK(nattch_becomes(seg, 1));
    CHECK(shmctl(seg, IPC_RMID, NULL) == 0 && semctl(set, 0, IPC_RMID) == 0);
    return 0;
}
