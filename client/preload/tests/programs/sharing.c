/* Lists of what is to undo that are shared (CLONE_SYSVSEM) and left (unshare), in all the ways C has for it. */
#include "check.h"
#include <sched.h>
#include <sys/syscall.h>
#include <stdint.h>

static int set;

static int value(void) { return semctl(set, 0, GETVAL); }

static void operate(int amount)
{
	struct sembuf op = { 0, amount, SEM_UNDO };
	CHECK(semop(set, &op, 1) == 0);
}

static int comes_to(int wanted)
{
	for (int i = 0; i < 2000 && value() != wanted; i++)
		usleep(2000);
	return value() == wanted;
}

static int adds(void *amount) { operate((int)(intptr_t)amount); return 0; }

static int adds_and_leaves(void *amount)
{
	operate((int)(intptr_t)amount);
	CHECK(unshare(CLONE_SYSVSEM) == 0);
	operate(1);
	return 0;
}

static int executes(void *unused)
{
	(void)unused;
	operate(2);
	execl("/bin/true", "true", NULL);
	return 1;
}

static int forks(void *unused)
{
	(void)unused;
	pid_t child = fork();
	if (child == 0) {
		operate(16); /* a list of its own */
		_exit(0);
	}
	CHECK(waitpid(child, NULL, 0) == child);
	return 0;
}

static void cloned(int (*body)(void *), int amount)
{
	static char stack[4][1 << 16] __attribute__((aligned(64)));
	static int n;
	int status;
	pid_t child = clone(body, stack[n] + sizeof stack[n], CLONE_SYSVSEM | SIGCHLD, (void *)(intptr_t)amount);
	n = (n + 1) % 4;
	CHECK(child > 0);
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The creator of a list dies first: its sharer has it until it dies too. */
static void outlived(void)
{
	int ends[2];
	CHECK(pipe(ends) == 0);
	pid_t first = fork();
	if (first == 0) {
		operate(5);
		pid_t second = syscall(SYS_clone, CLONE_SYSVSEM | SIGCHLD, 0, 0, 0, 0);
		if (second == 0) {
			char byte;
			operate(3);
			close(ends[1]);
			CHECK(read(ends[0], &byte, 1) == 0); /* until the grandparent lets go */
			_exit(0);
		}
		usleep(1000);
		_exit(second < 0);
	}
	close(ends[0]);
	CHECK(waitpid(first, NULL, 0) == first);
	CHECK(comes_to(8));
	usleep(100000);
	CHECK(value() == 8);
	close(ends[1]);
	CHECK(comes_to(0));
}

int main(void)
{
	set = semget(IPC_PRIVATE, 1, 0600);
	CHECK(set >= 0);
	outlived();
	cloned(adds, 4);
	CHECK(value() == 4);
	operate(-4);
	cloned(adds_and_leaves, 4); /* what it did after leaving goes with it, what it did before stays */
	CHECK(comes_to(4));
	operate(-4);
	cloned(executes, 0);
	CHECK(comes_to(2));
	operate(-2);
	cloned(forks, 0);
	CHECK(comes_to(0));
	operate(7);
	CHECK(unshare(CLONE_FILES) == 0 && value() == 7);
	CHECK(syscall(SYS_unshare, CLONE_SYSVSEM) == 0);
	CHECK(comes_to(0));
	/* An unknown flag, memory that is not there. */
	CHECK(unshare(CLONE_SYSVSEM | 1) == -1 && errno == EINVAL);
	CHECK(syscall(SYS_clone3, (void *)8, 64) == -1 && errno == EFAULT);
	CHECK(syscall(SYS_clone3, (void *)8, 8) == -1 && errno == EINVAL);
	CHECK(setns(-1, 0) == -1 && errno == EBADF);
	CHECK(semctl(set, 0, IPC_RMID) == 0);
	return 0;
}
