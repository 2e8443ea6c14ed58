// Threads that share the work of a call, for all that is built here.
//
// They are those of torch's own operations, where these run on GNU's OpenMP: for some milliseconds after each operation its threads
// wait for the next one by running in circles, and threads beside them would share cores with these. A forked child has none of them
// and would wait for them for ever, so there, and where that OpenMP is not, a call begins threads of its own.

#include <stdint.h>
#if !defined(_WIN32)
#include <pthread.h>
#include <unistd.h>
#endif
#if defined(__linux__)
extern "C" __attribute__((weak)) void GOMP_parallel(void (*work)(void*), void* job, unsigned threads, unsigned flags);
#endif

static int64_t process;   // the one that has the threads, as `_build.py` says
extern "C" void in_process(int64_t id) { process = id; }

struct Shared { void (*work)(void*); void* job; };
static void* take_part(void* shared) {
    ((Shared*)shared)->work(((Shared*)shared)->job);
    return 0;
}

// work(job) by so many threads or fewer, this one among them; all are through when it returns.
static void together(void (*work)(void*), void* job, int64_t threads) {
#if defined(_WIN32)   // no such threads
    work(job);
#else
    if (threads < 2) return work(job);
#if defined(__linux__)
    if (GOMP_parallel && process == getpid()) return GOMP_parallel(work, job, (unsigned)threads, 0);
#endif
    Shared shared = {work, job};
    pthread_t others[64];
    int64_t count = 0;
    while (count < 64 && count + 1 < threads && !pthread_create(&others[count], 0, take_part, &shared)) ++count;
    work(job);
    for (int64_t i = 0; i < count; ++i) pthread_join(others[i], 0);
#endif
}
