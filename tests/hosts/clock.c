/* A clock that is wrong: preloaded into every process of a host, it adds to the time of day the
 * seconds that stand, as a double, in /etc/wrong-clock. The file is mapped, so a change of it is
 * seen at once. Times that files get come from the kernel and stay right. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <math.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const double right = 0.0;
static const double *wrong = &right;
static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_sem_timedwait)(sem_t *, const struct timespec *);

__attribute__((constructor)) static void start(void) {
    int fd = open("/etc/wrong-clock", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        void *map = mmap(0, sizeof(double), PROT_READ, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) wrong = map;
        close(fd);
    }
    real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_sem_timedwait = dlsym(RTLD_NEXT, "sem_timedwait");
}

static void shift(struct timespec *at, double by) {
    double whole = floor(by);
    at->tv_sec += (time_t)whole;
    at->tv_nsec += (long)((by - whole) * 1e9);
    if (at->tv_nsec >= 1000000000L) { at->tv_nsec -= 1000000000L; at->tv_sec += 1; }
}

int clock_gettime(clockid_t id, struct timespec *at) {
    if (!real_gettime) real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real_gettime(id, at);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) shift(at, *wrong);
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

/* Its deadline is a time of day, as our caller knows it. */
int sem_timedwait(sem_t *semaphore, const struct timespec *deadline) {
    struct timespec real = *deadline;
    shift(&real, -*wrong);
    return real_sem_timedwait(semaphore, &real);
}
