// fork, exec and death: attachments are counted, undo is not inherited, a child may use what it inherited.
#include "check.h"

int main(int count, char **words) {
    if (count == 2 && strcmp(words[1], "nap") == 0) {
        usleep(300000);
        return 0;
    }
    int seg = shmget(IPC_PRIVATE, 5000, 0600), set = new_set(2);
    CHECK(seg >= 0);
    int *memory = shmat(seg, NULL, 0);
    CHECK(memory != (void *)-1 && nattch(seg) == 1);
    CHECK(op(set, 0, 5, 0) == 0);
    int status;

    // A child counts, sees the memory, uses the set, and stops counting when it ends.
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(nattch(seg) == 2);
        memory[1] = 42;
        CHECK(op(set, 0, -1, SEM_UNDO) == 0);
        CHECK(semctl(set, 0, GETPID) == getpid());
        _exit(0);
    }
    CHECK(ends_well(child));
    CHECK(memory[1] == 42 && nattch_becomes(seg, 1));
    for (int i = 0; i < 200 && semctl(set, 0, GETVAL) != 5; i++) usleep(5000);
    CHECK(semctl(set, 0, GETVAL) == 5);

    // Undo of the parent is not the child's to do.
    CHECK(op(set, 0, -2, SEM_UNDO) == 0);
    if ((child = fork()) == 0) _exit(0);
    CHECK(ends_well(child));
    usleep(50000);
    CHECK(semctl(set, 0, GETVAL) == 3);

    // A child that is killed, one that detaches, one that execs; a grandchild.
    if ((child = fork()) == 0) for (;;) pause();
    CHECK(nattch(seg) == 2);
    kill(child, SIGKILL);
    CHECK(waitpid(child, &status, 0) == child && nattch_becomes(seg, 1));
    if ((child = fork()) == 0) {
        CHECK(shmdt(memory) == 0);
        CHECK(nattch(seg) == 1);
        _exit(0);
    }
    CHECK(ends_well(child) && nattch(seg) == 1);
    if ((child = fork()) == 0) {
        execl("/proc/self/exe", words[0], "nap", NULL);
        _exit(1);
    }
    CHECK(nattch_becomes(seg, 1));
    CHECK(ends_well(child) && nattch(seg) == 1);
    if ((child = fork()) == 0) {
        if ((child = fork()) == 0) {
            CHECK(nattch(seg) == 3);
            _exit(0);
        }
        CHECK(ends_well(child));
        CHECK(nattch_becomes(seg, 2));
        _exit(0);
    }
    CHECK(ends_well(child) && nattch_becomes(seg, 1));

    // Children by other ways may use what is there.
    if ((child = vfork()) == 0) {
        execl("/proc/self/exe", words[0], "nap", NULL);
        _exit(1);
    }
    CHECK(ends_well(child));
    if ((child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)) == 0) {
        CHECK(memory[1] == 42);
        CHECK(op(set, 1, 1, 0) == 0);
        CHECK(semctl(set, 1, GETVAL) == 1);
        int again = semget(IPC_PRIVATE, 1, 0600);
        CHECK(again >= 0 && semctl(again, 0, IPC_RMID) == 0);
        _exit(0);
    }
    CHECK(ends_well(child) && semctl(set, 1, GETVAL) == 1);
    CHECK(nattch_becomes(seg, 1));

    // A waiting child is let go on by its parent, many times over. The unit that is there is taken first, lest the child take it and leave the
    // parent waiting.
    CHECK(op(set, 1, -1, 0) == 0);
    if ((child = fork()) == 0) {
        for (int i = 0; i < 2000; i++) CHECK(op(set, 1, -1, 0) == 0);
        _exit(0);
    }
    for (int i = 0; i < 2000; i++) CHECK(op(set, 1, 1, 0) == 0);
    CHECK(ends_well(child) && semctl(set, 1, GETVAL) == 0);

    CHECK(shmctl(seg, IPC_RMID, NULL) == 0 && nattch(seg) == 1);
    CHECK(shmdt(memory) == 0);
    FAILS(shmdt(memory), EINVAL);
    FAILS(shmat(seg, NULL, 0), EINVAL);
    CHECK(semctl(set, 0, IPC_RMID) == 0);
    return 0;
}
