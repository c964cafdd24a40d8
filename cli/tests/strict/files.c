// Files below /proc that say something about System V IPC, opened in the ways that programs have. Run at the kernel, in an IPC namespace of its own, and
// under --strict: the same holds.
#include "check.h"
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

// Reads all of a file that is open, and closes it.
static char *text_of(int file) {
    static char text[65536];
    ssize_t bytes = 0, more;
    CHECK(file >= 0);
    while ((more = read(file, text + bytes, sizeof text - 1 - bytes)) > 0) bytes += more;
    CHECK(more == 0 && close(file) == 0);
    text[bytes] = 0;
    return text;
}

// Whether a table has a line for an id.
static int shows(const char *text, int id) {
    char wanted[32];
    snprintf(wanted, sizeof wanted, " %10d ", id);
    return strstr(text, wanted) != NULL;
}

static const char *folder;
static char *linked(const char *name, const char *to) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    CHECK(to == NULL || symlink(to, path) == 0);
    return path;
}

static void tables_are_found_however_they_are_named(void) {
    int segment = shmget(IPC_PRIVATE, 4096, 0600), set = new_set(3), queue = msgget(IPC_PRIVATE, 0600);
    CHECK(segment >= 0 && set >= 0 && queue >= 0);
    CHECK(shows(text_of(open("/proc/sysvipc/shm", O_RDONLY)), segment));
    CHECK(shows(text_of(open("/proc/sysvipc/sem", O_RDONLY)), set));
    CHECK(shows(text_of(open("/proc/sysvipc/msg", O_RDONLY | O_NOFOLLOW)), queue));
    CHECK(!strncmp(text_of(open("/proc/sysvipc/sem", O_RDONLY)), "       key      semid perms      nsems", 38));
    CHECK(shows(text_of(open("/proc//sys/../sysvipc/./shm", O_RDONLY)), segment));
    CHECK(shows(text_of(open("/proc/self/root/proc/sysvipc/shm", O_RDONLY)), segment));
    CHECK(shows(text_of(syscall(SYS_open, "/proc/sysvipc/shm", O_RDONLY)), segment));
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC};
    CHECK(shows(text_of(syscall(SYS_openat2, AT_FDCWD, "/proc/sysvipc/shm", &how, sizeof how)), segment));
    CHECK(shows(text_of(open(linked("shm", "/proc/sysvipc/shm"), O_RDONLY)), segment));
    FAILS(open(linked("shm", NULL), O_RDONLY | O_NOFOLLOW), ELOOP);
    CHECK(shows(text_of(open(strcat(linked("p", "/proc"), "/sysvipc/shm"), O_RDONLY)), segment));
    // From where one is, and from where a descriptor is.
    int there = open("/proc/sysvipc", O_RDONLY | O_DIRECTORY), above = open("/proc", O_PATH);
    CHECK(there >= 0 && above >= 0 && chdir("/proc") == 0);
    CHECK(shows(text_of(openat(there, "shm", O_RDONLY)), segment));
    CHECK(shows(text_of(openat(above, "sysvipc/shm", O_RDONLY)), segment));
    CHECK(shows(text_of(openat(99, "/proc/sysvipc/shm", O_RDONLY)), segment));
    CHECK(shows(text_of(open("sysvipc/shm", O_RDONLY)), segment) && chdir("/") == 0);
    FAILS(openat(99, "sysvipc/shm", O_RDONLY), EBADF);
    // What only has such a name is what it is.
    int own = open(linked("sem", NULL), O_RDWR | O_CREAT, 0600);
    CHECK(own >= 0 && write(own, "mine", 4) == 4 && close(own) == 0);
    CHECK(!strcmp(text_of(open(linked("sem", NULL), O_RDONLY)), "mine"));
    FAILS(open(strcat(linked("no", NULL), "/shm"), O_RDONLY), ENOENT);
    FAILS(open("/proc/sysvipc/shm/", O_RDONLY), ENOTDIR);
    FAILS(open("/proc/sysvipc/shm", O_RDONLY | O_DIRECTORY), ENOTDIR);
    FAILS(open("/proc/sysvipc/shm", O_RDONLY | O_CREAT | O_EXCL, 0600), EEXIST);
    FAILS(syscall(SYS_open, (char *)8, O_RDONLY), EFAULT);
    CHECK(shmctl(segment, IPC_RMID, NULL) == 0 && semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
    CHECK(!shows(text_of(open("/proc/sysvipc/shm", O_RDONLY)), segment) && close(there) == 0 && close(above) == 0);
}

static void descriptors_are_as_of_any_file(void) {
    int lowest = dup(0);
    CHECK(lowest > 0 && close(lowest) == 0);
    int plain = open("/proc/sysvipc/shm", O_RDONLY), closing = open("/proc/sys/kernel/msgmax", O_RDONLY | O_CLOEXEC);
    CHECK(plain == lowest && closing == lowest + 1);
    CHECK(fcntl(plain, F_GETFD) == 0 && fcntl(closing, F_GETFD) == FD_CLOEXEC);
    CHECK((fcntl(plain, F_GETFL) & O_ACCMODE) == O_RDONLY && (fcntl(closing, F_GETFL) & O_ACCMODE) == O_RDONLY);
    FAILS(write(plain, "x", 1), EBADF);
    char first[10] = "", again[10] = "";
    CHECK(read(closing, first, 4) == 4 && pread(closing, again, 4, 0) == 4 && !strcmp(first, again));
    CHECK(lseek(plain, 0, SEEK_SET) == 0);
    struct rlimit before, few = {closing + 1, closing + 1};
    CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
    few.rlim_max = before.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    FAILS(open("/proc/sysvipc/shm", O_RDONLY), EMFILE);
    FAILS(open("/proc/sys/kernel/msgmax", O_RDONLY), EMFILE);
    if (geteuid() == 0)
        FAILS(open("/proc/sys/kernel/msgmax", O_WRONLY), EMFILE);
    CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0 && close(plain) == 0 && close(closing) == 0);
}

static void put(const char *name, const char *words) {
    int file = open(name, O_WRONLY | O_TRUNC);
    CHECK(file >= 0 && write(file, words, strlen(words)) == (ssize_t)strlen(words) && close(file) == 0);
}

static void limits_are_written_with_the_kernels_mistakes(void) {
    struct { long type; char text[8192]; } message = {.type = 1};
    int queue = msgget(IPC_PRIVATE, 0600), status;
    put("/proc/sys/kernel/msgmax", "4000\n");
    CHECK(!strcmp(text_of(open("/proc/sys/kernel/msgmax", O_RDONLY)), "4000\n"));
    FAILS(msgsnd(queue, &message, 4001, 0), EINVAL);
    CHECK(msgsnd(queue, &message, 4000, 0) == 0);
    int file = creat("/proc/sys/kernel/msgmax", 0600);
    FAILS(write(file, "rubbish", 7), EINVAL);
    FAILS(write(file, "-1", 2), EINVAL);
    CHECK(pwrite(file, "8192", 4, 0) == 4 && msgsnd(queue, &message, 8192, 0) == 0);
    CHECK(pwrite(file, "4000", 4, 0) == 4);
    FAILS(msgsnd(queue, &message, 8192, IPC_NOWAIT), EINVAL);
    // In another process's name as well; and what was not closed when it died.
    pid_t child = fork();
    if (child == 0) {
        CHECK(pwrite(file, "5000", 4, 0) == 4);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    FAILS(msgsnd(queue, &message, 5001, IPC_NOWAIT), EINVAL);
    put("/proc/sys/kernel/msgmax", "8192");
    file = open("/proc/sys/kernel/sem", O_RDWR);
    FAILS(write(file, "32000 1024000000 500 99999", 26), ERANGE);
    CHECK(!strcmp(text_of(open("/proc/sys/kernel/sem", O_RDONLY)), "32000\t1024000000\t500\t32000\n"));
    CHECK(close(file) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
    child = fork();
    if (child == 0) {
        CHECK(setuid(12345) == 0);
        FAILS(open("/proc/sys/kernel/msgmax", O_WRONLY), EACCES);
        CHECK(!strcmp(text_of(open("/proc/sys/kernel/msgmax", O_RDONLY)), "8192\n"));
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    // Numbers that are used once; the same again, too.
    for (int turn = 0; turn < 3; turn++) {
        put("/proc/sys/kernel/shm_next_id", "77");
        int first = shmget(IPC_PRIVATE, 1, 0600), second = shmget(IPC_PRIVATE, 1, 0600);
        CHECK((first & 0x7fff) == 77 && (second & 0x7fff) != 77);
        CHECK(!strcmp(text_of(open("/proc/sys/kernel/shm_next_id", O_RDONLY)), "-1\n"));
        CHECK(shmctl(first, IPC_RMID, NULL) == 0 && shmctl(second, IPC_RMID, NULL) == 0);
    }
}

int main(int count, char **words) {
    CHECK(count == 2);
    folder = words[1];
    tables_are_found_however_they_are_named();
    descriptors_are_as_of_any_file();
    if (geteuid() == 0)
        limits_are_written_with_the_kernels_mistakes();
    puts("well");
    return 0;
}
