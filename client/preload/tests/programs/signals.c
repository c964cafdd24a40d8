// Signals: EINTR whatever SA_RESTART says, handlers that use System V IPC themselves, what a handler is told, masks.
#include "check.h"

static volatile sig_atomic_t ran, value, inner_errors;
static int set, queue;
static sigjmp_buf out;

static void count(int s) { (void)s; ran++; }
static void tell(int s, siginfo_t *info, void *context) {
    (void)s; (void)context;
    ran++;
    value = info->si_value.sival_int;
}
static void jump(int s) { (void)s; siglongjmp(out, 1); }
static void operate(int s) {
    (void)s;
    int before = errno;
    if (op(set, 0, 1, IPC_NOWAIT) || op(set, 0, -1, IPC_NOWAIT)) inner_errors++;
    ran++;
    errno = before;
}
static void catch(int s, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    CHECK(sigaction(s, &action, NULL) == 0);
}
static void alarm_in(long micros, long every) {
    struct itimerval t = {{0, every}, {0, micros}};
    CHECK(setitimer(ITIMER_REAL, &t, NULL) == 0);
}

static void blocking_calls_are_interrupted(void) {
    struct { long mtype; char text[512]; } m = {1, ""};
    catch(SIGALRM, count, SA_RESTART);
    ran = 0;
    alarm_in(50000, 0);
    FAILS(op(set, 1, -1, 0), EINTR);
    CHECK(ran == 1 && semctl(set, 1, GETNCNT) == 0);
    alarm_in(50000, 0);
    struct sembuf wait = {1, -1, 0};
    struct timespec time = {5, 0};
    FAILS(semtimedop(set, &wait, 1, &time), EINTR);
    alarm_in(50000, 0);
    FAILS(msgrcv(queue, &m, sizeof m.text, 0, 0), EINTR);
    CHECK(ran == 3);
    while (msgsnd(queue, &m, sizeof m.text, IPC_NOWAIT) == 0) {}
    CHECK(errno == EAGAIN);
    alarm_in(50000, 0);
    FAILS(msgsnd(queue, &m, sizeof m.text, 0), EINTR);
    CHECK(ran == 4);
    while (msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT) >= 0) {}
    CHECK(errno == ENOMSG);
}

static void a_handler_may_use_the_same_set(void) {
    catch(SIGALRM, operate, SA_RESTART);
    ran = inner_errors = 0;
    alarm_in(200, 200);
    time_t end = time(NULL) + 2;
    long done = 0;
    while (time(NULL) < end)
        for (int i = 0; i < 200; i++, done++) {
            struct sembuf both[2] = {{0, 1, SEM_UNDO}, {2, 1, 0}};
            CHECK(semop(set, both, 2) == 0);
            both[0].sem_op = both[1].sem_op = -1;
            CHECK(semop(set, both, 2) == 0);
        }
    alarm_in(0, 0);
    CHECK(inner_errors == 0 && ran > 10 && done > 100);
    CHECK(semctl(set, 0, GETVAL) == 0 && semctl(set, 2, GETVAL) == 0);
}

static void a_handler_may_jump_out_of_a_wait(void) {
    catch(SIGALRM, jump, 0);
    if (sigsetjmp(out, 1) == 0) {
        alarm_in(50000, 0);
        op(set, 1, -1, 0);
        CHECK(!"came back from the wait");
    }
    CHECK(semctl(set, 1, GETNCNT) == 0);
    CHECK(op(set, 1, 1, 0) == 0 && semctl(set, 1, GETVAL) == 1 && op(set, 1, -1, IPC_NOWAIT) == 0);
}

static void handlers_are_told_and_masks_restored(void) {
    struct sigaction action = {.sa_sigaction = tell, .sa_flags = SA_SIGINFO}, old;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(sigaction(SIGUSR1, NULL, &old) == 0);
    CHECK(old.sa_sigaction == tell && old.sa_flags & SA_SIGINFO);
    pid_t parent = getpid(), child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(sleeper(set, 1));
        CHECK(sigqueue(parent, SIGUSR1, (union sigval){.sival_int = 4711}) == 0);
        _exit(0);
    }
    ran = 0;
    FAILS(op(set, 1, -1, 0), EINTR);
    CHECK(ran == 1 && value == 4711);
    CHECK(ends_well(child));
    sigset_t mask;
    CHECK(sigprocmask(SIG_SETMASK, NULL, &mask) == 0);
    for (int s = 1; s < 32; s++) CHECK(sigismember(&mask, s) == 0);
    catch(SIGUSR2, count, SA_RESETHAND);
    raise(SIGUSR2);
    CHECK(sigaction(SIGUSR2, NULL, &old) == 0 && old.sa_handler == SIG_DFL);
    CHECK(signal(SIGUSR2, count) == SIG_DFL);
    CHECK(signal(SIGUSR2, SIG_IGN) == count);
}

static void *waits(void *unused) {
    (void)unused;
    FAILS(op(set, 1, -1, 0), EINTR);
    return NULL;
}
static void a_thread_is_interrupted_alone(void) {
    catch(SIGUSR1, count, SA_RESTART);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, waits, NULL) == 0);
    CHECK(sleeper(set, 1));
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void add(int s, siginfo_t *info, void *context) {
    (void)s; (void)context;
    value += info->si_value.sival_int;
}
static void *showers(void *target) {
    pthread_t thread = *(pthread_t *)target;
    for (int i = 0; i < 3000; i++) {
        while (pthread_sigqueue(thread, SIGRTMIN + 1, (union sigval){.sival_int = 1})) usleep(10);
        if (i % 3 == 0) pthread_kill(thread, SIGUSR1);
        if (i % 7 == 0) pthread_kill(thread, SIGUSR2);
    }
    return NULL;
}
static void no_signal_of_a_shower_is_lost_and_the_mask_stays(void) {
    catch(SIGUSR1, operate, 0);
    catch(SIGUSR2, operate, SA_NODEFER);
    struct sigaction action = {.sa_sigaction = add, .sa_flags = SA_SIGINFO | SA_RESTART}, old;
    sigaddset(&action.sa_mask, SIGUSR1);
    CHECK(sigaction(SIGRTMIN + 1, &action, NULL) == 0);
    CHECK(sigaction(SIGRTMIN + 1, NULL, &old) == 0);
    CHECK(sigismember(&old.sa_mask, SIGUSR1) && !sigismember(&old.sa_mask, SIGUSR2));
    inner_errors = value = 0;
    pthread_t self = pthread_self(), other;
    CHECK(pthread_create(&other, NULL, showers, &self) == 0);
    time_t end = time(NULL) + 20;
    while (value < 3000 && time(NULL) < end) {
        struct sembuf several[3] = {{0, 1, SEM_UNDO}, {1, 1, 0}, {0, -1, SEM_UNDO}}, wait = {1, -1, 0};
        struct timespec little = {0, 100000};
        CHECK(semop(set, several, 3) == 0 && op(set, 1, -1, IPC_NOWAIT) == 0);
        CHECK(semtimedop(set, &wait, 1, &little) == -1 && (errno == EINTR || errno == EAGAIN));
    }
    CHECK(pthread_join(other, NULL) == 0);
    CHECK(value == 3000 && inner_errors == 0 && semctl(set, 0, GETVAL) == 0);
    sigset_t mask;
    CHECK(sigprocmask(SIG_SETMASK, NULL, &mask) == 0);
    for (int s = 1; s <= SIGRTMAX; s++) CHECK(sigismember(&mask, s) <= 0);
}

int main(void) {
    set = new_set(3);
    queue = msgget(IPC_PRIVATE, 0600);
    CHECK(queue >= 0);
    blocking_calls_are_interrupted();
    a_handler_may_use_the_same_set();
    a_handler_may_jump_out_of_a_wait();
    handlers_are_told_and_masks_restored();
    a_thread_is_interrupted_alone();
    no_signal_of_a_shower_is_lost_and_the_mask_stays();
    CHECK(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
    return 0;
}
