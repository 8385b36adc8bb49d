// Cancelled threads go on allocating until they reach a cancellation point of their own; `errno` stays as it was.
// cancelled [exit]
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static volatile int reached;

static void *thread(void *ends_process) {
    pthread_cancel(pthread_self());
    // Makes a report due, if the environment asks for one at this signal.
    raise(SIGUSR1);
    errno = 7;
    // More blocks than an ended thread leaves in its cache for the next one: so one call takes the slow path, which
    // reports.
    void *volatile small[100];
    for (int number = 0; number < 100; number++)
        small[number] = malloc(40);
    void *volatile large = malloc(4000);
    for (int number = 0; number < 100; number++)
        free(small[number]);
    free(large);
    if (errno != 7)
        return NULL;
    reached = 1;
    if (ends_process)
        exit(0);
    pthread_testcancel();
    return NULL;
}

int main(int count, char **arguments) {
    (void)arguments;
    // Keeps the library's handler, if the environment asks for a report.
    void (*handler)(int) = signal(SIGUSR1, SIG_IGN);
    if (handler != SIG_DFL)
        signal(SIGUSR1, handler);
    for (int round = 0; round < 3; round++) {
        pthread_t started;
        void *result = NULL;
        reached = 0;
        if (pthread_create(&started, NULL, thread, count > 1 ? &result : NULL) || pthread_join(started, &result))
            return 2;
        if (!reached || result != PTHREAD_CANCELED) {
            printf("reached %d, cancelled %d\n", reached, result == PTHREAD_CANCELED);
            return 1;
        }
    }
    return 0;
}
