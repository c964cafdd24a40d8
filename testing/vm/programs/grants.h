/* What a program with root's rights in a guest of Xen can try with its kernel's grant device, past Vshmem. */
#include <sys/ioctl.h>

struct prepare { uint32_t count, pad; uint64_t index; uint32_t domain, reference; };
struct forget { uint64_t index; uint32_t count, pad; };
#define PREPARE _IOC(_IOC_NONE, 'G', 0, sizeof(struct prepare))
#define FORGET _IOC(_IOC_NONE, 'G', 1, sizeof(struct forget))

static char *hoard[8192];
static int hoarded, hoarder = -1;

/* Maps one reference, for writing or only for reading. */
static char *map_reference(int domain, int reference, int protection, uint64_t *index)
{
	struct prepare prepare = { .count = 1, .domain = domain, .reference = reference };
	if (ioctl(hoarder, PREPARE, &prepare) < 0)
		return MAP_FAILED;
	*index = prepare.index;
	char *at = mmap(NULL, 4096, protection, MAP_SHARED, hoarder, prepare.index);
	if (at == MAP_FAILED) {
		struct forget forget = { .index = prepare.index, .count = 1 };
		ioctl(hoarder, FORGET, &forget);
	}
	return at;
}

/* Xenstore, by the kernel's device: a request with its answer. Gives the answer's length, or -1 with errno. */
static long ask_xenstore(uint32_t what, const char *path, const char *value, char *answered, size_t room)
{
	static int xenstore = -1;
	static const struct { const char *word; int number; } words[] = {
		{ "ENOENT", ENOENT }, { "EACCES", EACCES }, { "ENOSPC", ENOSPC }, { "EQUOTA", ENOSPC }, { "E2BIG", E2BIG } };
	char message[4096 + 16];
	uint32_t head[4] = { what, 1, 0, 0 };
	if (xenstore < 0 && (xenstore = open("/dev/xen/xenbus", O_RDWR | O_CLOEXEC)) < 0)
		return -1;
	size_t length = strlen(path) + 1;
	memcpy(message + 16, path, length);
	if (value)
		memcpy(message + 16 + length, value, strlen(value)), length += strlen(value);
	head[3] = length;
	memcpy(message, head, 16);
	if (write(xenstore, message, 16 + length) < 0 || read(xenstore, head, 16) != 16 || head[3] >= room)
		return -1;
	for (size_t got = 0; got < head[3];) {
		ssize_t n = read(xenstore, answered + got, head[3] - got);
		if (n <= 0)
			return -1;
		got += n;
	}
	answered[head[3]] = 0;
	if (head[0] != 16)
		return head[3];
	errno = EIO;
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (!strcmp(answered, words[i].word))
			errno = words[i].number;
	return -1;
}

static int grants(const char *verb, char **w, int count)
{
	static char text[8192];
	if (!strcmp(verb, "forge")) { /* forge DOMAIN FIRST COUNT KEEP: how many of these references can be mapped */
		int found = 0;
		if (hoarder < 0 && (hoarder = open("/dev/xen/gntdev", O_RDWR | O_CLOEXEC)) < 0)
			return answer(-1), 1;
		for (int reference = number(w[1]); reference < number(w[1]) + number(w[2]); reference++) {
			uint64_t index;
			char *at = map_reference(number(w[0]), reference, PROT_READ | PROT_WRITE, &index);
			if (at == MAP_FAILED)
				at = map_reference(number(w[0]), reference, PROT_READ, &index);
			if (at == MAP_FAILED)
				continue;
			found++;
			if (number(w[3]) && hoarded < 8192) {
				hoard[hoarded++] = at;
				continue;
			}
			struct forget forget = { .index = index, .count = 1 };
			munmap(at, 4096);
			ioctl(hoarder, FORGET, &forget);
		}
		answer(found);
	} else if (!strcmp(verb, "hoardpoke")) { /* hoardpoke VALUE: over everything that was kept */
		for (int i = 0; i < hoarded; i++)
			memset(hoard[i], number(w[0]), 4096);
		answer(hoarded);
	} else if (!strcmp(verb, "hoardfree")) { /* what was kept is let go */
		for (int i = 0; i < hoarded; i++)
			munmap(hoard[i], 4096);
		close(hoarder);
		answer(hoarded);
		hoarded = 0, hoarder = -1;
	} else if (!strcmp(verb, "xenstore")) { /* xenstore PATH: what stands there */
		if (ask_xenstore(2, w[0], NULL, text, sizeof text) < 0)
			answer(-1);
		else
			say("= %s\n", text);
	} else if (!strcmp(verb, "xenstorefill")) { /* xenstorefill PATH COUNT: so many entries below it */
		for (long i = 0; i < number(w[1]); i++) {
			char path[256];
			snprintf(path, sizeof path, "%s/%ld/%ld", w[0], i / 100, i);
			if (ask_xenstore(11, path, "rubbish", text, sizeof text) < 0)
				return answer(-1), 1;
		}
		answer(0);
	} else if (!strcmp(verb, "shell")) { /* shell WORD...: what a shell gives as status */
		text[0] = 0;
		for (int i = 0, length = 0; i < count; i++)
			length += snprintf(text + length, sizeof text - length, "%s ", w[i]);
		int status = system(text);
		answer(WIFEXITED(status) ? WEXITSTATUS(status) : 255);
	} else if (!strcmp(verb, "shmcount")) { /* shmcount HANDLE BYTES: bytes that are not zero */
		long count = 0;
		for (long i = 0; i < number(w[1]); i++)
			count += attached[number(w[0]) & 63][i] != 0;
		answer(count);
	} else {
		return 0;
	}
	return 1;
}
