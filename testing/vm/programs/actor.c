/* A System V program under remote control: reads a command a line, performs it, answers a line.
 *
 *   = VALUE...      what the call gave
 *   ! ERRNO-NAME    the call failed
 *
 * It knows nothing of Vshmem: the same binary runs on the kernel's own IPC, under `vshmem run`, and in a guest.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

union semun { int val; struct semid_ds *buf; unsigned short *array; struct seminfo *__buf; };
struct message { long mtype; char mtext[65536]; };

/* Where the calling thread answers: standard output, or a pipe of a child or thread (raw.h). */
static __thread FILE *out;
#define say(...) fprintf(out, __VA_ARGS__)

static char *attached[64];
static __thread struct message message;
static volatile sig_atomic_t alarms;

static void on_alarm(int number) { (void)number; alarms++; }

static void answer(long value)
{
	if (value == -1)
		say("! %s\n", strerrorname_np(errno));
	else
		say("= %ld\n", value);
}

static long number(const char *text) { return text ? strtol(text, NULL, 0) : 0; }

static int parse_ops(char **word, int count, struct sembuf *ops)
{
	int n = 0;
	for (int i = 0; i < count && n < 600; i++, n++) {
		int num, op, undo = 0, flags;
		if (sscanf(word[i], "%d:%d:%d", &num, &op, &undo) < 2)
			break;
		flags = (undo & 1 ? SEM_UNDO : 0) | (undo & 2 ? IPC_NOWAIT : 0);
		ops[n] = (struct sembuf){ .sem_num = num, .sem_op = op, .sem_flg = flags };
	}
	return n;
}

static void shm(const char *verb, char **w)
{
	struct shmid_ds ds;
	if (!strcmp(verb, "shmget")) {
		answer(shmget(number(w[0]), number(w[1]), number(w[2])));
	} else if (!strcmp(verb, "shmat")) {
		int i = 0;
		while (i < 63 && attached[i])
			i++;
		char *at = shmat(number(w[0]), NULL, number(w[1]));
		if (at == (char *)-1)
			answer(-1);
		else
			attached[i] = at, answer(i);
	} else if (!strcmp(verb, "shmdt")) {
		long r = shmdt(attached[number(w[0]) & 63]);
		attached[number(w[0]) & 63] = NULL;
		answer(r);
	} else if (!strcmp(verb, "shmrm")) {
		answer(shmctl(number(w[0]), IPC_RMID, NULL));
	} else if (!strcmp(verb, "shmstat")) {
		if (shmctl(number(w[0]), IPC_STAT, &ds) < 0)
			answer(-1);
		else
			say("= %zu %lu %o\n", ds.shm_segsz, (unsigned long)ds.shm_nattch, ds.shm_perm.mode);
	} else if (!strcmp(verb, "peek")) {
		answer(*(volatile int *)(attached[number(w[0]) & 63] + number(w[1])));
	} else if (!strcmp(verb, "poke")) {
		*(volatile int *)(attached[number(w[0]) & 63] + number(w[1])) = number(w[2]);
		answer(0);
	} else if (!strcmp(verb, "add")) { /* add HANDLE OFFSET TIMES: an atomic counter */
		for (long i = number(w[2]); i > 0; i--)
			__atomic_fetch_add((int *)(attached[number(w[0]) & 63] + number(w[1])), 1, __ATOMIC_RELAXED);
		answer(0);
	} else if (!strcmp(verb, "protect")) { /* protect HANDLE: mprotect for writing */
		answer(mprotect(attached[number(w[0]) & 63], 4096, PROT_READ | PROT_WRITE));
	} else {
		say("! no such command\n");
	}
}

static void sem(const char *verb, char **w, int count)
{
	static struct sembuf ops[600];
	union semun arg;
	struct semid_ds ds;
	int id = number(w[0]);
	if (!strcmp(verb, "semget")) {
		answer(semget(number(w[0]), number(w[1]), number(w[2])));
	} else if (!strcmp(verb, "semop")) {
		int n = parse_ops(w + 1, count - 1, ops);
		answer(semop(id, ops, n));
	} else if (!strcmp(verb, "semtimedop")) {
		long ms = number(w[1]);
		struct timespec limit = { ms / 1000, ms % 1000 * 1000000 };
		int n = parse_ops(w + 2, count - 2, ops);
		answer(semtimedop(id, ops, n, &limit));
	} else if (!strcmp(verb, "semcycle")) { /* semcycle ID NUM TIMES: P then V with SEM_UNDO */
		struct sembuf p = { number(w[1]), -1, SEM_UNDO }, v = { number(w[1]), 1, SEM_UNDO };
		long r = 0;
		for (long i = number(w[2]); i > 0 && r == 0; i--)
			r = semop(id, &p, 1) < 0 || semop(id, &v, 1) < 0 ? -1 : 0;
		answer(r);
	} else if (!strcmp(verb, "semagain")) { /* semagain ID TIMES OPERATION...: all of them at once, again and again */
		int n = parse_ops(w + 2, count - 2, ops);
		long r = 0;
		for (long i = number(w[1]); i > 0 && r == 0; i--)
			r = semop(id, ops, n);
		answer(r);
	} else if (!strcmp(verb, "semval")) {
		answer(semctl(id, number(w[1]), GETVAL));
	} else if (!strcmp(verb, "semncnt")) {
		answer(semctl(id, number(w[1]), GETNCNT));
	} else if (!strcmp(verb, "semzcnt")) {
		answer(semctl(id, number(w[1]), GETZCNT));
	} else if (!strcmp(verb, "sempid")) {
		answer(semctl(id, number(w[1]), GETPID));
	} else if (!strcmp(verb, "semset")) {
		arg.val = number(w[2]);
		answer(semctl(id, number(w[1]), SETVAL, arg));
	} else if (!strcmp(verb, "semotime")) {
		arg.buf = &ds;
		answer(semctl(id, 0, IPC_STAT, arg) < 0 ? -1 : (long)ds.sem_otime);
	} else if (!strcmp(verb, "semrm")) {
		answer(semctl(id, 0, IPC_RMID));
	} else {
		say("! no such command\n");
	}
}

static void msg(const char *verb, char **w)
{
	struct msqid_ds ds;
	int id = number(w[0]);
	if (!strcmp(verb, "msgget")) {
		answer(msgget(number(w[0]), number(w[1])));
	} else if (!strcmp(verb, "msgsnd")) { /* msgsnd ID TYPE TEXT FLAGS */
		message.mtype = number(w[1]);
		strncpy(message.mtext, w[2], sizeof message.mtext - 1);
		answer(msgsnd(id, &message, strlen(w[2]), number(w[3])));
	} else if (!strcmp(verb, "msgbig")) { /* msgbig ID TYPE BYTES FLAGS */
		message.mtype = number(w[1]);
		memset(message.mtext, 'x', sizeof message.mtext);
		answer(msgsnd(id, &message, number(w[2]), number(w[3])));
	} else if (!strcmp(verb, "msgrcv")) { /* msgrcv ID SIZE TYPE FLAGS */
		long n = msgrcv(id, &message, number(w[1]), number(w[2]), number(w[3]));
		if (n < 0)
			answer(-1);
		else {
			/* A peer may have written anything: one line of plain text all the same. */
			for (long i = 0; i < n; i++)
				if (message.mtext[i] < ' ' || message.mtext[i] > '~')
					message.mtext[i] = '?';
			say("= %ld %ld %.*s\n", n, message.mtype, (int)(n > 64 ? 64 : n), message.mtext);
		}
	} else if (!strcmp(verb, "msgstat")) {
		if (msgctl(id, IPC_STAT, &ds) < 0)
			answer(-1);
		else
			say("= %lu %lu %lu\n", (unsigned long)ds.msg_qnum, (unsigned long)ds.__msg_cbytes,
			       (unsigned long)ds.msg_qbytes);
	} else if (!strcmp(verb, "msgflood")) { /* msgflood ID TYPE TIMES: numbered messages */
		long r = 0;
		for (long i = 0; i < number(w[2]) && r == 0; i++) {
			message.mtype = number(w[1]);
			r = msgsnd(id, &message, snprintf(message.mtext, 32, "%ld", i), 0);
		}
		answer(r);
	} else if (!strcmp(verb, "msgdrain")) { /* msgdrain ID TYPE TIMES: checks the numbering */
		long r = 0;
		for (long i = 0; i < number(w[2]) && r >= 0; i++) {
			r = msgrcv(id, &message, 64, number(w[1]), 0);
			if (r >= 0 && (message.mtext[r] = 0, atol(message.mtext) != i)) {
				say("! message %ld says %s\n", i, message.mtext);
				return;
			}
		}
		answer(r < 0 ? -1 : 0);
	} else if (!strcmp(verb, "msgrm")) {
		answer(msgctl(id, IPC_RMID, NULL));
	} else {
		say("! no such command\n");
	}
}

static void perform(char **word, int count, char **argv);

#include "raw.h"
#include "settings.h"
#include "grants.h"

static void life(const char *verb, char **w, char **argv)
{
	if (!strcmp(verb, "pid")) {
		answer(getpid());
	} else if (!strcmp(verb, "fork")) { /* a child that waits to be killed */
		pid_t child = fork();
		if (child == 0)
			for (;;)
				pause();
		answer(child);
	} else if (!strcmp(verb, "reap")) {
		kill(number(w[0]), SIGKILL);
		answer(waitpid(number(w[0]), NULL, 0));
	} else if (!strcmp(verb, "exec")) { /* the same program in a new image */
		fflush(stdout);
		setenv("ACTOR_QUIET", "1", 1);
		execv("/proc/self/exe", argv);
		answer(-1);
	} else if (!strcmp(verb, "alarm")) { /* alarm MS [again]: SIGALRM with SA_RESTART, once or each MS; 0: no more */
		struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
		sigaction(SIGALRM, &action, NULL);
		static timer_t timer;
		static int made;
		if (!made)
			made = !timer_create(CLOCK_MONOTONIC, NULL, &timer);
		struct itimerspec when = { .it_value = { number(w[0]) / 1000, number(w[0]) % 1000 * 1000000 } };
		if (w[1])
			when.it_interval = when.it_value;
		answer(timer_settime(timer, 0, &when, NULL));
	} else if (!strcmp(verb, "die")) {
		raise(SIGKILL);
	} else if (!strcmp(verb, "exit")) {
		exit(number(w[0]));
	} else {
		say("! no such command\n");
	}
}

static void perform(char **word, int count, char **argv)
{
	const char *verb = word[0];
	if (raw(verb, word + 1, count - 1, argv) || settings(verb, word + 1, count - 1, argv) ||
	    grants(verb, word + 1, count - 1))
		return;
	if (!strncmp(verb, "shm", 3) || !strcmp(verb, "peek") || !strcmp(verb, "poke") || !strcmp(verb, "add") ||
	    !strcmp(verb, "protect"))
		shm(verb, word + 1);
	else if (!strncmp(verb, "sem", 3))
		sem(verb, word + 1, count - 1);
	else if (!strncmp(verb, "msg", 3))
		msg(verb, word + 1);
	else
		life(verb, word + 1, argv);
}

int main(int argc, char **argv)
{
	static char line[1 << 16];
	(void)argc;
	out = stdout;
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* After exec the new image answers the command that started it. */
	say(getenv("ACTOR_QUIET") ? "= 0\n" : "ready\n");
	while (fgets(line, sizeof line, stdin)) {
		char *word[610] = { 0 };
		int count = 0;
		for (char *at = strtok(line, " \n"); at && count < 600; at = strtok(NULL, " \n"))
			word[count++] = at;
		if (count > 0)
			perform(word, count, argv);
	}
	return 0;
}
