/* What ping and pong agree on: a page of shared memory and two semaphores. */
#ifndef EXCHANGE_H
#define EXCHANGE_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/shm.h>

#define KEY 0x50494e47
enum { TO_PONG, TO_PING, SEMAPHORES };

struct page {
	char text[100];
};

static inline void fail(const char *what)
{
	perror(what);
	exit(1);
}

static inline int semaphores(void)
{
	int id = semget(KEY, SEMAPHORES, IPC_CREAT | 0600);
	if (id < 0)
		fail("semget");
	return id;
}

static inline int segment(struct page **page)
{
	int id = shmget(KEY, sizeof **page, IPC_CREAT | 0600);
	if (id < 0)
		fail("shmget");
	*page = shmat(id, NULL, 0);
	if (*page == (void *)-1)
		fail("shmat");
	return id;
}

static inline void change(int id, int which, int by)
{
	struct sembuf op = { .sem_num = which, .sem_op = by };
	if (semop(id, &op, 1) < 0)
		fail("semop");
}

#endif
