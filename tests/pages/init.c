// The first program of the emulated machine (see `run`): runs each test program of /tests in turn, says how it ended, and
// powers the machine off.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void mounted(const char *what, const char *where) {
    mkdir(where, 0755);
    if (mount(what, where, what, 0, NULL) != 0)
        perror(where);
}

static void run(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "/tests/%s", name);
    printf("=== %s, OS pages of %ld bytes\n", name, sysconf(_SC_PAGESIZE));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execl(path, path, "--test-threads=2", "--skip", "tests::bound::", "--skip", "arenas_that_can_not_be_unmapped", NULL);
        _exit(127);
    }
    int status = -1;
    // Orphans of the tests end here, too.
    while (wait(&status) != child)
        ;
    printf("=== %s: status %d\n", name, status);
    fflush(stdout);
}

int main(void) {
    mounted("proc", "/proc");
    mounted("devtmpfs", "/dev");
    mounted("tmpfs", "/tmp");
    int console = open("/dev/console", O_RDWR);
    for (int file = 0; file < 3; file++)
        dup2(console, file);
    setenv("RUST_BACKTRACE", "0", 1);
    setenv("TMPDIR", "/tmp", 1);
    struct dirent **names;
    int count = scandir("/tests", &names, NULL, alphasort);
    for (int i = 0; i < count; i++)
        if (names[i]->d_name[0] != '.')
            run(names[i]->d_name);
    sync();
    reboot(RB_POWER_OFF);
}
