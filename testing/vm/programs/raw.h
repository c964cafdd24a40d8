/* The actor's closer look: whole structures, chosen addresses, bad pointers, other threads and children.
 *
 * Answers with more than one value name them (`mode=600`), so that a reader can compare what means the same
 * everywhere and leave out what cannot.
 */
#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>


/* A pointer by word: null, bad (among the first addresses), wild (where nothing is mapped), torn (the end of a page behind which
 * nothing is mapped), constant (can only be read). */
static void *pointer(const char *text, void *good)
{
	static char *pages;
	if (!text || !strcmp(text, "good"))
		return good;
	if (!pages) {
		pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		munmap(pages + 4096, 4096);
		mprotect(pages + 2 * 4096, 4096, PROT_READ);
	}
	memcpy(pages + 4096 - 12, &(long){1}, sizeof(long)); /* a message's type, where that is asked for */
	if (!strcmp(text, "wild"))
		return (void *)0x123456789000;
	if (!strcmp(text, "torn"))
		return pages + 4096 - 12;
	if (!strcmp(text, "constant"))
		return pages + 2 * 4096;
	return !strcmp(text, "null") ? NULL : (void *)8;
}

/* An address: null, a number, or HANDLE:OFFSET. */
static char *address(const char *text)
{
	int handle;
	long offset;
	if (!text || !strcmp(text, "null"))
		return NULL;
	if (sscanf(text, "%d:%li", &handle, &offset) == 2)
		return attached[handle & 63] + offset;
	return (char *)number(text);
}

static void keep(char *at)
{
	int i = 0;
	while (i < 63 && attached[i])
		i++;
	if (at == (char *)-1)
		answer(-1);
	else
		attached[i] = at, answer(i);
}

static void say_owner(const char *rest, struct ipc_perm *p, key_t key)
{
	say("%s mode=%o uid=%u gid=%u cuid=%u cgid=%u key=%x\n", rest, p->mode, p->uid, p->gid, p->cuid, p->cgid,
	    (unsigned)key);
}

static void say_shm(struct shmid_ds *d)
{
	char text[256];
	snprintf(text, sizeof text, "= segsz=%zu nattch=%lu cpid=%d lpid=%d atime=%ld dtime=%ld ctime=%ld",
		 d->shm_segsz, (unsigned long)d->shm_nattch, d->shm_cpid, d->shm_lpid, (long)d->shm_atime,
		 (long)d->shm_dtime, (long)d->shm_ctime);
	say_owner(text, &d->shm_perm, d->shm_perm.__key);
}

static void say_sem(struct semid_ds *d)
{
	char text[256];
	snprintf(text, sizeof text, "= nsems=%lu otime=%ld ctime=%ld", (unsigned long)d->sem_nsems,
		 (long)d->sem_otime, (long)d->sem_ctime);
	say_owner(text, &d->sem_perm, d->sem_perm.__key);
}

static void say_msg(struct msqid_ds *d)
{
	char text[256];
	snprintf(text, sizeof text, "= qnum=%lu cbytes=%lu qbytes=%lu lspid=%d lrpid=%d stime=%ld rtime=%ld ctime=%ld",
		 (unsigned long)d->msg_qnum, (unsigned long)d->__msg_cbytes, (unsigned long)d->msg_qbytes,
		 d->msg_lspid, d->msg_lrpid, (long)d->msg_stime, (long)d->msg_rtime, (long)d->msg_ctime);
	say_owner(text, &d->msg_perm, d->msg_perm.__key);
}

static int raw_shm(const char *verb, char **w)
{
	struct shmid_ds ds;
	struct shminfo limits;
	struct shm_info usage;
	if (!strcmp(verb, "shmatto")) { /* shmatto ID FLAGS ADDRESS */
		keep(shmat(number(w[0]), address(w[2]), number(w[1])));
	} else if (!strcmp(verb, "shmdtat")) { /* shmdtat ADDRESS: the handle stays */
		answer(shmdt(address(w[0])));
	} else if (!strcmp(verb, "shmapart")) { /* shmapart ADDRESS ADDRESS: the distance */
		say("= %ld\n", (long)(address(w[0]) - address(w[1])));
	} else if (!strcmp(verb, "shmreserve")) { /* shmreserve BYTES: address space with nothing in it */
		keep(mmap(NULL, number(w[0]), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	} else if (!strcmp(verb, "shmunmap")) { /* shmunmap ADDRESS BYTES */
		answer(munmap(address(w[0]), number(w[1])));
	} else if (!strcmp(verb, "shmprotect")) { /* shmprotect ADDRESS BYTES PROT */
		answer(mprotect(address(w[0]), number(w[1]), number(w[2])));
	} else if (!strcmp(verb, "shmcover")) { /* shmcover ADDRESS BYTES: something else over it */
		void *at = mmap(address(w[0]), number(w[1]), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		answer(at == MAP_FAILED ? -1 : 0);
	} else if (!strcmp(verb, "shmmove")) { /* shmmove ADDRESS BYTES NEW-BYTES FLAGS TO */
		keep(mremap(address(w[0]), number(w[1]), number(w[2]), number(w[3]), address(w[4])));
	} else if (!strcmp(verb, "shmforget")) { /* shmforget HANDLE: the number is free again */
		attached[number(w[0]) & 63] = NULL;
		answer(0);
	} else if (!strcmp(verb, "shmclean")) { /* detaches whatever is attached */
		for (int i = 0; i < 64; i++) {
			if (attached[i])
				shmdt(attached[i]);
			attached[i] = NULL;
		}
		answer(0);
	} else if (!strcmp(verb, "shmds")) {
		if (shmctl(number(w[0]), IPC_STAT, &ds) < 0)
			answer(-1);
		else
			say_shm(&ds);
	} else if (!strcmp(verb, "shmindex")) { /* shmindex ID COMMAND: finds ID by index, with SHM_STAT or its like */
		int last = shmctl(0, IPC_INFO, (struct shmid_ds *)&limits), found = 0;
		for (int i = 0; i <= last && !found; i++)
			found = shmctl(i, number(w[1]), &ds) == number(w[0]);
		if (found)
			say_shm(&ds);
		else
			say("= absent\n");
	} else if (!strcmp(verb, "shmset")) { /* shmset ID UID GID MODE */
		ds.shm_perm.uid = number(w[1]), ds.shm_perm.gid = number(w[2]), ds.shm_perm.mode = number(w[3]);
		answer(shmctl(number(w[0]), IPC_SET, &ds));
	} else if (!strcmp(verb, "shmctl")) { /* shmctl ID COMMAND POINTER */
		answer(shmctl(number(w[0]), number(w[1]), pointer(w[2], &ds)));
	} else if (!strcmp(verb, "shmlimits")) {
		if (shmctl(0, IPC_INFO, (struct shmid_ds *)&limits) < 0)
			answer(-1);
		else
			say("= shmmin=%lu shmmni=%lu shmseg=%lu shmmax=%lu shmall=%lu\n", limits.shmmin, limits.shmmni,
			    limits.shmseg, limits.shmmax, limits.shmall);
	} else if (!strcmp(verb, "shmusage")) {
		if (shmctl(0, SHM_INFO, (struct shmid_ds *)&usage) < 0)
			answer(-1);
		else
			say("= used_ids=%d shm_tot=%lu\n", usage.used_ids, usage.shm_tot);
	} else {
		return 0;
	}
	return 1;
}

static int raw_semctl(const char *verb, char **w, int count)
{
	static unsigned short values[65536];
	struct semid_ds ds;
	struct seminfo limits;
	union semun arg;
	int id = number(w[0]);
	memset(&ds, 0, sizeof ds);
	if (!strcmp(verb, "semds")) {
		arg.buf = &ds;
		if (semctl(id, 0, IPC_STAT, arg) < 0)
			answer(-1);
		else
			say_sem(&ds);
	} else if (!strcmp(verb, "semindex")) { /* semindex ID COMMAND */
		arg.__buf = &limits;
		int last = semctl(0, 0, IPC_INFO, arg), found = 0;
		arg.buf = &ds;
		for (int i = 0; i <= last && !found; i++)
			found = semctl(i, 0, number(w[1]), arg) == id;
		if (found)
			say_sem(&ds);
		else
			say("= absent\n");
	} else if (!strcmp(verb, "semchange")) { /* semchange ID UID GID MODE */
		ds.sem_perm.uid = number(w[1]), ds.sem_perm.gid = number(w[2]), ds.sem_perm.mode = number(w[3]);
		arg.buf = &ds;
		answer(semctl(id, 0, IPC_SET, arg));
	} else if (!strcmp(verb, "semctl")) { /* semctl ID NUMBER COMMAND POINTER */
		arg.buf = pointer(w[3], &ds);
		answer(semctl(id, number(w[1]), number(w[2]), arg));
	} else if (!strcmp(verb, "semall")) { /* semall ID HOW-MANY */
		arg.array = values;
		if (semctl(id, 0, GETALL, arg) < 0)
			return answer(-1), 1;
		say("=");
		for (int i = 0; i < number(w[1]); i++)
			say(" %u", values[i]);
		say("\n");
	} else if (!strcmp(verb, "semsetall")) { /* semsetall ID VALUE... */
		for (int i = 1; i < count; i++)
			values[i - 1] = number(w[i]);
		arg.array = values;
		answer(semctl(id, 0, SETALL, arg));
	} else if (!strcmp(verb, "semlimits")) {
		arg.__buf = &limits;
		if (semctl(0, 0, IPC_INFO, arg) < 0)
			answer(-1);
		else
			say("= semmni=%d semmsl=%d semopm=%d semvmx=%d semmap=%d semmns=%d semmnu=%d semume=%d semusz=%d semaem=%d\n",
			    limits.semmni, limits.semmsl, limits.semopm, limits.semvmx, limits.semmap, limits.semmns,
			    limits.semmnu, limits.semume, limits.semusz, limits.semaem);
	} else if (!strcmp(verb, "semusage")) {
		arg.__buf = &limits;
		if (semctl(0, 0, SEM_INFO, arg) < 0)
			answer(-1);
		else
			say("= semusz=%d semaem=%d semmni=%d semmsl=%d semmns=%d semopm=%d semvmx=%d semmap=%d semmnu=%d semume=%d\n",
			    limits.semusz, limits.semaem, limits.semmni, limits.semmsl, limits.semmns, limits.semopm,
			    limits.semvmx, limits.semmap, limits.semmnu, limits.semume);
	} else {
		return 0;
	}
	return 1;
}

static int raw_semop(const char *verb, char **w)
{
	static struct sembuf many[70000];
	int id = number(w[0]), num, op, flags = 0;
	if (!strcmp(verb, "semmany")) { /* semmany ID HOW-MANY NUM:OP */
		sscanf(w[2], "%d:%d", &num, &op);
		for (int i = 0; i < number(w[1]) && i < 70000; i++)
			many[i] = (struct sembuf){ .sem_num = num, .sem_op = op };
		answer(semop(id, many, number(w[1])));
	} else if (!strcmp(verb, "sempointer")) { /* sempointer ID HOW-MANY POINTER */
		answer(semop(id, pointer(w[2], many), number(w[1])));
	} else if (!strcmp(verb, "semlimit")) { /* semlimit ID NUM:OP:FLAGS SECONDS NANOSECONDS|POINTER */
		struct timespec limit = { number(w[2]), w[3] ? number(w[3]) : 0 };
		sscanf(w[1], "%d:%d:%i", &num, &op, &flags);
		many[0] = (struct sembuf){ .sem_num = num, .sem_op = op, .sem_flg = flags };
		answer(semtimedop(id, many, 1, w[3] ? &limit : pointer(w[2], NULL)));
	} else {
		return 0;
	}
	return 1;
}

static int raw_msg(const char *verb, char **w)
{
	struct msqid_ds ds;
	struct msginfo info;
	int id = number(w[0]);
	memset(&ds, 0, sizeof ds);
	if (!strcmp(verb, "msgds")) {
		if (msgctl(id, IPC_STAT, &ds) < 0)
			answer(-1);
		else
			say_msg(&ds);
	} else if (!strcmp(verb, "msgindex")) { /* msgindex ID COMMAND */
		int last = msgctl(0, IPC_INFO, (struct msqid_ds *)&info), found = 0;
		for (int i = 0; i <= last && !found; i++)
			found = msgctl(i, number(w[1]), &ds) == id;
		if (found)
			say_msg(&ds);
		else
			say("= absent\n");
	} else if (!strcmp(verb, "msgchange")) { /* msgchange ID UID GID MODE QBYTES */
		ds.msg_perm.uid = number(w[1]), ds.msg_perm.gid = number(w[2]), ds.msg_perm.mode = number(w[3]);
		ds.msg_qbytes = number(w[4]);
		answer(msgctl(id, IPC_SET, &ds));
	} else if (!strcmp(verb, "msgctl")) { /* msgctl ID COMMAND POINTER */
		answer(msgctl(id, number(w[1]), pointer(w[2], &ds)));
	} else if (!strcmp(verb, "msgsndfrom")) { /* msgsndfrom ID POINTER BYTES FLAGS */
		message.mtype = 1;
		answer(msgsnd(id, pointer(w[1], &message), number(w[2]), number(w[3])));
	} else if (!strcmp(verb, "msgrcvinto")) { /* msgrcvinto ID POINTER BYTES TYPE FLAGS */
		answer(msgrcv(id, pointer(w[1], &message), number(w[2]), number(w[3]), number(w[4])));
	} else if (!strcmp(verb, "msglimits")) {
		if (msgctl(0, IPC_INFO, (struct msqid_ds *)&info) < 0)
			answer(-1);
		else
			say("= msgmax=%d msgmnb=%d msgmni=%d msgpool=%d msgmap=%d msgssz=%d msgtql=%d msgseg=%d\n", info.msgmax,
			    info.msgmnb, info.msgmni, info.msgpool, info.msgmap, info.msgssz, info.msgtql, info.msgseg);
	} else if (!strcmp(verb, "msgusage")) {
		if (msgctl(0, MSG_INFO, (struct msqid_ds *)&info) < 0)
			answer(-1);
		else
			say("= queues=%d messages=%d bytes=%d\n", info.msgpool, info.msgmap, info.msgtql);
	} else {
		return 0;
	}
	return 1;
}

/* Other processes and threads of the actor, each known by a number; their answers come by a pipe. */
static struct { pid_t pid; FILE *answers; } other[64];
struct order { char *word[64]; int count; FILE *out; char **argv; };

static void *in_thread(void *given)
{
	struct order *order = given;
	out = order->out;
	perform(order->word, order->count, order->argv);
	fclose(order->out);
	for (int i = 0; i < order->count; i++)
		free(order->word[i]);
	free(order);
	return NULL;
}

/* child|thread NUMBER COMMAND...: performs it elsewhere; child ends afterwards, childstay stays until killed. */
static void elsewhere(const char *verb, char **w, int count, char **argv)
{
	int n = number(w[0]) & 63, ends[2];
	if (pipe(ends) < 0)
		return answer(-1);
	other[n].answers = fdopen(ends[0], "r");
	other[n].pid = 0;
	if (!strcmp(verb, "thread")) {
		pthread_t thread;
		struct order *order = calloc(1, sizeof *order);
		order->out = fdopen(ends[1], "w");
		order->argv = argv;
		for (order->count = 0; order->count < count - 1 && order->count < 63; order->count++)
			order->word[order->count] = strdup(w[order->count + 1]);
		pthread_create(&thread, NULL, in_thread, order);
		pthread_detach(thread);
		return answer(0);
	}
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing is left when the actor itself is killed */
		out = fdopen(ends[1], "w");
		perform(w + 1, count - 1, argv);
		fclose(out);
		while (!strcmp(verb, "childstay"))
			pause();
		_exit(0);
	}
	close(ends[1]);
	other[n].pid = child;
	answer(0);
}

/* A thread replaces the program by itself. */
static void *executes(void *argv)
{
	setenv("ACTOR_QUIET", "1", 1);
	execv("/proc/self/exe", argv);
	return NULL;
}

/* A thread performs a command, then ends its process. */
static void *quits(void *given)
{
	struct order *order = given;
	out = order->out;
	perform(order->word, order->count, order->argv);
	fflush(out);
	_exit(0);
}

static int raw_threads(const char *verb, char **w, int count, char **argv)
{
	pthread_t thread;
	if (!strcmp(verb, "threadexec")) {
		pthread_create(&thread, NULL, executes, argv);
		pause();
	} else if (!strcmp(verb, "threadquit")) { /* threadquit COMMAND... */
		struct order order = { .out = out, .argv = argv, .count = count };
		memcpy(order.word, w, count * sizeof *w);
		pthread_create(&thread, NULL, quits, &order);
		pause();
	} else if (!strcmp(verb, "vforkexec")) { /* a child that only executes something else */
		pid_t child = vfork();
		if (child == 0) {
			execl("/bin/true", "true", NULL);
			_exit(1);
		}
		int status = -1;
		waitpid(child, &status, 0);
		answer(status);
	} else {
		return 0;
	}
	return 1;
}

static int raw_life(const char *verb, char **w, int count, char **argv)
{
	char line[4096];
	if (!strcmp(verb, "child") || !strcmp(verb, "childstay") || !strcmp(verb, "thread")) {
		elsewhere(verb, w, count, argv);
	} else if (!strcmp(verb, "hear")) { /* hear NUMBER: the answer of a child or thread, and a child's end if it ends */
		int n = number(w[0]) & 63;
		if (!other[n].answers || !fgets(line, sizeof line, other[n].answers))
			say("= nothing\n");
		else
			say("%s", line);
	} else if (!strcmp(verb, "kill")) { /* kill NUMBER SIGNAL */
		answer(kill(other[number(w[0]) & 63].pid, number(w[1])));
	} else if (!strcmp(verb, "bury")) { /* bury NUMBER: waits for a child's end */
		int n = number(w[0]) & 63;
		if (other[n].answers)
			fclose(other[n].answers), other[n].answers = NULL;
		say("= %d\n", waitpid(other[n].pid, NULL, 0) == other[n].pid);
	} else if (!strcmp(verb, "user")) { /* user NUMBER: effective user and group, no further groups; 0 is back to root */
		uid_t id = number(w[0]);
		int r = id ? setgroups(0, NULL) | setegid(id) | seteuid(id) : seteuid(0) | setegid(0);
		answer(r);
	} else if (!strcmp(verb, "ignore")) { /* ignore: SIGALRM is caught, without SA_RESTART */
		struct sigaction action = { .sa_handler = on_alarm };
		answer(sigaction(SIGALRM, &action, NULL));
	} else if (!strcmp(verb, "file")) { /* file PATH COLUMN VALUE: the line of a table whose column has the value */
		char head[1024] = "", *title[32], *field[32];
		FILE *table = fopen(w[0], "r");
		if (!table)
			return answer(-1), 1;
		int columns = 0, found = 0;
		if (fgets(head, sizeof head, table))
			for (char *rest = head, *at; columns < 32 && (at = strtok_r(rest, " \n", &rest)); columns++)
				title[columns] = at;
		while (!found && fgets(line, sizeof line, table)) {
			int n = 0;
			for (char *rest = line, *at; n < 32 && (at = strtok_r(rest, " \n", &rest)); n++)
				field[n] = at;
			for (int i = 0; i < n && i < columns; i++)
				found |= n == columns && !strcmp(title[i], w[1]) && number(field[i]) == number(w[2]);
		}
		fclose(table);
		say("=");
		for (int i = 0; found && i < columns; i++)
			say(" %s=%s", title[i], field[i]);
		say(found ? "\n" : " absent\n");
	} else if (!strcmp(verb, "write")) { /* write PATH WORD...: the words, as sysctl writes them */
		int file = open(w[0], O_WRONLY), length = 0;
		for (int i = 1; i < count; i++)
			length += snprintf(line + length, sizeof line - length, "%s ", w[i]);
		ssize_t written = file < 0 ? -1 : write(file, line, length);
		int why = errno;
		if (file >= 0)
			close(file);
		errno = why;
		answer(written < 0 ? -1 : 0);
	} else if (!strcmp(verb, "read")) { /* read PATH: its first line */
		FILE *file = fopen(w[0], "r");
		if (!file)
			return answer(-1), 1;
		if (!fgets(line, sizeof line, file))
			strcpy(line, "nothing\n");
		fclose(file);
		say("= %s", line);
	} else {
		return 0;
	}
	return 1;
}

static int raw(const char *verb, char **w, int count, char **argv)
{
	return raw_shm(verb, w) || raw_semctl(verb, w, count) || raw_semop(verb, w) || raw_msg(verb, w) ||
	       raw_threads(verb, w, count, argv) || raw_life(verb, w, count, argv);
}
