/* channel-socket.c: TCP and UDP between any two programs, vsock within one machine, a unix socket and a pair of pipes between two processes.
 * EXCHANGE_PEER (the other party's address, for role 0) and EXCHANGE_PORT in the environment. */
#include "channel.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int in = -1, out = -1, both[2], there[2], back[2];
static char *buffer;

static int port(void)
{
    const char *text = getenv("EXCHANGE_PORT");
    return text == NULL ? 7411 : atoi(text);
}

static struct sockaddr_in address(int any)
{
    const char *peer = getenv("EXCHANGE_PEER");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port())};
    address.sin_addr.s_addr = any ? INADDR_ANY : inet_addr(peer == NULL ? "127.0.0.1" : peer);
    return address;
}

/* Nobody waits for ever for a datagram that was lost, or a peer that died. */
static void patience(int socket)
{
    struct timeval time = {20, 0};
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
}

/* Role 1 listens and takes one connection; role 0 connects, for as long as the other is not there yet. */
static char *stream(int role, size_t most, int family, const struct sockaddr *to, const struct sockaddr *any, socklen_t length)
{
    int one = 1;
    if (role == 1) {
        int listener = socket(family, SOCK_STREAM, 0);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        patience(listener);
        if (bind(listener, any, length) != 0 || listen(listener, 1) != 0)
            failed("listen");
        in = accept(listener, NULL, NULL);
        close(listener);
    } else {
        for (int tries = 0; tries < 1000; tries++) {
            in = socket(family, SOCK_STREAM, 0);
            if (connect(in, to, length) == 0)
                break;
            int later = errno == ECONNREFUSED || errno == ECONNRESET || errno == EHOSTUNREACH || errno == ENETUNREACH;
            if (in < 0 || !later)
                failed("connect");
            close(in);
            in = -1;
            usleep(20000);
        }
    }
    if (in < 0)
        failed("accept");
    patience(in);
    out = in;
    return buffer = own_buffer(most);
}

static char *tcp_open(int role, size_t most)
{
    struct sockaddr_in to = address(0), any = address(1);
    stream(role, most, AF_INET, (struct sockaddr *)&to, (struct sockaddr *)&any, sizeof to);
    int one = 1;
    setsockopt(in, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return buffer;
}

static char *vsock_open(int role, size_t most)
{
    struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_port = port(), .svm_cid = VMADDR_CID_LOCAL}, any = to;
    any.svm_cid = VMADDR_CID_ANY;
    return stream(role, most, AF_VSOCK, (struct sockaddr *)&to, (struct sockaddr *)&any, sizeof to);
}

/* Role 0 says hello until role 1, which learns the address from it, answers. */
static char *udp_open(int role, size_t most)
{
    in = out = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = address(0), any = address(1), from;
    socklen_t length = sizeof from;
    char hello = 0;
    if (role == 1) {
        patience(in);
        if (bind(in, (struct sockaddr *)&any, sizeof any) != 0)
            failed("bind");
        if (recvfrom(in, &hello, 1, 0, (struct sockaddr *)&from, &length) != 1)
            failed("no datagram came");
        if (connect(in, (struct sockaddr *)&from, length) != 0 || send(in, &hello, 1, 0) != 1)
            failed("answer");
    } else {
        struct timeval time = {0, 50000};
        setsockopt(in, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
        if (connect(in, (struct sockaddr *)&to, sizeof to) != 0)
            failed("connect");
        int answered = 0;
        for (int tries = 0; tries < 400 && !answered; tries++) {
            send(in, &hello, 1, 0);
            answered = recv(in, &hello, 1, 0) == 1;
            if (!answered)
                usleep(20000);
        }
        if (!answered)
            failed("no answer to a datagram");
        patience(in);
    }
    return buffer = own_buffer(most);
}

static void unix_prepare(size_t most)
{
    (void)most;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, both) != 0)
        failed("socketpair");
}

static char *unix_open(int role, size_t most)
{
    in = out = both[role];
    close(both[1 - role]);
    return buffer = own_buffer(most);
}

static void pipe_prepare(size_t most)
{
    (void)most;
    if (pipe(there) != 0 || pipe(back) != 0)
        failed("pipe");
}

static char *pipe_open(int role, size_t most)
{
    in = role == 0 ? back[0] : there[0];
    out = role == 0 ? there[1] : back[1];
    close(role == 0 ? back[1] : there[1]);
    close(role == 0 ? there[0] : back[0]);
    return buffer = own_buffer(most);
}

static void give(size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t now = write(out, buffer + done, bytes - done);
        if (now <= 0)
            failed("send");
        done += now;
    }
}

static void take(size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t now = read(in, buffer + done, bytes - done);
        if (now <= 0)
            failed("receive");
        done += now;
    }
}

/* Datagrams may be lost or be stragglers of the greeting: what is not of the expected size is passed over. */
static void take_datagram(size_t bytes)
{
    ssize_t now;
    do {
        now = recv(in, buffer, bytes, MSG_TRUNC);
        if (now < 0)
            failed("a datagram was lost");
    } while ((size_t)now != bytes);
}

static void leave(int role)
{
    (void)role;
    close(in);
    if (out != in)
        close(out);
}

static const struct channel tcp = {.name = "tcp", .open = tcp_open, .give = give, .take = take, .close = leave};
static const struct channel udp = {.name = "udp", .most = 32768, .open = udp_open, .give = give, .take = take_datagram, .close = leave};
static const struct channel vsock = {.name = "vsock", .open = vsock_open, .give = give, .take = take, .close = leave};
static const struct channel unix_socket = {
    .name = "unix", .forks = 1, .prepare = unix_prepare, .open = unix_open, .give = give, .take = take, .close = leave};
static const struct channel pipes = {
    .name = "pipe", .forks = 1, .prepare = pipe_prepare, .open = pipe_open, .give = give, .take = take, .close = leave};
const struct channel *const socket_channels[] = {&tcp, &udp, &vsock, &unix_socket, &pipes, NULL};
