// Run with VSHMEM_KEYS=0x5ee0-0x5eef,0x77770000: these keys are Vshmem's, all others and IPC_PRIVATE are the kernel's.
#include "check.h"

static int is_ours(int id) { return id >= 0 && id & 1 << 30; }

int main(void) {
    int ours = semget(0x5ee3, 1, IPC_CREAT | 0600), also = msgget(0x77770000, IPC_CREAT | 0600);
    int kernels = semget(0x4ee3, 1, IPC_CREAT | 0600), private = shmget(IPC_PRIVATE, 4096, 0600);
    CHECK(is_ours(ours) && is_ours(also) && kernels >= 0 && private >= 0);
    CHECK(op(ours, 0, 1, 0) == 0 && op(kernels, 0, 2, 0) == 0);
    CHECK(semctl(ours, 0, GETVAL) == 1 && semctl(kernels, 0, GETVAL) == 2);
    CHECK(syscall(SYS_semctl, kernels, 0, GETVAL, 0) == 2);
    char *at = shmat(private, NULL, 0);
    CHECK(at != (void *)-1 && nattch(private) == 1 && shmdt(at) == 0);
    FAILS(shmdt(at), EINVAL);

    // Both are in the table.
    int found = 0, id, key;
    char line[256];
    FILE *table = fopen("/proc/sysvipc/sem", "r");
    CHECK(table);
    while (fgets(line, sizeof line, table))
        if (sscanf(line, "%d %d", &key, &id) == 2) found += id == ours || id == kernels;
    CHECK(found == 2 && fclose(table) == 0);

    CHECK(semctl(ours, 0, IPC_RMID) == 0 && semctl(kernels, 0, IPC_RMID) == 0);
    CHECK(msgctl(also, IPC_RMID, NULL) == 0 && shmctl(private, IPC_RMID, NULL) == 0);
    return 0;
}
