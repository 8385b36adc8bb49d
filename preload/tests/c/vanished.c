// A program that exits after it has changed all that paths and variables depend on, as far as it may.
// vanished EMPTY_DIR
// vanished DIR full   clears its environment, and may then write no byte to a file
// vanished DIR data   likewise, and may then have no more memory
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

extern char **environ;

int main(int count, char **arguments) {
    void *volatile leaked = malloc(77);
    for (char **variable = environ; *variable; variable++)
        memset(*variable, 'x', strlen(*variable));
    clearenv();
    memset(arguments[0], 'x', strlen(arguments[0]));
    if (count > 2) {
        struct rlimit none = {0, 0};
        return setrlimit(strcmp(arguments[2], "data") ? RLIMIT_FSIZE : RLIMIT_DATA, &none);
    }
    if (chdir(arguments[1]))
        return 2;
    if (geteuid() == 0 && (chroot(".") || setgid(65534) || setuid(65534)))
        return 3;
    return leaked == NULL;
}
