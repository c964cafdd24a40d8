/* Threads of several processes work on one set and one queue until a time is up, under a signal handler, with fork and exec.
 *
 *   storm SECONDS THREADS ROLE     ROLE: steady, or reborn (executes itself anew every so often)
 *
 * Set 0x5707: semaphore 0 holds permits, taken and given back with SEM_UNDO; semaphore 1 holds permits, taken and given back
 * without; semaphore 2 counts what is done twice over, in one array with semaphore 0. Queue 0x5707: tokens, received and sent on.
 * Whoever counts afterwards finds what was there before, but for what a process held without SEM_UNDO when it was killed.
 * Only `steady` touches what has no undo, so that only `reborn` may be killed.
 *
 * It knows nothing of Vshmem.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct token { long mtype; long value; };

static int set, queue, steady;
static time_t until;
static volatile sig_atomic_t alarms;
static long done[3];

static void on_alarm(int number) { (void)number; alarms++; }

static void fail(const char *what)
{
	fprintf(stderr, "storm: %s: %s\n", what, strerror(errno));
	_exit(1);
}

/* A semop that goes on after signals; EAGAIN is for the caller. */
static int semaphores(struct sembuf *ops, size_t count)
{
	struct timespec limit = { 20, 0 };
	for (;;) {
		if (semtimedop(set, ops, count, &limit) == 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN && (ops->sem_flg & IPC_NOWAIT))
			return -1;
		fail("semtimedop");
	}
}

static void take_and_give(unsigned short number, short flags)
{
	struct sembuf take = { number, -1, flags }, give = { number, 1, flags };
	semaphores(&take, 1);
	semaphores(&give, 1);
	__atomic_fetch_add(&done[0], 1, __ATOMIC_RELAXED);
}

static void array(void)
{
	struct sembuf in[2] = { { 0, -1, SEM_UNDO }, { 2, 1, SEM_UNDO } }, out[2] = { { 2, -1, SEM_UNDO }, { 0, 1, SEM_UNDO } };
	semaphores(in, 2);
	semaphores(out, 2);
	__atomic_fetch_add(&done[1], 1, __ATOMIC_RELAXED);
}

static void pass_on(void)
{
	struct token token;
	ssize_t got;
	while ((got = msgrcv(queue, &token, sizeof token.value, 0, IPC_NOWAIT)) < 0 && errno == EINTR)
		;
	if (got < 0 && errno == ENOMSG)
		return;
	if (got != sizeof token.value)
		fail("msgrcv");
	token.mtype = token.mtype % 5 + 1;
	while (msgsnd(queue, &token, sizeof token.value, 0) < 0)
		if (errno != EINTR)
			fail("msgsnd");
	__atomic_fetch_add(&done[2], 1, __ATOMIC_RELAXED);
}

static void child(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		/* Exits holding a permit, which its undo gives back. */
		struct sembuf take = { 0, -1, SEM_UNDO | IPC_NOWAIT };
		semaphores(&take, 1);
		_exit(0);
	}
	if (pid < 0)
		fail("fork");
	while (waitpid(pid, NULL, 0) < 0)
		if (errno != EINTR)
			fail("waitpid");
}

static void *work(void *number)
{
	unsigned seed = (unsigned)(long)number * 7919u + (unsigned)getpid();
	while (time(NULL) < until) {
		switch (rand_r(&seed) % 64) {
		case 0: child(); break;
		case 1 ... 20: take_and_give(0, SEM_UNDO); break;
		case 21 ... 40: array(); break;
		default:
			if (!steady)
				take_and_give(0, SEM_UNDO);
			else if (rand_r(&seed) % 2)
				take_and_give(1, 0);
			else
				pass_on();
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	int threads = atoi(argv[2]);
	/* The end stands as an absolute time after the first exec. */
	until = atol(argv[1]) < 100000 ? time(NULL) + atol(argv[1]) : atol(argv[1]);
	steady = !strcmp(argv[3], "steady");
	set = semget(0x5707, 0, 0);
	queue = msgget(0x5707, 0);
	if (set < 0 || queue < 0)
		fail("semget or msgget");
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	sigaction(SIGALRM, &action, NULL);
	struct itimerval every = { { 0, 3000 }, { 0, 3000 } };
	time_t end = until;
	if (!steady && end - time(NULL) > 1)
		until = time(NULL) + 1;
	setitimer(ITIMER_REAL, &every, NULL);
	pthread_t *thread = calloc(threads, sizeof *thread);
	for (long i = 0; i < threads; i++)
		if (pthread_create(&thread[i], NULL, work, (void *)i))
			fail("pthread_create");
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	if (until < end) {
		char stands[32];
		/* The timer outlives exec, the handler does not. */
		setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
		signal(SIGALRM, SIG_IGN);
		snprintf(stands, sizeof stands, "%ld", (long)end);
		execl("/proc/self/exe", argv[0], stands, argv[2], argv[3], (char *)NULL);
		fail("execl");
	}
	printf("%ld %ld %ld %d\n", done[0], done[1], done[2], (int)alarms);
	return 0;
}
