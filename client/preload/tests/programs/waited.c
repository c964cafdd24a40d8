// Whoever has waited for a child finds its attachments ended and what it had to undo undone, each time.
#include "check.h"

int main(int count, char **words) {
    int turns = count > 1 ? atoi(words[1]) : 1000;
    int set = new_set(1), segment = shmget(IPC_PRIVATE, 4096, 0600);
    char *memory = shmat(segment, NULL, 0);
    CHECK(segment >= 0 && memory != (void *)-1 && op(set, 0, 5, 0) == 0);
    for (int turn = 0; turn < turns; turn++) {
        int status;
        siginfo_t info;
        pid_t child = fork();
        if (child == 0) {
            memory[0]++;
            CHECK(op(set, 0, turn % 2 ? -2 : 2, SEM_UNDO) == 0);
            if (turn % 3 == 0) kill(getpid(), SIGKILL);
            _exit(0);
        }
        errno = 77;
        switch (turn % 5) {
        case 0: CHECK(waitpid(child, NULL, 0) == child); break;
        case 1: CHECK(wait(&status) == child && (WIFEXITED(status) || WIFSIGNALED(status))); break;
        case 2: CHECK(wait4(child, &status, 0, NULL) == child); break;
        case 3: CHECK(waitid(P_PID, child, &info, WEXITED) == 0 && info.si_pid == child); break;
        case 4:
            while ((status = waitpid(-1, NULL, WNOHANG)) == 0) usleep(50);
            CHECK(status == child);
        }
        CHECK(errno == 77);
        if (semctl(set, 0, GETVAL) != 5 || nattch(segment) != 1) {
            fprintf(stderr, "turn %d: %d to be had of 5, attached %ld times\n", turn, semctl(set, 0, GETVAL), nattch(segment));
            return 1;
        }
    }
    CHECK(semctl(set, 0, IPC_RMID) == 0 && shmctl(segment, IPC_RMID, NULL) == 0);
    return 0;
}
