/* A hostile guest: maps all of the pool that its kernel can reach and writes rubbish over it.
 *
 * usage: scribble BYTES SECONDS [FROM]
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <glob.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static int ivshmem(void)
{
	char path[300], id[16] = "";
	glob_t all;
	int found = -1;
	if (glob("/sys/bus/pci/devices/*/device", 0, NULL, &all))
		return -1;
	for (size_t i = 0; i < all.gl_pathc && found < 0; i++) {
		FILE *file = fopen(all.gl_pathv[i], "r");
		if (file && fgets(id, sizeof id, file) && !strcmp(id, "0x1110\n")) {
			char *name = strrchr(all.gl_pathv[i], '/');
			*name = 0;
			snprintf(path, sizeof path, "%s/resource2", all.gl_pathv[i]);
			found = open(path, O_RDWR);
		}
		if (file)
			fclose(file);
	}
	globfree(&all);
	return found;
}

int main(int argc, char **argv)
{
	size_t bytes = argc > 1 ? strtoul(argv[1], NULL, 0) : 0;
	long seconds = argc > 2 ? atol(argv[2]) : 1;
	/* A UML guest's pool, or the memory of the first ivshmem device. */
	int device = open("/dev/mmapper", O_RDWR);
	if (device < 0)
		device = ivshmem();
	if (device < 0) {
		perror("the pool");
		return 1;
	}
	uint32_t *pool = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	if (pool == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	uint64_t x = 0x9e3779b97f4a7c15u, writes = 0;
	size_t words = bytes / 4;
	printf("scribbling\n");
	fflush(stdout);
	for (time_t end = time(NULL) + seconds; time(NULL) < end;) {
		for (int i = 0; i < 100000; i++, writes++) {
			x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
			uint32_t value = x >> 20;
			/* Rubbish that is nearly right is the hardest: small numbers, small offsets, flipped bits. */
			size_t at = (x >> 8) % words;
			switch (x & 7) {
			case 0: value = 0; break;
			case 1: value &= 15; break;
			case 2: value = (value % 65536) & ~7u; break;
			case 3: value = 0xffffffff; break;
			case 4: value = pool[at] ^ 1u << (value % 32); break;
			}
			pool[at] = value;
		}
	}
	/* And, to be sure that nothing was spared, everything once. */
	memset(pool, 0xa5, bytes);
	printf("wrote %lu words and then everything\n", (unsigned long)writes);
	return 0;
}
