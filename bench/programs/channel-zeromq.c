/* channel-zeromq.c: ZeroMQ's ipc transport, a pair of sockets between two processes that fork has made. Without its header this is no channel at all. */
#include "channel.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef WITH_ZEROMQ
#include <zmq.h>

static char name[64], *buffer;
static void *context, *pair;

static void prepare(size_t most)
{
    (void)most;
    snprintf(name, sizeof name, "ipc:///tmp/exchange-%d", getpid());
}

static char *join(int role, size_t most)
{
    context = zmq_ctx_new();
    pair = zmq_socket(context, ZMQ_PAIR);
    if (pair == NULL || (role == 0 ? zmq_bind(pair, name) : zmq_connect(pair, name)) != 0)
        failed("ZeroMQ");
    return buffer = own_buffer(most);
}

static void give(size_t bytes)
{
    if (zmq_send(pair, buffer, bytes, 0) != (int)bytes)
        failed("zmq_send");
}

static void take(size_t bytes)
{
    if (zmq_recv(pair, buffer, bytes, 0) != (int)bytes)
        failed("zmq_recv");
}

static void leave(int role)
{
    zmq_close(pair);
    zmq_ctx_term(context);
    if (role == 0)
        unlink(name + 6);
}

static const struct channel zeromq = {.name = "zeromq", .forks = 1, .prepare = prepare, .open = join, .give = give, .take = take, .close = leave};
const struct channel *const zeromq_channels[] = {&zeromq, NULL};
#else
const struct channel *const zeromq_channels[] = {NULL};
#endif
