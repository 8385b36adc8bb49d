// A host that loads a plug-in with RTLD_DEEPBIND, which binds it to its own libraries first, and exchanges blocks.
// deep PLUGIN [misuse]
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **arguments) {
    void *plugin = dlopen(arguments[1], RTLD_NOW | RTLD_DEEPBIND);
    if (!plugin) {
        puts(dlerror());
        return 2;
    }
    void *(*make)(size_t) = (void *(*)(size_t))dlsym(plugin, "make");
    void (*release)(void *) = (void (*)(void *))dlsym(plugin, "release");
    for (size_t bytes = 1; bytes < 2000; bytes += 7) {
        char *theirs = make(bytes), *ours = malloc(bytes);
        memset(theirs, 1, bytes);
        memset(ours, 1, bytes);
        free(theirs);
        release(ours);
    }
    if (count > 2)
        free((char *)make(1000) + 8);
    puts("done");
    return 0;
}
