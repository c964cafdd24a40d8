// Times of operations are those of time(2): neither before the call nor after it, where the second changes, too.
#include "check.h"
#include <time.h>

static int set, queue, seg;

static void look(void) {
    struct sembuf up = {0, 1, 0}, down = {0, -1, 0};
    struct { long mtype; char text[8]; } message = {1, "x"};
    struct semid_ds s;
    struct msqid_ds q;
    struct shmid_ds m;
    time_t before = time(NULL);
    CHECK(semop(set, &up, 1) == 0 && semop(set, &down, 1) == 0);
    CHECK(msgsnd(queue, &message, 8, 0) == 0 && msgrcv(queue, &message, 8, 0, 0) == 8);
    void *at = shmat(seg, NULL, 0);
    CHECK(at != (void *)-1 && shmdt(at) == 0);
    CHECK(semctl(set, 0, SETVAL, 0) == 0);
    time_t after = time(NULL);
    CHECK(semctl(set, 0, IPC_STAT, &s) == 0 && msgctl(queue, IPC_STAT, &q) == 0 && shmctl(seg, IPC_STAT, &m) == 0);
    time_t times[] = {s.sem_otime, s.sem_ctime, q.msg_stime, q.msg_rtime, m.shm_atime, m.shm_dtime};
    for (int i = 0; i < 6; i++) CHECK(before <= times[i] && times[i] <= after);
}

int main(void) {
    set = semget(IPC_PRIVATE, 1, 0600);
    queue = msgget(IPC_PRIVATE, 0600);
    seg = shmget(IPC_PRIVATE, 4096, 0600);
    CHECK(set >= 0 && queue >= 0 && seg >= 0);
    for (int second = 0; second < 3; second++) {
        struct timespec now;
        do {
            usleep(500);
            clock_gettime(CLOCK_REALTIME, &now);
        } while (now.tv_nsec < 990000000);
        time_t then = now.tv_sec;
        do {
            look();
            clock_gettime(CLOCK_REALTIME, &now);
        } while (now.tv_sec == then || now.tv_nsec < 10000000);
    }
    CHECK(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0 && shmctl(seg, IPC_RMID, NULL) == 0);
    return 0;
}
