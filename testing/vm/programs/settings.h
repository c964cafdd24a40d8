/* The actor's surroundings: privilege, resource limits, time, faults, and semadj lists that are shared or left.
 *
 * Answers are the same wherever a rule is asked: no addresses, no numbers of processes.
 */
#include <linux/capability.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef CLONE_SYSVSEM
#define CLONE_SYSVSEM 0x00040000
#endif

extern int capset(cap_user_header_t head, const cap_user_data_t sets);

/* cap NUMBER 0|1: takes a capability out of the effective ones, or puts it back; rawcap does so past libc's function. */
static int capability(int which, int on, int raw)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2];
	if (syscall(SYS_capget, &head, sets) < 0)
		return -1;
	if (on)
		sets[which / 32].effective |= 1u << which % 32;
	else
		sets[which / 32].effective &= ~(1u << which % 32);
	return raw ? syscall(SYS_capset, &head, sets) : capset(&head, sets);
}

/* Whole seconds of the three kinds as they were remembered. */
static struct { long a, b, c; } remembered[3];

static void times_of(int kind, int id, long *a, long *b, long *c)
{
	struct shmid_ds m;
	struct semid_ds s;
	struct msqid_ds q;
	union semun arg = { .buf = &s };
	*a = *b = *c = 0;
	if (kind == 0 && shmctl(id, IPC_STAT, &m) == 0)
		*a = m.shm_atime, *b = m.shm_dtime, *c = m.shm_ctime;
	if (kind == 1 && semctl(id, 0, IPC_STAT, arg) == 0)
		*a = s.sem_otime, *c = s.sem_ctime;
	if (kind == 2 && msgctl(id, IPC_STAT, &q) == 0)
		*a = q.msg_stime, *b = q.msg_rtime, *c = q.msg_ctime;
}

static int settings_times(const char *verb, char **w)
{
	static const char *const kinds[3] = { "m", "s", "q" };
	static const char *const names[3][3] = { { "atime", "dtime", "ctime" }, { "otime", "none", "ctime" }, { "stime", "rtime", "ctime" } };
	int remember = !strcmp(verb, "remember"), moved = !strcmp(verb, "moved"), present = !strcmp(verb, "present"), kind = 0;
	long a, b, c, now = time(NULL);
	if (!remember && !moved && !present)
		return 0;
	while (kind < 2 && strcmp(kinds[kind], w[0]))
		kind++;
	times_of(kind, number(w[1]), &a, &b, &c);
	if (remember) {
		remembered[kind].a = a, remembered[kind].b = b, remembered[kind].c = c;
		answer(0);
	} else if (moved) { /* which times are later than they were remembered */
		say("= %s=%d %s=%d %s=%d\n", names[kind][0], a > remembered[kind].a, names[kind][1], b > remembered[kind].b,
		    names[kind][2], c > remembered[kind].c);
	} else { /* present m|s|q ID: whether ctime is of these seconds */
		say("= %d\n", c - now < 4 && now - c < 4);
	}
	return 1;
}

/* Another process that shares this one's semadj list, if FLAGS say so: performs the command as a child does. */
static void shared_child(char **w, int count, char **argv)
{
	int n = number(w[0]) & 63, ends[2];
	if (pipe(ends) < 0)
		return answer(-1);
	other[n].answers = fdopen(ends[0], "r");
	fflush(stdout);
	pid_t child;
	if (!strcmp(w[1], "clone3")) {
		uint64_t given[8] = { CLONE_SYSVSEM, 0, 0, 0, SIGCHLD };
		child = syscall(SYS_clone3, given, sizeof given);
	} else {
		child = syscall(SYS_clone, CLONE_SYSVSEM | SIGCHLD, 0, 0, 0, 0);
	}
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		out = fdopen(ends[1], "w");
		perform(w + 2, count - 2, argv);
		fclose(out);
		_exit(0);
	}
	close(ends[1]);
	other[n].pid = child;
	answer(child < 0 ? -1 : 0);
}

static int settings_lists(const char *verb, char **w, int count, char **argv)
{
	if (!strcmp(verb, "sharing")) { /* sharing NUMBER clone|clone3 COMMAND... */
		shared_child(w, count, argv);
	} else if (!strcmp(verb, "unshare")) { /* unshare FLAGS|raw FLAGS */
		int raw = !strcmp(w[0], "raw");
		answer(raw ? syscall(SYS_unshare, number(w[1])) : unshare(number(w[0])));
	} else if (!strcmp(verb, "threadunshare")) { /* threadunshare COMMAND...; a list of its own, then the command, then the end */
		pthread_t thread;
		struct order *order = calloc(1, sizeof *order);
		int ends[2];
		if (pipe(ends) < 0)
			return answer(-1), 1;
		order->out = fdopen(ends[1], "w");
		order->argv = argv;
		order->count = count + 1;
		order->word[0] = strdup("then");
		for (int i = 0; i < count && i < 62; i++)
			order->word[i + 1] = strdup(w[i]);
		pthread_create(&thread, NULL, in_thread, order);
		pthread_join(thread, NULL);
		char line[256] = "= nothing\n";
		FILE *answers = fdopen(ends[0], "r");
		if (!fgets(line, sizeof line, answers))
			strcpy(line, "= nothing\n");
		fclose(answers);
		say("%s", line);
	} else if (!strcmp(verb, "then")) { /* inside threadunshare */
		if (unshare(CLONE_SYSVSEM) < 0)
			answer(-1);
		else
			perform(w, count, argv);
	} else {
		return 0;
	}
	return 1;
}

/* limit as|memlock|files VALUE: the soft limit; of address space, so much more than there is. */
static int limit(const char *which, long value)
{
	struct rlimit now;
	int resource = !strcmp(which, "as") ? RLIMIT_AS : !strcmp(which, "memlock") ? RLIMIT_MEMLOCK : RLIMIT_NOFILE;
	long pages = 0;
	FILE *sizes = fopen("/proc/self/statm", "r");
	if (sizes) {
		if (fscanf(sizes, "%ld", &pages) != 1)
			pages = 0;
		fclose(sizes);
	}
	getrlimit(resource, &now);
	now.rlim_cur = value < 0 ? now.rlim_max : resource == RLIMIT_AS ? (rlim_t)(pages * 4096 + value) : (rlim_t)value;
	return setrlimit(resource, &now);
}

static int stat_by_index(int kind, int index)
{
	struct shmid_ds m;
	struct semid_ds s;
	struct msqid_ds q;
	union semun arg = { .buf = &s };
	return kind == 'm' ? shmctl(index, SHM_STAT_ANY, &m) : kind == 's' ? semctl(index, 0, SEM_STAT_ANY, arg) : msgctl(index, MSG_STAT_ANY, &q);
}

static int highest(int kind, int one, int other)
{
	char room[256];
	struct seminfo limits;
	union semun arg = { .__buf = &limits };
	int first, second, most = -1;
	first = kind == 'm' ? shmctl(0, IPC_INFO, (void *)room) : kind == 's' ? semctl(0, 0, IPC_INFO, arg) : msgctl(0, IPC_INFO, (void *)room);
	second = kind == 'm' ? shmctl(0, SHM_INFO, (void *)room) : kind == 's' ? semctl(0, 0, SEM_INFO, arg) : msgctl(0, MSG_INFO, (void *)room);
	for (int i = 0; i < 32768; i++) {
		int id = stat_by_index(kind, i);
		if (id == one || id == other)
			most = i;
		if (i > first)
			break;
	}
	return first == second && first == most;
}

static int settings(const char *verb, char **w, int count, char **argv)
{
	if (settings_times(verb, w) || settings_lists(verb, w, count, argv))
		return 1;
	if (!strcmp(verb, "highest")) { /* highest m|s|q ID ID: whether IPC_INFO and its like return the larger of their indices */
		answer(highest(*w[0], number(w[1]), number(w[2])));
	} else if (!strcmp(verb, "rawuser")) { /* rawuser NUMBER: the effective user, past libc's function; 0 is back to root */
		answer(syscall(SYS_setresuid, -1, number(w[0]), -1));
	} else if (!strcmp(verb, "cap") || !strcmp(verb, "rawcap")) {
		answer(capability(number(w[0]), number(w[1]), *verb == 'r'));
	} else if (!strcmp(verb, "limit")) {
		answer(limit(w[0], number(w[1])));
	} else if (!strcmp(verb, "sleep")) { /* sleep MS */
		answer(usleep(number(w[0]) * 1000));
	} else if (!strcmp(verb, "fate")) { /* fate NUMBER: how a child ended */
		int n = number(w[0]) & 63, status = 0;
		waitpid(other[n].pid, &status, 0);
		if (other[n].answers)
			fclose(other[n].answers), other[n].answers = NULL;
		say("= %s %d\n", WIFSIGNALED(status) ? "signal" : "exit", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	} else if (!strcmp(verb, "aligned")) { /* aligned HANDLE: where in its page it begins */
		say("= %ld\n", (long)((uintptr_t)attached[number(w[0]) & 63] & 4095));
	} else if (!strcmp(verb, "breakstays")) { /* breakstays ID: whether brk is what it was after attaching */
		char *before = sbrk(0), *at = shmat(number(w[0]), NULL, 0);
		say("= %d\n", at != (char *)-1 && sbrk(0) == before);
		shmdt(at);
	} else if (!strcmp(verb, "code")) { /* code HANDLE: puts down a function that gives 42 */
		memcpy(attached[number(w[0]) & 63], "\xb8\x2a\x00\x00\x00\xc3", 6);
		answer(0);
	} else if (!strcmp(verb, "call")) { /* call HANDLE: calls what stands there */
		int (*function)(void);
		memcpy(&function, &attached[number(w[0]) & 63], sizeof function);
		answer(function());
	} else if (!strcmp(verb, "semkeeps")) { /* semkeeps ID MS NUM:OP: semtimedop; whether its time-out was left alone */
		struct sembuf op = { 0 };
		int num, amount;
		sscanf(w[2], "%d:%d", &num, &amount);
		op.sem_num = num, op.sem_op = amount;
		struct timespec given = { number(w[1]) / 1000, number(w[1]) % 1000 * 1000000 }, was = given;
		int r = semtimedop(number(w[0]), &op, 1, &given), why = errno;
		say("= %s %s\n", r < 0 ? strerrorname_np(why) : "0", memcmp(&given, &was, sizeof was) ? "changed" : "kept");
	} else {
		return 0;
	}
	return 1;
}
