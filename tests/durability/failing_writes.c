/* LD_PRELOAD: the k-th write to a file of log.db fails. Built by failing_writes.py.

   Counted are pwrite, write, ftruncate, fsync and fdatasync on files whose name begins with "log.db", from
   fault_arm(k, error, forever, half) on: the k-th fails with `error`, with `forever` every later one too; with `half`
   a failing pwrite has written the first half of its bytes. fault_count() tells how many there were. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long counted, fail_at;
static int error_number, fail_forever, write_half;

void fault_arm(long k, int error, int forever, int half) {
    __atomic_store_n(&fail_at, 0, __ATOMIC_SEQ_CST);
    error_number = error, fail_forever = forever, write_half = half;
    __atomic_store_n(&counted, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&fail_at, k, __ATOMIC_SEQ_CST);
}

long fault_count(void) { return __atomic_load_n(&counted, __ATOMIC_SEQ_CST); }

static int of_the_log(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && !strncmp(name, "/log.db", 7);
}

static int fails(int fd) {
    long k = __atomic_load_n(&fail_at, __ATOMIC_SEQ_CST);
    int saved = errno, mine = of_the_log(fd);
    errno = saved;
    if (!mine) return 0;
    long n = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
    return k > 0 && (n == k || (fail_forever && n > k));
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    REAL(pwrite64);
    if (!fails(fd)) return real(fd, bytes, size, at);
    if (write_half && size > 1) real(fd, bytes, size / 2, at);
    errno = error_number;
    return -1;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) { return pwrite64(fd, bytes, size, at); }

ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(write);
    if (!fails(fd)) return real(fd, bytes, size);
    errno = error_number;
    return -1;
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    if (!fails(fd)) return real(fd, size);
    errno = error_number;
    return -1;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fsync(int fd) {
    REAL(fsync);
    if (!fails(fd)) return real(fd);
    errno = error_number;
    return -1;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    if (!fails(fd)) return real(fd);
    errno = error_number;
    return -1;
}
