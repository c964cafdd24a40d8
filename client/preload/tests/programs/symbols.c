// Every function of System V IPC that libc has is the library's, by its name and by each version that libc gives it.
#include "check.h"
#include <dlfcn.h>

static void ours(const char *name, void *at) {
    Dl_info where;
    if (!at || !dladdr(at, &where) || !strstr(where.dli_fname, "vshmem_preload")) {
        fprintf(stderr, "%s is not the library's\n", name);
        _exit(1);
    }
}

int main(void) {
    const char *names[] = {"shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semtimedop", "semctl",
                           "msgget", "msgsnd", "msgrcv", "msgctl", "syscall", "munmap", "mremap", "mmap",
                           "mmap64", "mprotect", "sigaction", "signal", "sigprocmask", "pthread_sigmask"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) ours(names[i], dlsym(RTLD_DEFAULT, names[i]));
    // libc's names with a number of bits in them exist where a long has 32: if there are any here, they must be ours, too.
    const char *wide[] = {"__semctl64", "__shmctl64", "__msgctl64", "__semtimedop64", "__semctl_time64",
                          "__shmctl_time64", "__msgctl_time64", "__semtimedop_time64"};
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    CHECK(libc);
    for (unsigned i = 0; i < sizeof wide / sizeof *wide; i++)
        if (dlsym(libc, wide[i])) ours(wide[i], dlsym(RTLD_DEFAULT, wide[i]));
    int id = syscall(SYS_semget, IPC_PRIVATE, 1, 0600);
    CHECK(id & 1 << 30);
    FAILS(syscall(SYS_semop, id, 8, 1), EFAULT);
    FAILS(syscall(SYS_semop, id, 8, 0x100000000), EINVAL); // A count has 32 bits there: none.
    CHECK(syscall(SYS_semctl, id, 0, IPC_RMID, 0) == 0);
    return 0;
}
