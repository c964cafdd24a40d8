// A daemon is gone for longer than anybody waits, and another one, with no memory of this program, takes its place. Lines come from the test.
#include "check.h"
#include <sys/sem.h>

static void line(void) {
    char said[64];
    CHECK(fgets(said, sizeof said, stdin));
}

int main(void) {
    struct sembuf up = {0, 5, IPC_NOWAIT};
    int id = semget(0x77, 1, IPC_CREAT | 0600);
    CHECK(id >= 0 && semop(id, &up, 1) == 0 && semctl(id, 0, GETVAL) == 5);
    puts("ready"), fflush(stdout);
    line();
    CHECK(semget(0x77, 1, 0) < 0 && errno == ENOSYS);
    puts("alone"), fflush(stdout);
    line();
    // The other daemon gives the same id to another set.
    int again = -1;
    // Its socket may be there a moment before it listens.
    for (int i = 0; i < 1000 && (again = semget(0x77, 1, IPC_CREAT | IPC_EXCL | 0600)) < 0 && errno == ENOSYS; i++) usleep(5000);
    CHECK(again == id);
    CHECK(semctl(id, 0, GETVAL) == 0);
    CHECK(semop(id, &up, 1) == 0 && semctl(id, 0, GETVAL) == 5);
    CHECK(semctl(id, 0, IPC_RMID) == 0);
    return 0;
}
