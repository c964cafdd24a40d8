// Pointers that are wrong in every way: EFAULT, in every state of SIGSEGV, and a program's own faults stay its own.
#include "check.h"
#include <ucontext.h>

union argument { int val; void *at; };
static char *edge;     // The end of a page, behind which nothing is mapped.
static char *rodata;   // A page that can only be read.
static char *nothing;  // A page that cannot even be read.
static char *shrunken; // Beyond the end of its file: SIGBUS.
static int set, queue;
struct message { long mtype; char text[8192]; };

static void prepare(void) {
    char *all = mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(all != MAP_FAILED && munmap(all + 4096, 4096) == 0);
    edge = all + 4096;
    rodata = all + 2 * 4096;
    nothing = all + 3 * 4096;
    CHECK(mprotect(rodata, 4096, PROT_READ) == 0 && mprotect(nothing, 4096, PROT_NONE) == 0);
    FILE *file = tmpfile();
    CHECK(file && ftruncate(fileno(file), 4096) == 0);
    shrunken = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    CHECK(shrunken != MAP_FAILED && ftruncate(fileno(file), 0) == 0);
}

static long qnum(void) {
    struct msqid_ds ds;
    CHECK(msgctl(queue, IPC_STAT, &ds) == 0);
    return ds.msg_qnum;
}

static void semaphores(void) {
    void *wrong[] = {NULL, (void *)8, (void *)-8, (void *)0x123456789000, (void *)0x8000123456789000, nothing, shrunken, edge, edge - 3};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        FAILS(semop(set, wrong[i], 1), EFAULT);
        FAILS(semop(set, wrong[i], 2), EFAULT);
        FAILS(semop(set, wrong[i], 100), EFAULT);
        FAILS(semop(-1, wrong[i], 1), EFAULT);
        FAILS(semop(set, wrong[i], 0), EINVAL);
        FAILS(semop(set, wrong[i], 501), E2BIG);
        struct sembuf one = {0, 1, 0};
        if (wrong[i]) FAILS(semtimedop(set, &one, 1, wrong[i]), EFAULT);
        union argument a = {.at = wrong[i]};
        FAILS(semctl(set, 0, GETALL, a), EFAULT);
        FAILS(semctl(set, 0, SETALL, a), EFAULT);
        FAILS(semctl(set, 0, IPC_STAT, a), EFAULT);
        FAILS(semctl(set, 0, IPC_SET, a), EFAULT);
        FAILS(semctl(0, 0, IPC_INFO, a), EFAULT);
        FAILS(semctl(0, 0, SEM_INFO, a), EFAULT);
        FAILS(semctl(0x7fffffff, 0, GETALL, a), EINVAL);
        FAILS(semctl(0x7fffffff, 0, IPC_SET, a), EFAULT);
        FAILS(semctl(set, 0, 99, a), EINVAL);
    }
    // The array ends where nothing is mapped; the operations before it count for nothing.
    struct sembuf two[2] = {{0, 1, 0}, {1, 1, 0}};
    memcpy(edge - sizeof two - 3, two, sizeof two);
    FAILS(semop(set, (void *)(edge - sizeof two + 3), 2), EFAULT);
    memcpy(edge - sizeof two, two, sizeof two);
    CHECK(semop(set, (void *)(edge - sizeof two), 2) == 0);
    CHECK(semctl(set, 0, GETVAL) == 1 && semctl(set, 1, GETVAL) == 1);
    union argument a = {.at = rodata};
    FAILS(semctl(set, 0, GETALL, a), EFAULT);
    FAILS(semctl(set, 0, IPC_STAT, a), EFAULT);
    CHECK(semctl(set, 0, SETALL, a) == 0); // All zero.
    CHECK(semctl(set, 0, GETVAL) == 0 && semctl(set, 1, GETVAL) == 0);
}

static void segments(void) {
    int id = shmget(IPC_PRIVATE, 4096, 0600);
    void *wrong[] = {NULL, (void *)8, (void *)0x123456789000, nothing, shrunken, edge - 40};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        FAILS(shmctl(id, IPC_STAT, wrong[i]), EFAULT);
        FAILS(shmctl(id, IPC_SET, wrong[i]), EFAULT);
        FAILS(shmctl(0, IPC_INFO, wrong[i]), EFAULT);
        FAILS(shmctl(0, SHM_INFO, wrong[i]), EFAULT);
        FAILS(shmctl(0x7fffffff, IPC_STAT, wrong[i]), EINVAL);
    }
    FAILS(shmctl(id, IPC_STAT, (void *)rodata), EFAULT);
    FAILS(shmat(id, (void *)0x123456789001, 0), EINVAL);
    FAILS(shmdt((void *)0x123456789000), EINVAL);
    CHECK(shmctl(id, IPC_RMID, NULL) == 0);
}

static void sends(void) {
    void *wrong[] = {NULL, (void *)8, (void *)0x123456789000, nothing, shrunken, edge - 4};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        FAILS(msgsnd(queue, wrong[i], 1, 0), EFAULT);
        FAILS(msgsnd(queue, wrong[i], 8000, 0), EFAULT);
        FAILS(msgsnd(queue, wrong[i], 9000, 0), EFAULT);
        FAILS(msgsnd(-1, wrong[i], 1, 0), EFAULT);
        FAILS(msgctl(queue, IPC_STAT, wrong[i]), EFAULT);
        FAILS(msgctl(queue, IPC_SET, wrong[i]), EFAULT);
        FAILS(msgctl(0, MSG_INFO, wrong[i]), EFAULT);
    }
    // A type that is there, a text that is not, or not all of it.
    for (int there = 8; there < 4000; there += 997) {
        struct message *m = (void *)(edge - there);
        m->mtype = 1;
        FAILS(msgsnd(queue, m, there - 7, 0), EFAULT);
        FAILS(msgsnd(queue, m, 8000, 0), EFAULT);
        FAILS(msgsnd(queue, m, 8193, 0), EINVAL);
        FAILS(msgsnd(0x7fffffff, m, there - 7, 0), EFAULT);
        m->mtype = 0;
        FAILS(msgsnd(queue, m, there - 7, 0), EINVAL);
        m->mtype = 1;
        CHECK(msgsnd(queue, m, there - 8, 0) == 0);
        static struct message back;
        CHECK(msgrcv(queue, &back, 8192, 0, IPC_NOWAIT) == there - 8);
    }
    CHECK(qnum() == 0);
}

static void send_one(int bytes) {
    static struct message m = {7, ""};
    for (int i = 0; i < bytes; i++) m.text[i] = i;
    CHECK(msgsnd(queue, &m, bytes, 0) == 0);
}

static void receives(void) {
    static struct message back;
    int lengths[] = {0, 1, 5, 200, 1024, 1025, 3000, 4080};
    void *wrong[] = {NULL, (void *)8, (void *)0x123456789000, nothing, rodata, shrunken, edge - 4};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        FAILS(msgrcv(queue, wrong[i], 8192, 0, IPC_NOWAIT), ENOMSG);
        FAILS(msgrcv(queue, wrong[i], -1, 0, IPC_NOWAIT), EINVAL);
        for (unsigned k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            send_one(lengths[k]);
            if (lengths[k]) FAILS(msgrcv(queue, wrong[i], lengths[k] - 1, 0, 0), E2BIG);
            CHECK(qnum() == 1);
            // It was taken: it is lost.
            FAILS(msgrcv(queue, wrong[i], 8192, 0, 0), EFAULT);
            CHECK(qnum() == 0);
        }
    }
    for (unsigned k = 1; k < sizeof lengths / sizeof *lengths; k++) {
        // Room for all but the last byte, then for all of it, whatever msgsz says.
        send_one(lengths[k]);
        FAILS(msgrcv(queue, edge - 7 - lengths[k], 8192, 0, 0), EFAULT);
        CHECK(qnum() == 0);
        send_one(lengths[k]);
        CHECK(msgrcv(queue, edge - 8 - lengths[k], 8192, 0, 0) == lengths[k]);
        send_one(lengths[k]);
        if (msgrcv(queue, &back, 8192, 0, MSG_COPY | IPC_NOWAIT) == lengths[k]) {
            FAILS(msgrcv(queue, nothing, 8192, 0, MSG_COPY | IPC_NOWAIT), EFAULT);
            FAILS(msgrcv(queue, rodata, 4096, 0, MSG_COPY | IPC_NOWAIT), EFAULT);
            FAILS(msgrcv(queue, edge - 100, 101, 0, MSG_COPY | IPC_NOWAIT), EFAULT);
            CHECK(qnum() == 1);
        }
        CHECK(msgrcv(queue, &back, 8192, 0, 0) == lengths[k]);
    }
    // A receiver that waited.
    pid_t child = fork();
    if (!child) {
        usleep(50000);
        send_one(20);
        _exit(0);
    }
    FAILS(msgrcv(queue, nothing, 100, 0, 0), EFAULT);
    CHECK(ends_well(child) && qnum() == 0);
}

static void paths(void) {
    FAILS(open((void *)8, O_RDONLY), EFAULT);
    FAILS(open((void *)0x123456789000, O_RDONLY), EFAULT);
    FAILS(openat(AT_FDCWD, nothing, O_RDONLY), EFAULT);
    memcpy(edge - 9, "/proc/sys", 9);
    FAILS(open(edge - 9, O_RDONLY), EFAULT);
    CHECK(fopen(nothing, "r") == NULL && errno == EFAULT);
}

static void everything(void) {
    semaphores();
    segments();
    sends();
    receives();
    paths();
}

static sigjmp_buf back_to;
static volatile int own_faults, asked;
static void jumps_back(int number) {
    (void)number;
    own_faults++;
    siglongjmp(back_to, 1);
}
static void looks(int number) {
    (void)number;
    // In here SIGSEGV may be blocked.
    FAILS(semop(set, (void *)nothing, 1), EFAULT);
    FAILS(msgsnd(queue, nothing, 1, 0), EFAULT);
    asked++;
}
static void faults_of_its_own(void) {
    if (!sigsetjmp(back_to, 1)) *(volatile char *)nothing = 1;
    else own_faults += 100;
}

static void *in_a_thread(void *unused) {
    sigset_t all, now;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, NULL) == 0);
    everything();
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &now) == 0 && sigismember(&now, SIGSEGV) == 1 && sigismember(&now, SIGBUS) == 1);
    return unused;
}

// How a child ends that does `work`.
static int ends(void (*work)(void)) {
    pid_t child = fork();
    if (!child) {
        work();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}
static void crashes(void) { semaphores(); *(volatile char *)nothing = 1; }
static void crashes_at_a_file(void) { semaphores(); *(volatile char *)shrunken = 1; }
static void is_sent(void) { semaphores(); kill(getpid(), SIGSEGV); pause(); }
static void ignores(void) {
    signal(SIGSEGV, SIG_IGN);
    semaphores();
    kill(getpid(), SIGSEGV);
    CHECK(signal(SIGSEGV, SIG_IGN) == SIG_IGN);
    everything();
}
static void ignores_and_crashes(void) { ignores(); *(volatile char *)nothing = 1; }
static void handles_once(void) {
    struct sigaction act = {.sa_handler = looks, .sa_flags = SA_RESETHAND};
    CHECK(sigaction(SIGSEGV, &act, NULL) == 0);
    everything();
    raise(SIGSEGV);
    CHECK(asked == 1 && sigaction(SIGSEGV, NULL, &act) == 0 && act.sa_handler == SIG_DFL);
    everything();
    raise(SIGSEGV);
}
static void blocked_and_sent(void) {
    sigset_t segv, pending;
    sigemptyset(&segv);
    sigaddset(&segv, SIGSEGV);
    CHECK(sigprocmask(SIG_BLOCK, &segv, NULL) == 0);
    kill(getpid(), SIGSEGV);
    semaphores();
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGSEGV) == 1);
    signal(SIGSEGV, looks);
    CHECK(asked == 0 && sigprocmask(SIG_UNBLOCK, &segv, NULL) == 0 && asked == 1);
}
static void blocks_and_crashes(void) {
    in_a_thread(NULL);
    *(volatile char *)nothing = 1;
}

int main(void) {
    struct sigaction act;
    prepare();
    set = new_set(3);
    queue = msgget(IPC_PRIVATE, 0600);
    CHECK(queue >= 0);
    everything();
    // Of all that a program sees nothing.
    CHECK(sigaction(SIGSEGV, NULL, &act) == 0 && act.sa_handler == SIG_DFL && act.sa_flags == 0);
    CHECK(sigaction(SIGBUS, NULL, &act) == 0 && act.sa_handler == SIG_DFL);
    CHECK(ends(crashes) == SIGSEGV && ends(crashes_at_a_file) == SIGBUS && ends(is_sent) == SIGSEGV);
    CHECK(ends(ignores) == 0 && ends(ignores_and_crashes) == SIGSEGV);
    CHECK(ends(handles_once) == SIGSEGV);
    CHECK(ends(blocked_and_sent) == 0);
    CHECK(ends(blocks_and_crashes) == SIGSEGV);

    act = (struct sigaction){.sa_handler = jumps_back, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGSEGV, &act, NULL) == 0);
    everything();
    faults_of_its_own();
    CHECK(own_faults == 101);
    everything();
    CHECK(sigaction(SIGSEGV, NULL, &act) == 0 && act.sa_handler == jumps_back && (act.sa_flags & ~0x04000000) == SA_RESTART);
    CHECK(signal(SIGSEGV, looks) == jumps_back && signal(SIGUSR1, looks) == SIG_DFL);
    raise(SIGSEGV);
    raise(SIGUSR1);
    CHECK(asked == 2);
    sigset_t all, before;
    sigfillset(&all);
    CHECK(sigprocmask(SIG_SETMASK, &all, &before) == 0);
    everything();
    CHECK(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
    everything();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, in_a_thread, NULL) == 0 && pthread_join(thread, NULL) == 0);
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    CHECK(sigaltstack(&stack, NULL) == 0);
    act = (struct sigaction){.sa_handler = looks, .sa_flags = SA_ONSTACK | SA_NODEFER};
    CHECK(sigaction(SIGSEGV, &act, NULL) == 0);
    raise(SIGSEGV);
    CHECK(asked == 3);
    everything();
    CHECK(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
    return 0;
}
