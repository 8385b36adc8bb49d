// A daemon: closes every descriptor from FIRST on, and opens COUNT data files of its own, which get the same numbers.
// closed DIR FIRST COUNT [misuse | replace FILE]
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int main(int count, char **arguments) {
    struct rlimit files;
    if (count < 4 || getrlimit(RLIMIT_NOFILE, &files))
        return 2;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    for (int number = atoi(arguments[2]); number < 1100; number++)
        close(number);
    if (count > 5) {
        unlink(arguments[5]);
        int file = open(arguments[5], O_WRONLY | O_CREAT, 0644);
        if (write(file, "payload\n", 8) != 8 || close(file))
            return 3;
    }
    for (int index = 0; index < atoi(arguments[3]); index++) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%d", arguments[1], index);
        int file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
        if (file < 0 || write(file, "payload\n", 8) != 8)
            return 4;
    }
    free(malloc(10));
    if (count == 5)
        free((char *)malloc(1000) + 8);
    return 0;
}
