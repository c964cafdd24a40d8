/* channel-sysv.c: System V shared memory and semaphores, the paper's Figure 6: nothing is copied, P and V pass control; and message queues, between
 * two programs and within one. The same program with the kernel's, under `vshmem run` and in virtual machines. EXCHANGE_KEY in the environment. */
#include "channel.h"
#include <stdlib.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

static int segment, set, me;
static char *shared;

static int key(void)
{
    const char *text = getenv("EXCHANGE_KEY");
    return text == NULL ? 0x5e4 : strtol(text, NULL, 0);
}

static char *join(int role, size_t most)
{
    me = role;
    segment = shmget(key(), most, IPC_CREAT | 0600);
    if (segment < 0 || (shared = shmat(segment, NULL, 0)) == (void *)-1)
        failed("the segment");
    set = semget(key(), 2, IPC_CREAT | 0600);
    if (set < 0)
        failed("the semaphores");
    return shared;
}

static void give(size_t bytes)
{
    (void)bytes;
    struct sembuf v = {1 - me, 1, 0};
    if (semop(set, &v, 1) != 0)
        failed("V");
}

static void take(size_t bytes)
{
    (void)bytes;
    struct sembuf p = {me, -1, 0};
    if (semop(set, &p, 1) != 0)
        failed("P");
}

static void leave(int role)
{
    shmdt(shared);
    if (role == 0) {
        shmctl(segment, IPC_RMID, NULL);
        semctl(set, 0, IPC_RMID);
    }
}

static int queue;
static struct message {
    long type;
    char text[];
} *message;

static char *queue_join(int role, size_t most)
{
    me = role;
    queue = msgget(key(), IPC_CREAT | 0600);
    if (queue < 0)
        failed("the queue");
    message = (struct message *)own_buffer(sizeof *message + most);
    return message->text;
}

/* A message to party r is of type r + 1. */
static void queue_give(size_t bytes)
{
    message->type = 2 - me;
    if (msgsnd(queue, message, bytes, 0) != 0)
        failed("msgsnd");
}

static void queue_take(size_t bytes)
{
    if (msgrcv(queue, message, bytes, me + 1, 0) != (ssize_t)bytes)
        failed("msgrcv");
}

static void pair_take(size_t bytes)
{
    if (msgrcv(queue, message, bytes, 0, 0) != (ssize_t)bytes)
        failed("msgrcv");
}

static void queue_leave(int role)
{
    if (role == 0)
        msgctl(queue, IPC_RMID, NULL);
}

static const struct channel messages = {
    .name = "msgq", .most = 8192, .open = queue_join, .give = queue_give, .take = queue_take, .close = queue_leave};
static const struct channel pair = {
    .name = "msgpair", .most = 8192, .open = queue_join, .give = queue_give, .take = pair_take, .close = queue_leave};
static const struct channel sysv = {.name = "sysv", .open = join, .give = give, .take = take, .close = leave};
const struct channel *const sysv_channels[] = {&sysv, &messages, &pair, NULL};
