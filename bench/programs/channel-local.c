/* channel-local.c: what one kernel offers beside System V: shared memory with a futex or an eventfd, and POSIX message queues. Between two
 * processes that fork has made. */
#include "channel.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Looks at the futex before sleeping, about 50 µs: as long as Vshmem spins. */
#define LOOKS 2000

static struct shared {
    _Alignas(64) atomic_uint turn;
    _Alignas(64) char buffer[];
} *shared;
static int me, events[2];
static mqd_t queues[2];
static char *buffer;
static size_t room;

static void share(size_t most)
{
    char name[64];
    snprintf(name, sizeof name, "/exchange-%d", getpid());
    int file = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
    shm_unlink(name);
    if (file < 0 || ftruncate(file, sizeof *shared + most) != 0)
        failed("shm_open");
    shared = mmap(NULL, sizeof *shared + most, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED)
        failed("mmap");
    close(file);
}

static char *shared_open(int role, size_t most)
{
    (void)most;
    me = role;
    return shared->buffer;
}

/* turn: 0 or 1 whose it is; 2 is added by who sleeps for it. */
static void futex_give(size_t bytes)
{
    (void)bytes;
    if (atomic_exchange_explicit(&shared->turn, 1 - me, memory_order_release) & 2)
        syscall(SYS_futex, &shared->turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void futex_take(size_t bytes)
{
    (void)bytes;
    for (int looks = 0;; looks++) {
        unsigned turn = atomic_load_explicit(&shared->turn, memory_order_acquire);
        if ((turn & 1) == (unsigned)me)
            return;
        if (looks < LOOKS) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        } else if (turn & 2 || atomic_compare_exchange_strong(&shared->turn, &turn, turn | 2)) {
            syscall(SYS_futex, &shared->turn, FUTEX_WAIT, turn | 2, NULL, NULL, 0);
        }
    }
}

static void eventfd_prepare(size_t most)
{
    share(most);
    if ((events[0] = eventfd(0, 0)) < 0 || (events[1] = eventfd(0, 0)) < 0)
        failed("eventfd");
}

static void eventfd_give(size_t bytes)
{
    (void)bytes;
    uint64_t one = 1;
    if (write(events[1 - me], &one, sizeof one) != sizeof one)
        failed("eventfd");
}

static void eventfd_take(size_t bytes)
{
    (void)bytes;
    uint64_t count;
    if (read(events[me], &count, sizeof count) != sizeof count)
        failed("eventfd");
}

static void mq_prepare(size_t most)
{
    room = most;
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "/exchange-%d-%d", getpid(), i);
        struct mq_attr attributes = {.mq_maxmsg = 4, .mq_msgsize = most};
        queues[i] = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes);
        mq_unlink(name);
        if (queues[i] == (mqd_t)-1)
            failed("mq_open");
    }
}

static char *mq_open_buffer(int role, size_t most)
{
    me = role;
    return buffer = own_buffer(most);
}

static void mq_give(size_t bytes)
{
    if (mq_send(queues[1 - me], buffer, bytes, 0) != 0)
        failed("mq_send");
}

static void mq_take(size_t bytes)
{
    (void)bytes;
    if (mq_receive(queues[me], buffer, room, NULL) < 0)
        failed("mq_receive");
}

static const struct channel futex = {.name = "futex", .forks = 1, .prepare = share, .open = shared_open, .give = futex_give, .take = futex_take};
static const struct channel events_channel = {
    .name = "eventfd", .forks = 1, .prepare = eventfd_prepare, .open = shared_open, .give = eventfd_give, .take = eventfd_take};
static const struct channel mq = {
    .name = "mq", .forks = 1, .most = 8192, .prepare = mq_prepare, .open = mq_open_buffer, .give = mq_give, .take = mq_take};
const struct channel *const local_channels[] = {&futex, &events_channel, &mq, NULL};
