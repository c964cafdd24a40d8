/* channel.h: how two parties pass a buffer to and fro. Each kind is a struct channel; exchange.c measures them all alike. */
#ifndef CHANNEL_H
#define CHANNEL_H

#include <stddef.h>

struct channel {
    const char *name;
    /* Whether one program is both parties: it forks, and role 1 is the child. Else two programs are started, one in each domain. */
    int forks;
    /* Largest buffer; 0: any. */
    size_t most;
    /* Before the fork: makes what both parties inherit. May be NULL. */
    void (*prepare)(size_t most);
    /* Each party connects; gives the buffer of most bytes to work in: its own, or the one that both share. */
    char *(*open)(int role, size_t most);
    /* Hands the buffer's first bytes to the other party; waits until the other has handed them back. */
    void (*give)(size_t bytes);
    void (*take)(size_t bytes);
    /* When all is done. May be NULL. */
    void (*close)(int role);
};

extern const struct channel *const sysv_channels[], *const socket_channels[], *const local_channels[], *const zeromq_channels[];

/* Ends the program with what failed and errno's words. */
void failed(const char *what) __attribute__((noreturn));
/* A buffer of one's own. */
char *own_buffer(size_t bytes);

#endif
