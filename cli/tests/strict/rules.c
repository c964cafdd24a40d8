// What a supervisor of system calls may get wrong, one part an argument: addresses, signals, deaths, users, the 32-bit door.
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#define UNTIL(what) do { int turn = 0; while (!(what)) { CHECK(turn++ < 2000); usleep(5000); } } while (0)

static int val(int set, int number) { return semctl(set, number, GETVAL); }
static int waiters(int set, int number) { return semctl(set, number, GETNCNT); }
static void sleep_for_long(void) {
    execl("/bin/sleep", "sleep", "100", (char *)0);
    _exit(127);
}
static void killed(pid_t child) {
    int status;
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child && WTERMSIG(status) == SIGKILL);
}

// Past libc, so that no compiler and no library looks at the addresses first.
static void bad_addresses_give_efault(void) {
    int set = new_set(1), queue = msgget(IPC_PRIVATE, 0600), seg = shmget(IPC_PRIVATE, 4096, 0600);
    char *pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *none = pages + 4096, *constant = pages + 8192, *bad = (char *)8;
    CHECK(mprotect(none, 4096, PROT_NONE) == 0 && mprotect(constant, 4096, PROT_READ) == 0);
    struct sembuf up = {0, 1, 0};
    FAILS(syscall(SYS_semop, set, bad, 1), EFAULT);
    FAILS(syscall(SYS_semop, set, none - 4, 1), EFAULT);
    FAILS(syscall(SYS_semtimedop, set, &up, 1, none), EFAULT);
    FAILS(syscall(SYS_semctl, set, 0, GETALL, constant), EFAULT);
    FAILS(syscall(SYS_semctl, set, 0, SETALL, none), EFAULT);
    FAILS(syscall(SYS_semctl, set, 0, IPC_STAT, bad), EFAULT);
    CHECK(val(set, 0) == 0);
    long *edge = (long *)(none - sizeof(long));
    *edge = 1;
    FAILS(syscall(SYS_msgsnd, queue, none, 0, 0), EFAULT);
    FAILS(syscall(SYS_msgsnd, queue, edge, 4, 0), EFAULT);
    CHECK(syscall(SYS_msgsnd, queue, edge, 0, 0) == 0);
    FAILS(syscall(SYS_msgrcv, queue, constant, 10, 0, 0), EFAULT);
    FAILS(syscall(SYS_msgctl, queue, IPC_SET, bad), EFAULT);
    FAILS(syscall(SYS_shmctl, seg, IPC_STAT, none), EFAULT);
    CHECK(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0 && shmctl(seg, IPC_RMID, NULL) == 0);
}

static volatile sig_atomic_t hits;
static int raised;
static void hit(int number) {
    (void)number;
    hits++;
    if (raised) CHECK(op(raised, 0, 1, 0) == 0);
}
static void signals_end_waits_and_only_waits(void) {
    int set = new_set(1), queue = msgget(IPC_PRIVATE, 0600);
    struct { long type; char text[8]; } message;
    struct sigaction action = {.sa_handler = hit, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    ualarm(30000, 0);
    FAILS(op(set, 0, -1, 0), EINTR);
    ualarm(30000, 0);
    FAILS(msgrcv(queue, &message, 8, 0, 0), EINTR);
    struct sembuf down = {0, -1, 0};
    struct timespec for_long = {20, 0}, briefly = {0, 100000000};
    ualarm(30000, 0);
    FAILS(semtimedop(set, &down, 1, &for_long), EINTR);
    CHECK(hits == 3 && waiters(set, 0) == 0);
    // The handler gives what was waited for: it is there afterwards, since the wait had ended before.
    raised = set;
    ualarm(30000, 0);
    FAILS(op(set, 0, -1, 0), EINTR);
    CHECK(val(set, 0) == 1 && op(set, 0, -1, 0) == 0);
    raised = 0;
    // A signal that is blocked or ignored ends nothing.
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    CHECK(sigprocmask(SIG_BLOCK, &alarm, NULL) == 0);
    ualarm(20000, 0);
    FAILS(semtimedop(set, &down, 1, &briefly), EAGAIN);
    CHECK(hits == 4 && sigprocmask(SIG_UNBLOCK, &alarm, NULL) == 0 && hits == 5);
    CHECK(signal(SIGALRM, SIG_IGN) != SIG_ERR);
    ualarm(20000, 0);
    FAILS(semtimedop(set, &down, 1, &briefly), EAGAIN);
    CHECK(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
}

// Who is only stopped for a while goes on waiting at a queue, and no longer at a semaphore: signal(7).
static void a_stop_ends_waits_at_semaphores_alone(void) {
    int set = new_set(1), queue = msgget(IPC_PRIVATE, 0600), status;
    for (int at_queue = 0; at_queue < 2; at_queue++) {
        pid_t child = fork();
        if (child == 0) {
            struct { long type; char text[8]; } message;
            errno = 0;
            int got = at_queue ? (int)msgrcv(queue, &message, 8, 0, 0) : op(set, 0, -1, 0);
            _exit(got == -1 ? errno : 100 + got);
        }
        if (!at_queue)
            UNTIL(waiters(set, 0) == 1);
        usleep(100000);
        CHECK(kill(child, SIGSTOP) == 0);
        CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
        usleep(100000);
        CHECK(kill(child, SIGCONT) == 0);
        usleep(200000);
        struct { long type; char text[8]; } message = {1, "message"};
        CHECK(msgsnd(queue, &message, 8, 0) == 0);
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == (at_queue ? 108 : EINTR));
        if (!at_queue)
            CHECK(msgrcv(queue, &message, 8, 0, 0) == 8);
    }
    CHECK(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
}

static void *waits_for_two(void *set) {
    return (void *)(long)(op((int)(long)set, 0, -1, 0) == -1 ? errno : 0);
}

// A signal to the process is one thread's: the others wait on.
static void a_signal_ends_one_wait(void) {
    int set = new_set(1);
    pthread_t threads[3];
    void *results[3];
    struct sigaction action = {.sa_handler = hit};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, waits_for_two, (void *)(long)set) == 0);
    // The first thread does not take it.
    CHECK(pthread_sigmask(SIG_BLOCK, &alarm_only, NULL) == 0);
    UNTIL(waiters(set, 0) == 3);
    int before = hits;
    CHECK(kill(getpid(), SIGALRM) == 0);
    UNTIL(hits == before + 1 && waiters(set, 0) == 2);
    usleep(200000);
    CHECK(hits == before + 1 && waiters(set, 0) == 2);
    CHECK(op(set, 0, 2, 0) == 0);
    int interrupted = 0;
    for (int i = 0; i < 3; i++) {
        CHECK(pthread_join(threads[i], &results[i]) == 0);
        interrupted += results[i] == (void *)(long)EINTR;
    }
    CHECK(interrupted == 1);
    CHECK(semctl(set, 0, IPC_RMID) == 0);
}

static void undo_is_of_the_process_and_lasts_to_its_death(void) {
    int set = new_set(3);
    CHECK(semctl(set, 0, SETVAL, 1) == 0);
    // Not inherited.
    pid_t child = fork();
    if (child == 0) {
        CHECK(op(set, 0, -1, SEM_UNDO) == 0 && op(set, 1, 1, SEM_UNDO) == 0);
        pid_t own = fork();
        if (own == 0) _exit(op(set, 2, 0, 0) == 0 ? 0 : 1);
        CHECK(ends_well(own) && op(set, 2, 1, 0) == 0);
        pause();
    }
    CHECK(op(set, 2, -1, 0) == 0 && val(set, 0) == 0 && val(set, 1) == 1);
    killed(child);
    UNTIL(val(set, 0) == 1 && val(set, 1) == 0);
    // Kept over exec.
    child = fork();
    if (child == 0) {
        CHECK(op(set, 0, -1, SEM_UNDO) == 0 && op(set, 2, 1, 0) == 0);
        sleep_for_long();
    }
    CHECK(op(set, 2, -1, 0) == 0);
    usleep(50000);
    CHECK(val(set, 0) == 0);
    killed(child);
    UNTIL(val(set, 0) == 1);
    CHECK(semctl(set, 0, IPC_RMID) == 0);
}

static void the_blocked_are_killed_and_counted_no_more(void) {
    int set = new_set(1), queue = msgget(IPC_PRIVATE, 0600);
    pid_t one = fork();
    if (one == 0) _exit(op(set, 0, -1, 0) == 0 ? 1 : 2);
    UNTIL(waiters(set, 0) == 1);
    pid_t other = fork();
    if (other == 0) _exit(op(set, 0, -1, 0) == 0 ? 0 : 2);
    UNTIL(waiters(set, 0) == 2);
    killed(one);
    UNTIL(waiters(set, 0) == 1);
    CHECK(op(set, 0, 1, 0) == 0 && ends_well(other) && val(set, 0) == 0);
    struct { long type; char text[8]; } message = {1, ""};
    one = fork();
    if (one == 0) _exit(msgrcv(queue, &message, 8, 0, 0) == 8 ? 1 : 2);
    usleep(50000);
    killed(one);
    usleep(50000);
    CHECK(msgsnd(queue, &message, 8, 0) == 0 && msgrcv(queue, &message, 8, 0, IPC_NOWAIT) == 8);
    one = fork();
    if (one == 0) _exit(op(set, 0, -1, 0) == -1 && errno == EIDRM ? 0 : 1);
    UNTIL(waiters(set, 0) == 1);
    CHECK(semctl(set, 0, IPC_RMID) == 0 && ends_well(one) && msgctl(queue, IPC_RMID, NULL) == 0);
}

static void attachments_count_for_children_until_they_execute(void) {
    int seg = shmget(IPC_PRIVATE, 4096, 0600);
    volatile int *page = shmat(seg, NULL, 0);
    CHECK(page != (void *)-1 && nattch(seg) == 1);
    // One that makes no call, and its own child.
    pid_t child = fork();
    if (child == 0) {
        pid_t own = fork();
        if (own > 0) page[1] = own;
        __atomic_add_fetch(page, 1, __ATOMIC_SEQ_CST);
        pause();
    }
    UNTIL(nattch(seg) == 3 && page[0] == 2);
    // vfork and exec count nothing.
    pid_t quick = vfork();
    if (quick == 0) {
        execl("/bin/true", "true", (char *)0);
        _exit(127);
    }
    CHECK(ends_well(quick) && nattch(seg) == 3);
    pid_t sleeper = fork();
    if (sleeper == 0) sleep_for_long();
    UNTIL(nattch(seg) == 3);
    killed(sleeper);
    killed(child);
    UNTIL(nattch(seg) == 2);
    // The last attachment of a removed segment is the grandchild's.
    pid_t grandchild = page[1];
    CHECK(shmctl(seg, IPC_RMID, NULL) == 0 && shmdt((void *)page) == 0);
    FAILS(shmdt((void *)page), EINVAL);
    CHECK(nattch(seg) == 1 && kill(grandchild, SIGKILL) == 0);
    struct shmid_ds about;
    UNTIL(shmctl(seg, IPC_STAT, &about) == -1 && (errno == EINVAL || errno == EIDRM));
}

static void a_user_has_that_users_rights(void) {
    int set = new_set(1);
    pid_t child = fork();
    if (child == 0) {
        CHECK(op(set, 0, 1, 0) == 0 && syscall(SYS_setresuid, 12345, 12345, 12345) == 0);
        FAILS(op(set, 0, 1, 0), EACCES);
        struct semid_ds about;
        int own = new_set(1);
        CHECK(semctl(own, 0, IPC_STAT, &about) == 0 && about.sem_perm.cuid == 12345);
        _exit(semctl(own, 0, IPC_RMID));
    }
    CHECK(ends_well(child) && val(set, 0) == 1 && semctl(set, 0, IPC_RMID) == 0);
}

// semget(2) by `int $0x80`.
static void goes_by_the_32_bit_door(void) {
    long result = 393;
    __asm__ volatile("int $0x80" : "+a"(result) : "b"(IPC_PRIVATE), "c"(1), "d"(0600) : "memory", "r8", "r9", "r10", "r11");
    printf("went on with %ld\n", result);
}

// semget(2) and semop(2) with no library in between, of a set that libc's functions see as well.
static long raw(long number, long a, long b, long c) {
    __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c) : "memory", "rcx", "r11");
    return number;
}
static void calls_past_the_library_meet_those_through_it(void) {
    long set = raw(SYS_semget, IPC_PRIVATE, 1, 0600);
    struct sembuf up = {0, 2, SEM_UNDO}, down = {0, -1, IPC_NOWAIT};
    CHECK(set >= 1 << 30 && raw(SYS_semop, set, (long)&up, 1) == 0);
    CHECK(val(set, 0) == 2 && semop(set, &down, 1) == 0 && semctl(set, 0, GETPID) == getpid());
    CHECK(raw(SYS_semop, set, (long)&down, 1) == 0 && raw(SYS_semop, set, (long)&down, 1) == -EAGAIN);
    CHECK(semctl(set, 0, IPC_RMID) == 0);
}

// Keys 0x1000 to 0x1fff are Vshmem's, the others the kernel's.
static void keys_go_where_they_belong(void) {
    int ours = semget(0x1234, 1, IPC_CREAT | 0600), kernels = semget(0x70001234, 1, IPC_CREAT | 0600);
    CHECK(ours >= 1 << 30 && kernels >= 0 && ours != kernels);
    CHECK(op(ours, 0, 1, 0) == 0 && op(kernels, 0, 2, 0) == 0 && val(ours, 0) == 1 && val(kernels, 0) == 2);
    int seg = shmget(IPC_PRIVATE, 4096, 0600);
    char *at = shmat(seg, NULL, 0);
    CHECK(at != (void *)-1 && nattch(seg) == 1 && shmdt(at) == 0 && shmctl(seg, IPC_RMID, NULL) == 0);
    CHECK(semctl(ours, 0, IPC_RMID) == 0 && semctl(kernels, 0, IPC_RMID) == 0);
}

static void *waits_for_one(void *set) {
    op((int)(long)set, 0, -1, 0);
    return NULL;
}

// The thread that waited is no more: what comes is for others.
static void executed(void) {
    int set = atoi(getenv("SET"));
    CHECK(waiters(set, 0) == 0 && op(set, 0, 1, 0) == 0 && val(set, 0) == 1 && semctl(set, 0, IPC_RMID) == 0);
}
static void a_program_executed_has_no_old_waiters(void) {
    int set = new_set(1);
    char number[16];
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, waits_for_one, (void *)(long)set) == 0);
    UNTIL(waiters(set, 0) == 1);
    snprintf(number, sizeof number, "%d", set);
    setenv("SET", number, 1);
    execl("/proc/self/exe", "rules", "executed", (char *)0);
    CHECK(0);
}

// A list of what is to undo ends with the IPC namespace that is left, and be it for the same one.
static void who_enters_a_namespace_leaves_what_is_to_undo(void) {
    int set = new_set(1), here = open("/proc/self/ns/ipc", O_RDONLY), user = open("/proc/self/ns/uts", O_RDONLY);
    CHECK(op(set, 0, 1, SEM_UNDO) == 0 && setns(user, 0) == 0 && val(set, 0) == 1);
    CHECK(setns(here, 0) == 0 && val(set, 0) == 0);
    CHECK(op(set, 0, 1, SEM_UNDO) == 0 && setns(here, CLONE_NEWIPC) == 0 && val(set, 0) == 0);
    CHECK(semctl(set, 0, IPC_RMID) == 0);
}

static int seg_of_both;
static char *at_of_both;
static int attaches(void *unused) {
    (void)unused;
    at_of_both = shmat(seg_of_both, NULL, 0);
    return at_of_both == (void *)-1 || nattch(seg_of_both) != 1;
}
static int detaches(void *unused) {
    (void)unused;
    return shmdt(at_of_both) != 0;
}
// Processes that share memory share what is attached there.
static void memory_of_two_processes_is_counted_once(void) {
    static char stack[65536] __attribute__((aligned(16)));
    seg_of_both = shmget(IPC_PRIVATE, 4096, 0600);
    for (int flags = CLONE_VM | SIGCHLD, turn = 0; turn < 2; turn++, flags |= CLONE_VFORK) {
        CHECK(ends_well(clone(attaches, stack + sizeof stack, flags, NULL)));
        CHECK(at_of_both != NULL && nattch(seg_of_both) == 1);
        at_of_both[1] = 7;
        CHECK(ends_well(clone(detaches, stack + sizeof stack, flags, NULL)) && nattch(seg_of_both) == 0);
        CHECK(shmat(seg_of_both, at_of_both, 0) == at_of_both && at_of_both[1] == 7 && nattch(seg_of_both) == 1);
        CHECK(shmdt(at_of_both) == 0);
    }
    CHECK(shmctl(seg_of_both, IPC_RMID, NULL) == 0);
}

// With so few processes that no thread can be had for every call: some fail, none hangs.
static void *waits_or_fails(void *set) {
    return (void *)(long)(op((int)(long)set, 0, -1, 0) == 0 ? 1 : errno == ENOMEM ? 2 : 3);
}
static void calls_fail_where_nobody_can_wait(void) {
    pthread_t threads[60];
    int set = new_set(1), made = 0, waited = 0;
    while (made < 60 && pthread_create(&threads[made], NULL, waits_or_fails, (void *)(long)set) == 0) {
        made++;
        usleep(5000);
    }
    CHECK(made > 3 && op(set, 0, made, 0) == 0);
    for (int i = 0; i < made; i++) {
        void *result;
        CHECK(pthread_join(threads[i], &result) == 0 && (result == (void *)1 || result == (void *)2));
        waited += result == (void *)1;
    }
    CHECK(waited > 0 && val(set, 0) == made - waited && semctl(set, 0, IPC_RMID) == 0);
}

// Says who it is, has a unit to undo and a segment, and waits to be ended.
static void waits(void) {
    int set = semget(0x77616974, 1, IPC_CREAT | 0600);
    CHECK(op(set, 0, 1, SEM_UNDO) == 0 && shmat(shmget(IPC_PRIVATE, 4096, 0600), NULL, 0) != (void *)-1);
    printf("%d\n", (int)getpid());
    fflush(stdout);
    op(set, 0, -100, 0);
    _exit(9);
}

int main(int count, char **words) {
    static const struct { const char *name; void (*part)(void); } parts[] = {
        {"addresses", bad_addresses_give_efault},
        {"signals", signals_end_waits_and_only_waits},
        {"stop", a_stop_ends_waits_at_semaphores_alone},
        {"one", a_signal_ends_one_wait},
        {"undo", undo_is_of_the_process_and_lasts_to_its_death},
        {"blocked", the_blocked_are_killed_and_counted_no_more},
        {"children", attachments_count_for_children_until_they_execute},
        {"users", a_user_has_that_users_rights},
        {"door", goes_by_the_32_bit_door},
        {"raw", calls_past_the_library_meet_those_through_it},
        {"keys", keys_go_where_they_belong},
        {"waits", waits},
        {"exec", a_program_executed_has_no_old_waiters},
        {"executed", executed},
        {"enters", who_enters_a_namespace_leaves_what_is_to_undo},
        {"shared", memory_of_two_processes_is_counted_once},
        {"crowd", calls_fail_where_nobody_can_wait},
    };
    CHECK(count == 2);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (!strcmp(words[1], parts[i].name)) {
            parts[i].part();
            puts("well");
            return 0;
        }
    }
    return 2;
}
